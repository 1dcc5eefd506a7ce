"""Networks for a while: in evaluation mode, frozen, or both with each weight formed once; afterwards as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.utils import parametrize

__all__ = ["evaluating", "fixed", "frozen"]


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
    modes = [(submodule, submodule.training) for module in modules for submodule in module.modules()]
    try:
        for submodule, _ in modes:
            submodule.training = False
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


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
    # A cache that the caller has open is set aside: weights formed here carry no graph, and the caller's training
    # step, finding them there, would silently train nothing.
    outside, parametrize._cache = parametrize._cache, {}
    try:
        with evaluating(*modules), frozen(*modules), parametrize.cached():
            yield
    finally:
        parametrize._cache = outside
