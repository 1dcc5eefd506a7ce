"""APGD: projected gradient ascent that chooses its own step, with the losses that AutoAttack uses it with."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_atmc.attacks.ball import Box, box, length, project, random_point
from art_atmc.attacks.base import Adversary, Problem
from art_atmc.classifiers.labels import class_logits, misclassified, true_class
from art_atmc.classifiers.modes import fixed
from art_atmc.support.numbers import Real, Whole, check_numbers

__all__ = ["APGD", "DLR", "CrossEntropy", "PerSampleLoss"]


class PerSampleLoss(abc.ABC):
    """What APGD maximises, a value for each sample."""

    def target(self, logits: Tensor, y: Tensor) -> Tensor:
        """The class that each sample is driven to, chosen by the logits at x; (N,). Untargeted losses ignore it."""
        return y

    @abc.abstractmethod
    def __call__(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """(N, classes), (N,), (N,) -> (N,)."""


@final
@dataclasses.dataclass(frozen=True)
class CrossEntropy(PerSampleLoss):
    r""":math:`-\log \operatorname{softmax}(z)_y`."""

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")


@final
@dataclasses.dataclass(frozen=True)
class DLR(PerSampleLoss):
    r"""Difference of logits ratio (Croce and Hein 2020, https://arxiv.org/abs/2003.01690, Eq. 6 and 7).

    .. math:: -\frac{z_y - \max_{i \ne y} z_i}{z_{\pi_1} - z_{\pi_3}}, \qquad
              -\frac{z_y - z_t}{z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2}

    with the logits in decreasing order :math:`\pi`. It does not change when logits are scaled or shifted, so that a
    saturated softmax does not hide its gradient. Below three (targeted: four) classes the denominator is left out.

    :param rank: 0 for the first form; r for the second one, driven to the r-th most likely wrong class t.
    :raises ValueError: for a negative or fractional rank.

    >>> DLR()(torch.tensor([[4.0, 3.0, 0.0]]), torch.tensor([0]), torch.tensor([0]))
    tensor([-0.2500])
    """

    rank: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, rank=Whole(0, None, "0 is the untargeted loss"))

    def target(self, logits: Tensor, y: Tensor) -> Tensor:
        wrong = logits.scatter(1, y[:, None], -math.inf).argsort(dim=1, descending=True)
        return wrong[:, min(max(self.rank, 1), logits.shape[1] - 1) - 1]

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        ordered = logits.sort(dim=1, descending=True).values
        own = logits.gather(1, y[:, None])[:, 0]
        if self.rank:
            other, needed = logits.gather(1, target[:, None])[:, 0], 4
        else:
            other, needed = torch.where(own == ordered[:, 0], ordered[:, 1], ordered[:, 0]), 3
        if logits.shape[1] < needed:
            return other - own
        return (other - own) / (ordered[:, 0] - ordered[:, 2:needed].mean(dim=1) + 1e-12)


@final
@dataclasses.dataclass(frozen=True)
class APGD(Adversary):
    r"""Auto-PGD (Croce and Hein 2020, https://arxiv.org/abs/2003.01690, Algorithm 1).

    .. math:: z &= \Pi\bigl(x_k + \eta\, d_p(g_k)\bigr) \\
              x_{k+1} &= \Pi\bigl(x_k + 0.75\,(z - x_k) + 0.25\,(x_k - x_{k-1})\bigr)

    :math:`\eta` begins at :math:`2 \epsilon` and is halved, and the search goes back to the best point, whenever a
    period of steps brought too little. For p = 1 the step moves the coordinates of the largest gradients alone, a share
    that follows the sparsity of the best point so far (Croce and Hein 2021, https://arxiv.org/abs/2103.01208,
    Algorithm 1), and the projection is the nearest point of ball and box together.

    Unlike ART's ``AutoProjectedGradientDescent`` it keeps *any* misclassified point that it meets rather than the last
    one only, and stops working on that sample. It maximises its own loss, not the one of a call.

    :param eps: radius, in the units of x; positive.
    :param norm: p: 1, 2 or infinity.
    :param max_iter: steps a sample, at least 1; 100 is usual.
    :param objective: what is maximised.
    :raises ValueError: at construction, naming every parameter out of range.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> attack = APGD(eps=0.5, max_iter=10)
    >>> attack(Problem(network), torch.tensor([[1.0], [0.4]]), torch.tensor([0, 0])).flatten() > 0
    tensor([ True, False])
    """

    eps: float
    norm: float = math.inf
    max_iter: int = 100
    objective: PerSampleLoss = CrossEntropy()

    def __post_init__(self) -> None:
        check_numbers(
            self,
            eps=Real("(0, inf)", "give the radius in the units of x"),
            norm=Real((1, 2, math.inf), "for another norm use an ART attack"),
            max_iter=Whole(1, None, "100 is usual"),
        )

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        network = problem.network
        x, limits = x.detach(), box(problem.clip_values, x)
        y = true_class(y)
        adv = x.clone()
        with fixed(network):
            with torch.no_grad():
                target = self.objective.target(class_logits(network(x)), y)
            start = random_point(x, self.eps, self.norm, limits, problem.generator)
            climb = (_SparseClimb if self.norm == 1 else _Climb)(self, network, x, y, target, start, limits)
            for steps in climb.periods(self.max_iter):
                for _ in range(steps):
                    climb.advance()
                climb.settle(adv)
                if not len(climb.rows):
                    return adv
                climb.adapt(steps)
            adv[climb.rows] = climb.best
        return adv


class _Climb:
    """The samples that still stand, each with its own step."""

    inertia = 0.25

    def __init__(
        self, attack: APGD, network: nn.Module, x: Tensor, y: Tensor, target: Tensor, start: Tensor, limits: Box
    ) -> None:
        self.attack, self.network = attack, network
        self.rows = torch.arange(len(x), device=x.device)
        self.x, self.y, self.target = x, y, target
        self.low, self.high = (limit.expand_as(x) for limit in limits)
        self.point = self.before = self.best = self.found = start
        self.step = torch.full_like(length(x, 1), 2 * attack.eps)
        self.halved = torch.ones_like(y, dtype=torch.bool)
        self.rises = torch.zeros_like(y)
        self.fooled = torch.zeros_like(y, dtype=torch.bool)
        self.gradient, self.value = self._ask(start)
        self.best_gradient, self.best_value, self.last_best = self.gradient, self.value, self.value

    def periods(self, steps: int) -> list[int]:
        """Steps between two looks at the progress: shares 0.22, 0.19, 0.16, ..., 0.06 of all (section 3.1)."""
        share, ends = 22, [0]  # in hundredths, so that nothing is rounded before the ceiling
        while ends[-1] < 100:
            ends.append(min(ends[-1] + share, 100))
            share = max(share - 3, 6)
        whole = [-(-end * steps // 100) for end in ends]
        return [b - a for a, b in itertools.pairwise(whole) if b > a]

    def advance(self) -> None:
        """One step, and what is learnt at the new point."""
        onto = self._projected(self.point + self.step * self.direction())
        inertia = 0.0 if self.before is self.point else self.inertia  # the first step is a plain one
        moved = onto
        if inertia:
            along = (1 - inertia) * (onto - self.point) + inertia * (self.point - self.before)
            moved = self._projected(self.point + along)
        self.before, self.point = self.point, moved
        gradient, value = self._ask(moved)
        self.rises += value > self.value
        self.gradient, self.value = gradient, value
        self._remember(value > self.best_value)

    def direction(self) -> Tensor:
        if self.attack.norm == math.inf:
            return self.gradient.sign()
        scaled = self.gradient / length(self.gradient, math.inf).clamp_min(torch.finfo(self.x.dtype).tiny)
        return scaled / length(scaled, 2).clamp_min(1.0)

    def settle(self, adv: Tensor) -> None:
        """Hand over the samples that are misclassified, and go on without them."""
        adv[self.rows[self.fooled]] = self.found[self.fooled]
        standing = ~self.fooled
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[standing])

    def adapt(self, steps: int) -> None:
        """Halve the step of the samples that oscillate or stand still, and take them back to their best point."""
        stuck = ~self.halved & (self.best_value <= self.last_best)
        self.halved = (self.rises < 0.75 * steps) | stuck
        self.step = torch.where(_as(self.halved, self.step), self.step / 2, self.step)
        self._return_to_best(self.halved)
        self.rises = torch.zeros_like(self.rises)
        self.last_best = self.best_value

    def _return_to_best(self, chosen: Tensor) -> None:
        wide = _as(chosen, self.x)
        self.point = torch.where(wide, self.best, self.point)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.value = torch.where(chosen, self.best_value, self.value)

    def _remember(self, better: Tensor) -> None:
        wide = _as(better, self.x)
        self.best = torch.where(wide, self.point, self.best)
        self.best_gradient = torch.where(wide, self.gradient, self.best_gradient)
        self.best_value = torch.where(better, self.value, self.best_value)

    def _projected(self, point: Tensor) -> Tensor:
        return project(point, self.x, self.attack.eps, self.attack.norm, (self.low, self.high))

    def _ask(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and value of the objective; misclassified points are kept."""
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            logits = class_logits(self.network(point))
            values = self.attack.objective(logits, self.y, self.target)
            (gradient,) = torch.autograd.grad(values.sum(), point)
        if not gradient.isfinite().all():
            raise FloatingPointError(
                "the gradient of the network is not finite; look for NaN in the data, or for weights that diverged"
            )
        found = misclassified(logits.detach(), self.y) & ~self.fooled
        self.found = torch.where(_as(found, self.x), point.detach(), self.found)
        self.fooled = self.fooled | found
        return gradient, values.detach()


@final
class _SparseClimb(_Climb):
    """For p = 1: steps along few coordinates."""

    inertia = 0.0

    def __init__(
        self, attack: APGD, network: nn.Module, x: Tensor, y: Tensor, target: Tensor, start: Tensor, limits: Box
    ) -> None:
        super().__init__(attack, network, x, y, target, start, limits)
        self.step = self.step / 2
        self.share = torch.full_like(self.step, 0.2)
        self.support = torch.full_like(self.step, x[0].numel())

    def periods(self, steps: int) -> list[int]:
        every = max(math.floor(0.04 * steps), 1)
        return [min(every, steps - done) for done in range(0, steps, every)]

    def direction(self) -> Tensor:
        """Signs of the largest gradients, together of length 1."""
        size = self.gradient.abs().flatten(1)
        moved = (self.share.flatten() * size.shape[1]).long().clamp_(1, size.shape[1])
        least = size.sort(dim=1, descending=True).values.gather(1, moved[:, None] - 1)
        signs = torch.where(size >= least, self.gradient.flatten(1).sign(), 0.0).view_as(self.gradient)
        return signs / length(signs, 1).clamp_min(1.0)

    def adapt(self, steps: int) -> None:
        """Large steps again for samples that became sparser, smaller ones for the others."""
        support = length(self.best - self.x, 0)
        sparser = support < 0.95 * self.support
        eps = self.attack.eps
        self.step = torch.where(sparser, torch.full_like(self.step, eps), (self.step / 1.5).clamp_min(eps / 10))
        self.share = support / self.x[0].numel() / 1.5
        self.support = support
        self._return_to_best(sparser.flatten())


def _as(mask: Tensor, like: Tensor) -> Tensor:
    """(N,) shaped to broadcast with a batch."""
    return mask.view(-1, *(1,) * (like.dim() - 1))
