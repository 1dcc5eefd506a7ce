"""Networks for a while: in evaluation mode, frozen, or both with each weight formed once; afterwards as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["FormedWeights", "evaluating", "fixed", "frozen", "kept_in_evaluation", "training"]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule has the mode that it had, also a mixed one.

    The flags are set directly: a submodule whose ``train`` does more than that (folding weights) is not disturbed.

    >>> network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    >>> with evaluating(network):
    ...     [m.training for m in network]
    [False, False]
    >>> [m.training for m in network]
    [True, True]
    """
    with _in_mode(False, modules):
        yield


@contextmanager
def training(*modules: nn.Module) -> Iterator[None]:
    """Training mode inside, as :func:`evaluating` is for the other one."""
    with _in_mode(True, modules):
        yield


def kept_in_evaluation(model: nn.Module) -> list[nn.Module]:
    """The layers of a model in training mode that somebody put in evaluation mode, as to keep the statistics of batch
    normalisation.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> _ = model[1].eval()
    >>> kept_in_evaluation(model) == [model[1]]
    True
    >>> kept_in_evaluation(model.eval())
    []
    """
    return [layer for layer in model.modules() if not layer.training] if model.training else []


@contextmanager
def _in_mode(mode: bool, modules: tuple[nn.Module, ...]) -> Iterator[None]:
    before = [(submodule, submodule.training) for module in modules for submodule in module.modules()]
    try:
        for submodule, _ in before:
            submodule.training = mode
        yield
    finally:
        for submodule, own in before:
            submodule.training = own


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside; ``.grad`` is left alone.

    >>> network = nn.Linear(1, 1)
    >>> with frozen(network):
    ...     network.weight.requires_grad
    False
    >>> network.weight.requires_grad
    True
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def fixed(*modules: nn.Module) -> Iterator[None]:
    """Networks as an attack needs them: in evaluation mode, frozen, each parametrized weight formed once."""
    with evaluating(*modules), frozen(*modules), _formed_once({}):
        yield


@contextmanager
def _formed_once(cache: dict[Any, Tensor | None]) -> Iterator[None]:
    """Parametrized weights are formed once, and kept in ``cache``."""
    # A cache that the caller has open is set aside: weights formed here carry no graph, and the caller's training
    # step, finding them there, would silently train nothing.
    outside, parametrize._cache = parametrize._cache, cache
    try:
        with parametrize.cached():
            yield
    finally:
        parametrize._cache = outside


@final
class FormedWeights:
    """The parametrized weights of a network, kept for as long as nothing that they are formed from changes.

    Whether it did is asked of torch's version counters, which see every change in place but those by way of ``.data``,
    and of the storage, which sees the others.

    >>> network = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    >>> weights = FormedWeights()
    >>> with frozen(network), weights.kept(network):
    ...     before = network.weight
    >>> with frozen(network), weights.kept(network):
    ...     network.weight is before
    True
    """

    def __init__(self) -> None:
        self._cache: dict[Any, Tensor | None] = {}
        self._sources: list[tuple[Tensor, int, int]] = []

    @contextmanager
    def kept(self, network: nn.Module) -> Iterator[None]:
        """Weights that are formed in the block, without a graph, are found again in the next one."""
        sources = _sources(network)
        if torch.is_inference_mode_enabled() or sources is None:
            with _formed_once({}):
                yield
            return
        if len(sources) != len(self._sources) or any(
            a is not b or changes != before or place != there
            for (a, changes, place), (b, before, there) in zip(sources, self._sources, strict=True)
        ):
            self._cache, self._sources = {}, sources
        with _formed_once(self._cache) if sources else contextlib.nullcontext():
            yield


def _sources(network: nn.Module) -> list[tuple[Tensor, int, int]] | None:
    """What the parametrized weights are formed from, how often each tensor was changed, and where it lies; None where
    torch does not count changes."""
    tensors: list[Tensor | None] = []
    waiting = [(network, False)]
    while waiting:  # by hand, as this stands before every query: `modules()` takes several times as long
        module, forms = waiting.pop()
        if forms:
            tensors += [*module._parameters.values(), *module._buffers.values()]
        waiting += [
            (child, forms or name == "parametrizations") for name, child in module._modules.items() if child is not None
        ]
    held = [t for t in tensors if t is not None]
    return None if any(t.is_inference() for t in held) else [(t, t._version, t.data_ptr()) for t in held]
