"""A budget of non-zeros that is moved from outside while a network trains."""

from __future__ import annotations

import dataclasses
from typing import final

from art_atmc import Constraint, Sparsity, Weights

__all__ = ["Knob", "Steered"]


@final
class Knob:
    """How many weights may differ from zero now, as a share of the dense network's; owned by whoever moves it."""

    def __init__(self) -> None:
        self.density = 1.0

    def set_(self, density: float, dense_size: int) -> None:
        """A density of whole weights, at least one of them."""
        self.density = max(1, min(dense_size, round(density * dense_size))) / dense_size

    def __repr__(self) -> str:
        return "Knob()"  # the same at every moment, so that a run can be taken up again


@final
@dataclasses.dataclass(frozen=True)
class Steered(Constraint):
    r"""The set of :class:`art_atmc.Sparsity` at the density that a controller has chosen by now.

    >>> import torch
    >>> knob = Knob()
    >>> knob.set_(0.5, dense_size=2)
    >>> Steered(knob).project(Weights({"w": torch.tensor([1.0, 2.0])}))["w"].tolist()
    [0.0, 2.0]
    """

    knob: Knob

    @property
    def now(self) -> Sparsity:
        return Sparsity(self.knob.density)

    def project(self, weights: Weights) -> Weights:
        return self.now.project(weights)
