"""Training against several attacks at once, such as PGD within balls of several norms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor

from art_atmc.attacks import PGD, Adversary, Problem, adversary, perturb
from art_atmc.attacks.base import unreduced
from art_atmc.classifiers import fixed, misclassified
from art_atmc.support.numbers import Flag, Real, check_numbers
from art_atmc.training import Objective, Outcome
from art_atmc_minmax.simplex import ascend, worst_weights
from art_atmc_minmax.worst import WorstOf, chosen

if TYPE_CHECKING:
    from art.attacks.attack import EvasionAttack

__all__ = ["Generalized"]


@final
@dataclasses.dataclass
class _Tally:
    """What an objective knows of its attacks: the weights it stands at, and sums since the last look at them."""

    weights: Tensor
    sums: Tensor
    batches: Tensor
    errors: Tensor

    @classmethod
    def of(cls, count: int) -> _Tally:
        zero = torch.zeros(count, dtype=torch.float64)
        return cls(torch.full((count,), 1 / count, dtype=torch.float64), zero.clone(), zero.clone(), zero.clone())

    def clear(self) -> None:
        for tensor in (self.sums, self.batches, self.errors):
            tensor.zero_()


@final
@dataclasses.dataclass(frozen=True)
class Generalized(Objective):
    r"""Adversarial training against K attacks with regularised weights (Wang et al., https://arxiv.org/abs/1906.03563).

    .. math:: \min_\theta\; \mathbb{E} \max_{w \in \mathbb{P}} \sum_{i=1}^K w_i f(\theta; x'_i, y)
              - \frac\gamma2 \|w - 1/K\|_2^2, \qquad x'_i = \arg\max_{x' \in B_i(x)} f(\theta; x', y)

    The weights are those of each example by itself, in closed form (:func:`worst_weights`), or of the mean losses of a
    batch, for which a finite ``weight_step`` takes one step of ascent a batch and so remembers the earlier ones.

    The usual objectives for several norms are options:

    * *AVG*: ``gamma=math.inf``, the mean over the attacks (Tramer and Boneh 2019, https://arxiv.org/abs/1904.13000);
    * *MAX*: ``gamma=0``, each example under the attack that is worst for it (ibid.), which alone is trained on;
    * *E-AT*: ``strategy="alternating"``, one attack a batch, drawn at random (Croce and Hein 2022,
      https://arxiv.org/abs/2105.12508), at the cost of one attack; with ``adaptive`` in proportion to their error so
      far in the epoch;
    * *MSD*: ``strategy="steepest"``, one attack whose each step is the best of one step in each ball (Maini et al.
      2020, https://arxiv.org/abs/1909.04068), for native PGD alone.

    An epoch's line in ``history`` has the mean weight of each attack, as ``weight_inf``; with E-AT the share of the
    batches that it got.

    :param attacks: ART evasion attacks or adversaries of ours, at least one.
    :param gamma: from 0, MAX, to infinity, AVG.
    :param per_example: weights of each example, or of each batch.
    :param strategy: ``"weighted"``, ``"alternating"`` or ``"steepest"``.
    :param weight_step: of the ascent, for weights of a batch; infinity for the closed form.
    :param adaptive: see E-AT.
    :raises TypeError: for what is no attack.
    :raises ValueError: for an empty list, options out of range and options that exclude one another.

    >>> objective = Generalized([PGD(0.1, 0.03, 7), PGD(0.5, 0.15, 7, norm=2)])
    >>> objective.names, objective.gamma
    (('inf', '2'), 0.3)
    """

    attacks: Sequence[Adversary | EvasionAttack]
    gamma: float = 0.3
    per_example: bool = True
    strategy: Literal["weighted", "alternating", "steepest"] = "weighted"
    weight_step: float = math.inf
    adaptive: bool = False
    attack: WorstOf = dataclasses.field(init=False, repr=False, compare=False)
    tally: _Tally = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attack", WorstOf(self.attacks))
        object.__setattr__(self, "attacks", self.attack.attacks)
        object.__setattr__(self, "tally", _Tally.of(len(self.attacks)))
        faults = []
        if self.strategy not in ("weighted", "alternating", "steepest"):
            faults.append(f"`strategy` must be 'weighted', 'alternating' or 'steepest', got {self.strategy!r}")
        if self.adaptive and self.strategy != "alternating":
            faults.append("`adaptive` goes with strategy='alternating'")
        if self.per_example and self.weight_step != math.inf:
            faults.append("a finite `weight_step` goes with per_example=False; examples have their weights at once")
        if self.strategy == "steepest" and not all(isinstance(adversary(a), PGD) for a in self.attacks):
            faults.append("strategy='steepest' needs attacks that are PGD, whose single steps it compares")
        check_numbers(
            self,
            faults,
            gamma=Real("[0, inf]", "0 is MAX, infinity AVG, 0.3 is usual"),
            per_example=Flag(),
            weight_step=Real("(0, inf]", "infinity is the closed form"),
            adaptive=Flag(),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What history calls the attacks: their norms, or their numbers where those are not different."""
        norms = [f"{float(a.norm):g}" for a in self.attacks if hasattr(a, "norm")]
        if len(set(norms)) < len(self.attacks):
            return tuple(str(k + 1) for k in range(len(self.attacks)))
        return tuple(norms)

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        if self.strategy == "alternating":
            return self._alternating(problem, x, y)
        if self.strategy == "steepest":
            logits = problem.network(self._steepest(problem, x, y))
            return Outcome(problem.loss(logits, y), logits)
        points = [perturb(problem, attack, x, y) for attack in self.attacks]
        if len(points) == 1:
            self._count(torch.ones(1))
            logits = problem.network(points[0])
            return Outcome(problem.loss(logits, y), logits)
        losses_of = _losses(problem)
        if self.per_example and self.gamma == 0:  # trains on one point an example: K - 1 passes back are spared
            each = torch.stack([losses_of(problem.answers(point), y) for point in points], dim=1)
            worst = each.argmax(dim=1)
            self._count(torch.bincount(worst, minlength=len(points)) / len(x))
            logits = problem.network(chosen(points, worst))
            return Outcome(problem.loss(logits, y), logits)
        answers = problem.network(torch.cat(points)).chunk(len(points))
        each = torch.stack([losses_of(logits, y) for logits in answers], dim=1)
        if self.per_example:
            weights = worst_weights(each.detach(), self.gamma)
            self._count(weights.mean(dim=0))
            loss = problem.mean((weights * each).sum(dim=1))
        else:
            means = torch.stack([problem.mean(column) for column in each.unbind(1)])
            before = self.tally.weights.to(means)
            weights = ascend(before, means.detach(), self.gamma, self.weight_step)
            self.tally.weights.copy_(weights)
            self._count(weights)
            loss = (weights * means).sum()
        return Outcome(loss, chosen(answers, each.detach().argmax(dim=1)))

    def _alternating(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        tally = self.tally
        shares = torch.ones(len(self.attacks), dtype=torch.float64)
        if self.adaptive and tally.batches.all() and tally.errors.any():
            shares = tally.errors / tally.batches
        generator = problem.generator
        device = shares.device if generator is None else generator.device
        drawn = int(torch.multinomial(shares.to(device, torch.float32), 1, generator=generator))
        logits = problem.network(perturb(problem, self.attacks[drawn], x, y))
        if self.adaptive:
            tally.errors[drawn] += float(misclassified(logits.detach(), y).float().mean())
        weights = torch.zeros(len(self.attacks))
        weights[drawn] = 1
        self._count(weights)
        return Outcome(problem.loss(logits, y), logits)

    def _steepest(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        balls = [attack for given in self.attacks if isinstance(attack := adversary(given), PGD)]
        losses_of, point = _losses(problem), x.detach()
        with fixed(problem.network):
            for _ in range(max(ball.max_iter for ball in balls)):
                leaf = point.clone().requires_grad_()
                with torch.enable_grad():
                    (gradient,) = torch.autograd.grad(problem.loss(problem.network(leaf), y), leaf)
                steps = [ball.climb(problem, x, point, gradient) for ball in balls]
                with torch.no_grad():
                    each = torch.stack([losses_of(problem.network(step), y) for step in steps], dim=1)
                best = each.argmax(dim=1)
                point = chosen(steps, best)
        self._count(torch.bincount(best, minlength=len(balls)) / len(x))
        return point

    def _count(self, weights: Tensor) -> None:
        self.tally.sums += weights.detach().to(self.tally.sums)
        self.tally.batches += (weights > 0).to(self.tally.batches)

    def figures(self) -> Mapping[str, float]:
        """The mean weights of the epoch that ends, by name; the next epoch's begin with none."""
        total = float(self.tally.sums.sum())
        means = {f"weight_{n}": float(s) / total for n, s in zip(self.names, self.tally.sums, strict=True) if total}
        self.tally.clear()
        return means

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {name: t.clone() for name, t in vars(self.tally).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name, tensor in vars(self.tally).items():
            tensor.copy_(state[name])


def _losses(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """The problem's loss of each example, without weights of theirs, which its mean has."""
    if problem.weights is None:
        return unreduced(problem.loss)
    return unreduced(problem.classifier.loss)
