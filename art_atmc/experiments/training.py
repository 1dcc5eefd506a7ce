r"""How the weights of an experiment are trained, whatever they have to obey: optimizer, learning rate and attack.

Two ways, each one line of the same parts:

* *paper*: stochastic gradient descent against several steps from a random start, as the released code of the ATMC paper
  trains. It leaves everything else to the settings that suit the data;
* *fast*: Adam, its rate up and down once, against one step from each example's own last perturbation, to which the
  gradient of the training step adds a second one; every fifth batch begins again from the examples themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, final

import torch
from torch import nn

from art_atmc.training.rates import OneCycle

__all__ = ["OPTIMIZERS", "TRAININGS", "Training", "training"]

OPTIMIZERS: Final[Mapping[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]]] = MappingProxyType(
    {
        "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=1e-4),
        # Fused: with small batches the loop over tensors would take a tenth of a step.
        "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, fused=True),
    }
)
"""(parameters, learning rate) -> optimizer, by name."""


@final
@dataclasses.dataclass(frozen=True)
class Training:
    r"""One way to train.

    :param optimizer: a name in :data:`OPTIMIZERS`.
    :param recycled: whether the attack goes on from each example's last perturbation, or from a random start.
    :param reach: length of the attack's steps together, in radii: a step is reach / max_iter of eps.
    :param preset: settings that it brings along, by their names in :class:`~art_atmc.experiments.settings.Settings`;
        what the user says goes first.
    """

    optimizer: str
    recycled: bool
    reach: float
    preset: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# fmt: off
TRAININGS: Final[Mapping[str, Training]] = MappingProxyType({
    "paper": Training("sgd", recycled=False, reach=1.25),
    "fast": Training("adam", recycled=True, reach=1 / 3, preset=MappingProxyType({
        "max_iter": 1, "first_iter": 8, "fresh": 0.2, "clean_share": 0.0, "batch_size": 32, "lr": 2e-3,
        "rate": OneCycle(0.2)})),
})
# fmt: on


def training(name: str) -> Training:
    """By name.

    :raises ValueError: for a name that there is not.

    >>> training("fast").optimizer
    'adam'
    """
    if name not in TRAININGS:
        raise ValueError(f"`training` must be one of {', '.join(TRAININGS)}, got {name!r}")
    return TRAININGS[name]
