r"""Projected gradient ascent: tensors in, tensors out, gradients for the input only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from art_atmc.attacks.ball import length
from art_atmc.attacks.base import Adversary, ClipValues, Problem
from art_atmc.classifiers.labels import misclassified
from art_atmc.classifiers.modes import fixed
from art_atmc.support.numbers import Flag, Real, Whole, check_numbers

__all__ = ["PGD"]


@final
@dataclasses.dataclass(frozen=True)
class PGD(Adversary):
    r"""Projected gradient ascent (Madry et al. 2018, https://arxiv.org/abs/1706.06083, Eq. 2.1), as ART computes it.

    .. math:: x_{t+1} = \Pi_{B_p(x, \epsilon)}\bigl(\mathrm{clip}(x_t + \alpha\, d_p(g_t))\bigr), \qquad
              g_t = \nabla_x \ell(f(x_t), y)

    with the steepest ascent direction :math:`d_\infty = \mathrm{sign}\, g`, :math:`d_2 = g / \|g\|_2`, and
    :math:`d_1 = \mathrm{sign}(g_i)\, e_i` for the largest :math:`|g_i|`. With momentum :math:`\mu` (Dong et al. 2018,
    https://arxiv.org/abs/1710.06081, Eq. 6) the direction is that of
    :math:`m_t = \mu m_{t-1} + g_t / \|g_t\|_1` in place of :math:`g_t`.

    :math:`\Pi` clamps for :math:`p = \infty` and rescales the perturbation to length :math:`\epsilon` otherwise. That
    is the nearest point for p = 2. For p = 1 it is ART's choice and *not* the nearest point: it shrinks all entries
    alike, where the Euclidean projection would zero the small ones. With clip values ART's step for p = 1 is also lost
    on a sample whose steepest entry is at its bound already. Expect weak examples for p = 1.

    :param eps: radius :math:`\epsilon`, in the units of x; positive.
    :param eps_step: step :math:`\alpha`; positive. It may exceed ``eps``: one step with 1.25 eps is fast adversarial
        training (Wong et al. 2020), and one with eps, from x itself, is the fast gradient method.
    :param max_iter: steps a restart, at least 1.
    :param norm: p: 1, 2 or infinity; ART's ``"inf"`` is taken too.
    :param random_start: begin at a uniform sample of the ball, then clipped, in place of x.
    :param restarts: runs from fresh random starts, at least 1. A sample keeps its first run that is misclassified (else
        its first run). ART keeps the last run whose prediction differs from the one on x, which, for an x that is
        misclassified, can be the right class.
    :param momentum: decay :math:`\mu` of the accumulated gradient, at least 0.
    :raises ValueError: at construction, naming every parameter out of range; when called, for inputs that are not a
        floating-point batch and for empty ``clip_values``.
    :raises FloatingPointError: when called and the loss gradient is not finite.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> attack = PGD(eps=0.5, eps_step=0.25, max_iter=3, random_start=False)
    >>> attack(Problem(network), torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0])).tolist()
    [[0.5], [1.5]]
    """

    eps: float
    eps_step: float
    max_iter: int
    norm: float = math.inf
    random_start: bool = True
    restarts: int = 1
    momentum: float = 0.0

    def __post_init__(self) -> None:
        faults = []
        if self.restarts != 1 and not self.random_start:
            faults.append(
                f"`restarts`={self.restarts} without a random start would repeat the same run; "
                "set random_start=True or restarts=1"
            )
        check_numbers(
            self,
            faults,
            eps=Real("(0, inf)", "give the radius in the units of x"),
            eps_step=Real("(0, inf)", "a quarter of `eps` is usual"),
            max_iter=Whole(1, None, "7 to 10 steps are usual"),
            norm=Real((1, 2, math.inf), "for another norm use an ART attack"),
            random_start=Flag(),
            restarts=Whole(1, None, "1 is one run"),
            momentum=Real("[0, inf)", "0 is plain PGD, 1 is MIM"),
        )

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        box = _box(problem.clip_values, x)
        x = x.detach()

        def run() -> Tensor:
            start = self._random_point(x, box, problem.generator) if self.random_start else x
            return self._ascend(problem, x, y, start, box)

        with fixed(problem.network):
            adv = run()
            if self.restarts > 1:
                fooled = _fooled(problem.network, adv, y)
            for _ in range(1, self.restarts):
                if fooled.all():
                    break
                other = run()
                better = _fooled(problem.network, other, y) & ~fooled
                adv[better] = other[better]
                fooled |= better
        return adv

    def ascend(self, problem: Problem, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        r"""One run of ``max_iter`` steps from a given :math:`x_0`, in the ball around ``x``; ``start`` is kept.

        :param start: of the shape of ``x``. The other parameters are those of a call.
        """
        if start.shape != x.shape:
            raise ValueError(f"`start` must have the shape of `x`, {tuple(x.shape)}, got {tuple(start.shape)}")
        with fixed(problem.network):
            return self._ascend(problem, x.detach(), y, start, _box(problem.clip_values, x))

    def climb(self, problem: Problem, x: Tensor, point: Tensor, gradient: Tensor) -> Tensor:
        """One step from ``point`` along a gradient that is known already, back into the ball around ``x``."""
        climbed = point.detach().add(self._direction(gradient), alpha=self.eps_step)
        box = _box(problem.clip_values, x)
        self._projection(x, box)(climbed)
        return climbed if box is None else climbed.clamp_(*box)

    def random_point(self, problem: Problem, x: Tensor) -> Tensor:
        """A uniform sample of the ball around ``x``, clipped."""
        return self._random_point(x, _box(problem.clip_values, x), problem.generator)

    def _ascend(self, problem: Problem, x: Tensor, y: Tensor, start: Tensor, box: _Box | None) -> Tensor:
        network, loss = problem.network, problem.loss
        project = self._projection(x, box)
        momentum = torch.zeros_like(x) if self.momentum else None
        adv = start.detach().clone().requires_grad_()
        for _ in range(self.max_iter):
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(loss(network(adv), y), adv)
            with torch.no_grad():
                if momentum is not None:
                    size = length(gradient, 1).clamp_min_(torch.finfo(gradient.dtype).tiny)
                    momentum.mul_(self.momentum).add_(gradient / size)
                adv.add_(self._direction(gradient if momentum is None else momentum), alpha=self.eps_step)
                project(adv)
        # Asked once, of the last gradient: a question each step would make the device wait. NaN stays NaN, because the
        # sign of NaN is 0, which leaves the point where it is, and any other step carries the NaN into x.
        if not (finite := gradient.isfinite()).all():
            bad = int((~finite.flatten(1).all(dim=1)).sum())
            raise FloatingPointError(
                f"the loss gradient of {bad} of {len(x)} inputs is not finite; "
                "look for NaN in the data, or for weights that diverged (a lower learning rate)"
            )
        adv = adv.detach()
        return adv if box is None else adv.clamp_(*box)  # rescaling may have left the box by a rounding error

    def _direction(self, gradient: Tensor) -> Tensor:
        """Unit vector of the norm along which the loss rises fastest; zero where the gradient is."""
        if self.norm == math.inf:
            return gradient.sign()
        if self.norm == 1:
            flat = gradient.flatten(1)
            steepest = flat.abs().argmax(dim=1, keepdim=True)
            unit = torch.zeros_like(flat).scatter_(1, steepest, flat.gather(1, steepest).sign())
            return unit.reshape(gradient.shape)
        # Scaled by the largest entry first: the squares of a confident network's gradients underflow.
        scaled = gradient / length(gradient, math.inf).clamp_min_(torch.finfo(gradient.dtype).tiny)
        return scaled.div_(length(scaled, 2).clamp_min_(1.0))

    def _projection(self, x: Tensor, box: _Box | None) -> Callable[[Tensor], object]:
        """Into the box and the ball, in place; whatever does not change over the steps is computed here."""
        if self.norm == math.inf:
            lower, upper = x - self.eps, x + self.eps
            if box is not None:
                lower.clamp_(*box)
                upper.clamp_(*box)
            return lambda adv: adv.clamp_(lower, upper)

        def project(adv: Tensor) -> None:
            if box is not None:
                adv.clamp_(*box)
            delta = adv - x
            delta.mul_((self.eps / length(delta, self.norm)).clamp_(max=1.0))
            torch.add(x, delta, out=adv)

        return project

    def _random_point(self, x: Tensor, box: _Box | None, generator: torch.Generator | None) -> Tensor:
        """A uniform sample of the ball around x, clipped.

        For p = 1 and 2 by Barthe et al. 2005 (https://arxiv.org/abs/math/0503650, Theorem 1): with independent
        coordinates of density proportional to exp(-|t|^p) and E exponential, z / (||z||_p^p + E)^(1/p) is uniform.
        """
        device = x.device if generator is None else generator.device
        noise = torch.empty_like(x, device=device, dtype=torch.promote_types(x.dtype, torch.float32))
        if self.norm == math.inf:
            noise.uniform_(-self.eps, self.eps, generator=generator)
        else:
            if self.norm == 2:
                noise.normal_(std=math.sqrt(0.5), generator=generator)
            else:  # the difference of two exponentials has the density exp(-|t|) / 2
                noise.exponential_(generator=generator)
                noise.sub_(torch.empty_like(noise).exponential_(generator=generator))
            power = length(noise, self.norm).pow_(self.norm)
            power.add_(torch.empty_like(power).exponential_(generator=generator))
            noise.mul_(self.eps / power.pow_(1 / self.norm))
        start = noise.to(x).add_(x)
        return start if box is None else start.clamp_(*box)


_Box: TypeAlias = tuple[Any, Any]  # two floats or two tensors, as `clamp_` takes them


def _box(clip_values: ClipValues | None, x: Tensor) -> _Box | None:
    """The clip values as ``clamp_`` takes them; also the place where a call checks its input."""
    if not x.is_floating_point() or x.dim() < 2:
        raise ValueError(
            f"`x` must be a floating-point batch of shape (N, ...), got {x.dtype} of shape "
            f"{tuple(x.shape)}; convert it with x.float(), and give single inputs a batch dimension"
        )
    if clip_values is None:
        return None
    low, high = (torch.as_tensor(value) for value in clip_values)
    if not (low < high).all():
        raise ValueError(
            f"`clip_values` must be a smaller and a larger bound, got {clip_values!r}; "
            "give (smallest, largest) valid input"
        )
    if low.dim() == high.dim() == 0:
        return low.item(), high.item()
    return low.to(x), high.to(x)


@torch.no_grad()
def _fooled(network: nn.Module, adv: Tensor, y: Tensor) -> Tensor:
    return misclassified(network(adv), y)
