"""Alternating projected gradient descent-ascent: one perturbation against the worst of several domains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from art_atmc.attacks import PGD, Adversary, PerSampleLoss, Problem
from art_atmc.classifiers import fixed, true_class
from art_atmc.support.numbers import Flag, Real, Whole, check_numbers
from art_atmc_minmax import scores
from art_atmc_minmax.ball import NORMS, nearest
from art_atmc_minmax.domains import Domains, Limits, Losses, Margin, limits_of
from art_atmc_minmax.result import MinMaxResult
from art_atmc_minmax.simplex import ascend, prior_faults
from art_atmc_minmax.transformations import Transformations

__all__ = ["MinMax"]


@final
@dataclasses.dataclass(frozen=True)
class MinMax(Adversary):
    r"""The regularised worst case over K domains (Wang et al. 2021, https://arxiv.org/abs/1906.03563, Eq. 4), by APGDA.

    .. math:: \min_{\delta \in V} \max_{w \in \mathbb{P}} \sum_{i=1}^K w_i F_i(\delta)
              - \frac\gamma2 \|w - \pi\|_2^2, \qquad
              V = \{ \|\delta\|_p \le \epsilon,\; x + \delta \in [l, h] \}

    where :math:`F_i` is small where domain i is fooled. A step descends on the perturbation and then ascends on the
    weights, each perturbation with weights of its own:

    .. math:: \delta \leftarrow \Pi_V\bigl(\delta - \alpha_t\, d(\nabla_\delta\, w^\top F(\delta))\bigr), \qquad
              w \leftarrow \arg\max_{v \in \mathbb{P}} v^\top F(\delta) - \frac\gamma2 \|v - \pi\|^2
              - \frac1{2b} \|v - w\|^2 .

    The forward pass that gives the weights their losses is that of the next gradient, so a step takes one forward and
    one backward pass a network. The direction d is the sign for p = infinity, else the gradient over its length.

    Known strategies are points of the two numbers gamma and b (``weight_step``): the *average* is an infinite gamma,
    *one-hot MAX* is gamma 0 with an infinite b, and the weights are in closed form with an infinite b alone.

    :param eps: radius; positive. For p = 0 how many entries may change.
    :param domains: what has to be fooled together; a tuple of names stands for :class:`Transformations`.
    :param norm: p: infinity, 2, 1 or 0.
    :param max_iter: T, at least 1.
    :param eps_step: first step :math:`\alpha_0`: of each entry for p = infinity, else a Euclidean length. None for half
        the radius (p = infinity, 2), or half the root of it (p = 1, 0), which is the length of eps entries of one half.
    :param schedule: ``"cosine"``, :math:`\alpha_t = \alpha_0 (1 + \cos(\pi t / T)) / 2`, or ``"constant"``.
    :param gamma: how strongly the weights are drawn to the prior; 0 for the plain worst case, infinity for none of it.
    :param weight_step: b, positive; infinity answers the losses at once.
    :param prior: :math:`\pi`, where the weights begin too: K numbers on the simplex; None for 1 / K.
    :param loss: a loss of one example that an attack raises; :math:`F` is its negative. The margin by default.
    :param targeted: whether labels are those that the networks should answer.
    :param random_start: begin at a random point of the ball, in place of x.
    :param keep_best: return the iterate whose worst margin is best, for each perturbation; else the last one.
    :param all_or_none: give an input back as it was where its perturbation does not fool every domain, so that a line
        of a suite counts only what fools all of them.
    :raises ValueError: at construction, naming all that is out of range; when called, as the domains say.
    :raises FloatingPointError: when called and a loss gradient is not finite.

    >>> from torch import nn
    >>> from art_atmc_minmax import Models
    >>> first, second = (nn.Linear(2, 2, bias=False) for _ in range(2))
    >>> _ = first.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # class 0 for x_1 > 0
    >>> _ = second.weight.data.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))  # class 0 for x_2 > 0
    >>> attack = MinMax(0.5, Models([first, second]), random_start=False)
    >>> attack.solve(Problem(first), torch.tensor([[0.25, 0.25], [0.25, 0.75]]), torch.tensor([0, 0])).fooled
    tensor([[ True,  True],
            [ True, False]])
    """

    eps: float
    domains: Domains | tuple[str, ...]
    norm: float = math.inf
    max_iter: int = 50
    eps_step: float | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    gamma: float = 1.0
    weight_step: float = 0.1
    prior: tuple[float, ...] | None = None
    loss: PerSampleLoss = dataclasses.field(default_factory=Margin)
    targeted: bool = False
    random_start: bool = True
    keep_best: bool = True
    all_or_none: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.domains, tuple):
            object.__setattr__(self, "domains", Transformations(self.domains))
        if not isinstance(self.domains, Domains):
            raise TypeError(
                f"`domains` must be Models, Images, Transformations or Losses, got {type(self.domains).__name__}"
            )
        faults = []
        if self.schedule not in ("cosine", "constant"):
            faults.append(f"`schedule` must be 'cosine' or 'constant', got {self.schedule!r}")
        if self.prior is not None:
            object.__setattr__(self, "prior", tuple(map(float, self.prior)))
            faults += prior_faults(self.prior, len(self.domains.names))
        check_numbers(
            self,
            faults,
            eps=Real("(0, inf)", "give the radius in the units of x"),
            norm=Real(NORMS, "other norms have no projection here"),
            max_iter=Whole(1, None, "50 steps are usual"),
            eps_step=Real("(0, inf)", "half of `eps` is usual, or None", optional=True),
            gamma=Real("[0, inf]", "0 is the plain worst case, 1 is usual, infinity the average"),
            weight_step=Real("(0, inf]", "0.1 is usual, infinity answers the losses at once"),
            targeted=Flag(),
            random_start=Flag(),
            keep_best=Flag(),
            all_or_none=Flag(),
        )
        if self.norm == 0 and self.eps < 1:
            raise ValueError(f"`eps` counts entries for norm 0 and must be at least 1, got {self.eps!r}")

    @property
    def risks(self) -> Domains:
        """The domains as an object."""
        assert isinstance(self.domains, Domains)
        return self.domains

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        return self.solve(problem, x, y).adv

    def solve(self, problem: Problem, x: Tensor, y: Tensor, mask: Tensor | None = None) -> MinMaxResult:
        """The adversarial examples, the perturbations, and how the weights went.

        :param problem: its network is attacked unless the domains are networks; its loss is not used.
        :param x: inputs (N, ...), floating point, within the clip values.
        :param y: labels, (N,) or (N, classes).
        :param mask: what broadcasts with x; entries where it is 0 are not changed.
        """
        x, limits = x.detach(), limits_of(problem, x)
        if self.norm == 0 and not all(bound.isfinite().all() for bound in limits):
            raise ValueError("norm 0 needs clip values: without them a single entry can be moved without end")
        self.risks.check(problem, x)
        labels = self.risks.labels(true_class(y).to(x.device))
        room = self.risks.room(x, limits)
        if mask is not None:
            allowed = torch.broadcast_to(mask.to(x.device) != 0, x.shape)
            if allowed.shape[0] != room[0].shape[0]:  # shared: where every image of the group allows it
                allowed = allowed.unflatten(0, (room[0].shape[0], -1)).all(dim=1)
            room = tuple(torch.where(allowed, bound, 0.0) for bound in room)  # type: ignore[assignment]
        with fixed(*self.risks.networks(problem)):
            return self._descended(problem, x, labels, limits, room)

    def _descended(self, problem: Problem, x: Tensor, labels: Tensor, limits: Limits, room: Limits) -> MinMaxResult:
        delta = self._start(problem, x, room)
        weights = self._prior(labels, x)
        trace: list[tuple[Tensor, Tensor]] = []
        best, best_worst = delta, torch.full_like(weights[:, 0], math.inf)
        for step in range(self.max_iter + 1):
            last = step == self.max_iter
            with torch.set_grad_enabled(not last):
                leaf = delta.detach().requires_grad_(not last)
                answers = self.risks.answers(problem, self.risks.points(x, leaf, limits))
                losses = scores.losses(answers, labels, self._kinds(len(answers)), self.targeted)
            values = losses.detach()
            if step and weights.shape[1] > 1:
                weights = ascend(weights, values, self.gamma, self.weight_step, self._prior(labels, x))
            trace.append((weights, values))
            if self.keep_best or last:
                plain = isinstance(self.loss, Margin) and not isinstance(self.risks, Losses)
                worst = (values if plain else scores.margins(answers, labels, self.targeted)).amax(dim=1)
                better = worst < best_worst if self.keep_best else torch.ones_like(worst, dtype=torch.bool)
                best = torch.where(_like(better, delta), delta, best)
                best_worst = torch.where(better, worst, best_worst)
            if last:
                break
            (gradient,) = torch.autograd.grad((weights * losses).sum(), leaf)
            delta = nearest(delta - self._length(step) * self._direction(gradient), self.eps, self.norm, *room)
        _require_finite(gradient)
        return self._result(problem, x, labels, limits, best, trace)

    def _result(
        self, problem: Problem, x: Tensor, labels: Tensor, limits: Limits, delta: Tensor,
        trace: Sequence[tuple[Tensor, Tensor]],
    ) -> MinMaxResult:  # fmt: skip
        adv = self.risks.points(x, delta, limits)
        low, high = limits
        adv = torch.minimum(torch.maximum(adv, low), high)  # x + (h - x) may be above h by a rounding error
        with torch.no_grad():
            fooled = scores.fooled(self.risks.answers(problem, adv), labels, self.targeted)
        if self.all_or_none:
            each = fooled.all(dim=1).repeat_interleave(len(x) // len(delta))
            adv = torch.where(_like(each, adv), adv, x)
        weights, losses = (torch.stack(kept) for kept in zip(*trace, strict=True))
        return MinMaxResult(self.risks.names, adv, delta, fooled, weights, losses)

    def _kinds(self, count: int) -> Sequence[PerSampleLoss]:
        """The loss of each domain."""
        return self.risks.losses if isinstance(self.risks, Losses) else (self.loss,) * count

    def _start(self, problem: Problem, x: Tensor, room: Limits) -> Tensor:
        zero = x.new_zeros(self.risks.shape(x))
        if not self.random_start:
            return zero
        if self.norm == 0:  # anywhere in the box, on the entries that are moved furthest
            share = torch.rand(zero.shape, generator=problem.generator, device=_device(problem, x)).to(x)
            return nearest(torch.lerp(*room, share), self.eps, 0, *room)
        ball = PGD(self.eps, self.eps, 1, self.norm)
        point = ball.random_point(Problem(problem.network, generator=problem.generator), zero)
        return nearest(point, self.eps, self.norm, *room)

    def _prior(self, labels: Tensor, x: Tensor) -> Tensor:
        k = labels.shape[1]
        prior = x.new_full((k,), 1 / k) if self.prior is None else x.new_tensor(self.prior)
        return prior.expand(len(labels), k)

    def _length(self, step: int) -> float:
        first = self.eps_step
        if first is None:
            first = (self.eps if self.norm >= 2 else math.sqrt(self.eps)) / 2
        if self.schedule == "constant":
            return first
        return first * (1 + math.cos(math.pi * step / self.max_iter)) / 2

    def _direction(self, gradient: Tensor) -> Tensor:
        """Unit steepest ascent: of each entry for p = infinity, else of Euclidean length."""
        if self.norm == math.inf:
            return gradient.sign()
        # Scaled by the largest entry first: the squares of a confident network's gradients underflow.
        every = tuple(range(1, gradient.dim()))
        scaled = gradient / gradient.abs().amax(dim=every, keepdim=True).clamp_min_(torch.finfo(gradient.dtype).tiny)
        return scaled.div_(torch.linalg.vector_norm(scaled, dim=every, keepdim=True).clamp_min_(1.0))


def _like(flags: Tensor, batch: Tensor) -> Tensor:
    return flags.reshape(-1, *[1] * (batch.dim() - 1))


def _device(problem: Problem, x: Tensor) -> torch.device:
    return x.device if problem.generator is None else problem.generator.device


def _require_finite(gradient: Tensor) -> None:
    if not (finite := gradient.isfinite()).all():
        bad = int((~finite.flatten(1).all(dim=1)).sum())
        raise FloatingPointError(
            f"the loss gradient of {bad} of {len(gradient)} perturbations is not finite; look for NaN in the data, or "
            "for weights that diverged"
        )
