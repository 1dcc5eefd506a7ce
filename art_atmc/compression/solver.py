"""What a solver is: see :mod:`art_atmc.compression.solvers` for those that there are."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, final

import torch

from art_atmc.compression.constraints import Constraint
from art_atmc.compression.projection import project, require_finite
from art_atmc.compression.schedule import Ramp
from art_atmc.compression.weights import Weights
from art_atmc.support.numbers import Whole

__all__ = ["Solver", "SolverFactory"]


class Solver(abc.ABC):
    """Makes ``weights`` obey ``constraint`` from inside the steps of any optimizer.

    :param weights: the parameters themselves, as :func:`art_atmc.compressible` returns them.
    :param constraint: what must hold when :meth:`finalize` has run.
    :param every: act after every so many optimizer steps.
    :param ramp: how the constraint tightens over the run; by default it acts in full from the first step.
    :raises ValueError: when ``every`` is below 1 or the constraint refuses the weights.
    """

    def __init__(self, weights: Weights, constraint: Constraint, *, every: int = 1, ramp: Ramp | None = None) -> None:
        constraint.check(weights)
        self.weights = weights
        self.constraint = constraint
        self.every: int = Whole(1, None, "it counts optimizer steps").plain("every", every)
        self.ramp = ramp or Ramp()
        self.steps = 0

    @final
    @property
    def acting(self) -> Constraint | None:
        """The constraint as it acts now, perhaps relaxed; None before the ramp starts."""
        progress = self.ramp.progress(self.steps)
        return None if progress is None else self.constraint.relaxed(progress)

    def add_penalty_grad_(self) -> None:
        """Before an optimizer step: add the gradient of the penalty to the weights' gradients, in place."""

    def restore(self) -> None:
        """Before an optimizer step, after all gradients: put back, in place, what the optimizer is to step from, where
        that differs from the weights that the network computes with."""

    @final
    def step(self) -> None:
        """After an optimizer step: count it and, every so often, enforce the constraint as it acts now.

        :raises FloatingPointError: when the step left a weight infinite or NaN.
        :raises RuntimeError: when the constraint fails, see :func:`project`; the weights stay as they were.
        """
        self.steps += 1
        if self.steps % self.every == 0 and (acting := self.acting) is not None:
            require_finite(self.weights)  # projecting NaN or infinities would hide where they came from
            self.enforce(acting)

    @abc.abstractmethod
    def enforce(self, constraint: Constraint) -> None:
        """Move the weights, or what the solver holds for them, towards ``constraint``."""

    @final
    def finalize(self) -> None:
        """Put the weights on the constraint's set, in place. Feasible weights stay bit for bit."""
        self.weights.assign_(project(self.constraint, self.weights.detach()))

    @final
    def holds(self) -> bool:
        """Whether the weights obey the constraint, P(w) = w."""
        weights = self.weights.detach()
        projected = project(self.constraint, weights)
        return all(torch.equal(t, projected[name]) for name, t in weights.items())

    def figures(self) -> dict[str, float]:
        """What a history should tell of the solver besides the violation; by default nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that changes over a run; with the weights themselves it suffices for an exact resume."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


SolverFactory: TypeAlias = Callable[[Weights, Constraint, Ramp], Solver]
