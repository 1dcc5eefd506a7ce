r"""An objective with bounds: one loss is minimised while others stay below what the user says."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from torch import Tensor

from art_atmc.attacks import Problem, adversary, perturb
from art_atmc.support.numbers import Real, check_numbers
from art_atmc.training import Objective, Outcome
from art_atmc_distortion.lagrangian import Lagrangian
from art_atmc_distortion.multipliers import Rule
from art_atmc_distortion.rules import Multiplicative

__all__ = ["Bound", "CleanLoss", "Constrained", "Measure", "RobustLoss"]


class Measure(abc.ABC):
    """A positive scalar of a batch, with a graph, that may be bounded."""

    name: ClassVar[str] = "measure"
    """What the history calls it."""

    @abc.abstractmethod
    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        """Its value for inputs ``x`` with labels ``y``."""


@final
@dataclasses.dataclass(frozen=True)
class CleanLoss(Measure):
    r"""The loss without an attack, :math:`\mathbb{E}\, f(\theta; x, y)`."""

    name: ClassVar[str] = "clean_loss"

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        return problem.loss(problem.network(x), y)


@final
@dataclasses.dataclass(frozen=True)
class RobustLoss(Measure):
    r"""The loss under an attack, :math:`\mathbb{E} \max_{x' \in B(x, \epsilon)} f(\theta; x', y)`.

    :param attack: one of our adversaries, or an ART evasion attack.
    :raises TypeError: when it is neither.
    """

    attack: Any
    name: ClassVar[str] = "robust_loss"

    def __post_init__(self) -> None:
        adversary(self.attack)  # refuses what can't be one

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        return problem.loss(problem.network(perturb(problem, self.attack, x, y)), y)


@final
@dataclasses.dataclass(frozen=True)
class Bound:
    r"""A constraint :math:`m \le c`.

    :param measure: m.
    :param at_most: c, positive and finite.
    :raises ValueError: for any other number.
    """

    measure: Measure
    at_most: float

    def __post_init__(self) -> None:
        check_numbers(self, at_most=Real("(0, inf)", "a violation is a share of its bound"))


@final
class Constrained(Objective):
    r"""Minimises an objective subject to bounds on other measures of the batch.

    .. math:: \min_\theta R(\theta) \quad \text{s.t.} \quad m_i(\theta) \le c_i, \qquad
              \theta \leftarrow \text{optimizer}\Bigl(\nabla_\theta R + \sum_i \lambda_i \nabla_\theta m_i / c_i\Bigr)

    The multipliers move with what was measured on each batch, and are kept in checkpoints. A bound holds for what it
    is measured on, the training data; on other data it holds as far as the network generalises.

    :param minimise: R, such as ``Adversarial(attack)``; its attack is that of validation.
    :param bounds: a clean loss, a loss under another attack, and what else is a :class:`Measure`.
    :param rule: how the multipliers move; :class:`~art_atmc_distortion.Hinge` and
        :class:`~art_atmc_distortion.Fixed` are the baselines.
    :param frozen: optimizer steps before they do.
    :raises TypeError: for anything but an objective and bounds.
    :raises ValueError: for no bound, and for two on the same measure.

    >>> from art_atmc import PGD, Adversarial
    >>> objective = Constrained(Adversarial(PGD(0.1, 0.025, 7)), [Bound(CleanLoss(), at_most=0.1)])
    >>> objective.lagrangian.values
    (1.0,)
    """

    def __init__(
        self,
        minimise: Objective,
        bounds: Sequence[Bound],
        rule: Rule = Multiplicative(),  # noqa: B008
        *,
        frozen: int = 0,
    ) -> None:
        if not isinstance(minimise, Objective):
            raise TypeError(
                f"`minimise` must be an Objective such as Adversarial(attack), got {type(minimise).__name__}"
            )
        if strangers := [type(b).__name__ for b in bounds if not isinstance(b, Bound)]:
            raise TypeError(f"`bounds` must hold Bound(measure, at_most=...), got {strangers}")
        measures = [bound.measure for bound in bounds]
        if double := sorted({type(m).__name__ for m in measures if measures.count(m) > 1}):
            raise ValueError(f"the bounds contradict one another: more than one on the same {double}; keep the lower")
        self.minimise, self.bounds = minimise, tuple(bounds)
        self.attack = minimise.attack
        self.lagrangian = Lagrangian([bound.at_most for bound in bounds], rule, frozen)

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        outcome = self.minimise(problem, x, y)
        measured = [bound.measure(problem, x, y) for bound in self.bounds]
        return Outcome(self.lagrangian(outcome.loss, measured), outcome.logits)

    def figures(self) -> dict[str, float]:
        """The multiplier of each bound and the last batch's violation of it, for the history."""
        found = dict(self.minimise.figures())
        for place, bound in enumerate(self.bounds):
            name = bound.measure.name
            found[f"multiplier_{name}"] = self.lagrangian.values[place]
            if self.lagrangian.violations:
                found[f"violation_{name}"] = self.lagrangian.violations[place]
        return found

    def __repr__(self) -> str:
        rule, frozen = self.lagrangian.rule, self.lagrangian.frozen
        return f"Constrained({self.minimise!r}, {list(self.bounds)!r}, {rule!r}, frozen={frozen})"

    def state_dict(self) -> dict[str, Any]:
        return {"minimise": self.minimise.state_dict(), "lagrangian": self.lagrangian.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.minimise.load_state_dict(state["minimise"])
        self.lagrangian.load_state_dict(state["lagrangian"])
