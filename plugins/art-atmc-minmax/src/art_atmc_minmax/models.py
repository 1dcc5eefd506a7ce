"""Networks as risk domains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from art_atmc.attacks import Problem
from art_atmc.classifiers import Network
from art_atmc_minmax.domains import Domains

__all__ = ["Models", "check_alike"]


@final
@dataclasses.dataclass(frozen=True)
class Models(Domains):
    """The domains are networks: one perturbation an input that fools all of them.

    :param members: torch modules that map inputs to logits, or ART ``PyTorchClassifier``s, whose preprocessing is
        then part of them. The network of the problem takes part only where it is one of them.
    :param titles: what to call them; numbered by default.
    :raises ValueError: for an empty list, and naming the classifiers whose inputs, classes or clip values differ, and
        networks on several devices.

    >>> Models([nn.Linear(1, 2), nn.Linear(1, 2)]).names
    ('network 1', 'network 2')
    """

    members: tuple[nn.Module, ...]
    titles: tuple[str, ...]

    def __init__(self, networks: Iterable[Any], names: Iterable[str] | None = None) -> None:
        given = list(networks)
        if not given:
            raise ValueError("`networks` is empty; give at least one network")
        check_alike(given)
        modules = tuple(_module(network) for network in given)
        devices = {str(tensor.device) for module in modules for tensor in module.state_dict().values()}
        if len(devices) > 1:
            raise ValueError(f"the networks are on several devices, {', '.join(sorted(devices))}; move them to one")
        called = tuple(names) if names is not None else tuple(f"network {k + 1}" for k in range(len(given)))
        if len(called) != len(given):
            raise ValueError(f"`names` must have one for each of {len(given)} networks, got {len(called)}")
        object.__setattr__(self, "members", modules)
        object.__setattr__(self, "titles", called)

    @property
    def names(self) -> tuple[str, ...]:
        return self.titles

    def networks(self, problem: Problem) -> Sequence[nn.Module]:
        return self.members

    def answers(self, problem: Problem, points: Tensor) -> Sequence[Tensor]:
        answers = [network(points) for network in self.members]
        if len({answer.shape for answer in answers}) > 1:
            shapes = ", ".join(f"{n}: {tuple(a.shape)}" for n, a in zip(self.names, answers, strict=True))
            raise ValueError(f"the networks answer with other shapes, {shapes}; all need the same classes")
        return answers


def check_alike(classifiers: Sequence[Any]) -> None:
    """
    :raises ValueError: naming the ART classifiers whose inputs, classes or clip values are not those of the first.
    """
    from art.estimators.classification import PyTorchClassifier

    known = [(k, c) for k, c in enumerate(classifiers) if isinstance(c, PyTorchClassifier)]
    faults = []
    for what, of in (
        ("input_shape", lambda c: tuple(c.input_shape)),
        ("nb_classes", lambda c: c.nb_classes),
        ("clip_values", lambda c: None if c.clip_values is None else tuple(str(v) for v in c.clip_values)),
        ("device", lambda c: str(c.device)),
    ):
        values = [(k, of(c)) for k, c in known]
        faults += [f"{what} of network {k + 1} is {v}, of network {values[0][0] + 1} {values[0][1]}"
                   for k, v in values[1:] if v != values[0][1]]  # fmt: skip
    if faults:
        raise ValueError(f"one perturbation can't be for unlike classifiers: {'; '.join(faults)}; build them alike")


def _module(network: Any) -> nn.Module:
    if isinstance(network, nn.Module):
        return network
    from art.estimators.classification import PyTorchClassifier

    if not isinstance(network, PyTorchClassifier):
        raise TypeError(
            f"networks must be torch modules or ART PyTorchClassifiers, got {type(network).__name__}; wrap the module "
            "as PyTorchClassifier(model, loss, input_shape, nb_classes, clip_values=(0, 1))"
        )
    low, high = (0.0, 1.0) if network.clip_values is None else network.clip_values
    low, high = torch.as_tensor(low, dtype=torch.float32), torch.as_tensor(high, dtype=torch.float32)
    share = torch.linspace(0, 1, 2 * network.input_shape[-1]).reshape(2, *[1] * (len(network.input_shape) - 1), -1)
    sample = (low + (high - low) * share).expand(2, *network.input_shape).to(network.device)
    return Network(network, sample.contiguous())
