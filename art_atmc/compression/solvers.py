r"""Solvers make weights obey a constraint while any optimizer trains them.

A solver is shaped like an optimizer: it holds its tensors, steps, and has a state. Each of the classical schemes is one
class, and their combinations are the papers' methods:

* :class:`ProjectedGradient` with :class:`~art_atmc.Sparsity` is iterative hard thresholding;
* :class:`ADMM` with :class:`~art_atmc.Quantization` is quantization by splitting;
* both together are ATMC (Gui et al. 2019, Algorithm 1): the support by projection, the codebook by ADMM;
* :class:`StraightThrough` with :class:`~art_atmc.Sparsity` is dynamic pruning with feedback (Lin et al. 2020), with
  :class:`~art_atmc.Quantization` BinaryConnect (Courbariaux et al. 2015) for a codebook that is learnt;
* :class:`FixedSupport` prunes once and trains what is left, the baseline of all of them.

With a :class:`Ramp` a solver tightens its constraint over the run; what counts at the end is the constraint itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from art_atmc.compression.constraints import Constraint
from art_atmc.compression.projection import project
from art_atmc.compression.schedule import Ramp
from art_atmc.compression.solver import Solver
from art_atmc.compression.weights import Weights
from art_atmc.support.numbers import Real

__all__ = ["ADMM", "FixedSupport", "ProjectedGradient", "StraightThrough", "default_solver", "paper_solver"]


@final
class ProjectedGradient(Solver):
    r"""Projection after each step, :math:`W \leftarrow P_S(W)` (ATMC, Algorithm 1, step c).

    >>> w = torch.nn.Parameter(torch.tensor([3.0, 1.0]))
    >>> from art_atmc import Sparsity
    >>> ProjectedGradient(Weights({"w": w}), Sparsity(density=0.5)).step()
    >>> w.tolist()
    [3.0, 0.0]
    """

    def enforce(self, constraint: Constraint) -> None:
        self.weights.assign_(project(constraint, self.weights.detach()))


@final
class StraightThrough(Solver):
    r"""Training through the projection: the network computes with the projected weights, the optimizer moves the rest.

    .. math:: L \leftarrow L + m \odot \Delta(\nabla f(W)), \qquad W \leftarrow P_S(L), \qquad
              m_i = \begin{cases} \gamma & W_i = 0 \\ 1 & \text{else} \end{cases}

    for latent weights L, which start as W, and the optimizer's step :math:`\Delta`. Nothing that the projection takes
    away is lost, as in :class:`ProjectedGradient`: a pruned entry keeps its value and may come back where it left, and
    a weight can cross to its neighbour's code by many small steps, of which none alone would take it there. The network
    is feasible at all times, for whatever looks at it: an attack, a validation, a checkpoint.

    A pruned entry feels its gradient but does not answer for its moves, and at a low density nearly all entries are
    pruned: unless they move less than the others, the support never settles. Their share :math:`\gamma` was chosen on
    validation data, see the method page. A set of values prunes nothing, and its weights take the full step.

    The solver holds the residual :math:`R = L - P_S(L)`, adds it to the weights just before the optimizer steps, and
    projects just after. So weight decay and momentum act on L, and a trainer that moves W for its own purposes between
    two steps moves L alike.

    :param feedback: the share :math:`\gamma` of its step that a pruned entry takes, in [0, 1].
    :raises ValueError: when ``feedback`` is out of range.

    Sources: Courbariaux et al. 2015 (https://arxiv.org/abs/1511.00363, Algorithm 1) for two values, with
    :math:`\gamma = 1`; Lin et al. 2020 (https://arxiv.org/abs/2006.07253, Eq. DPF) for a support, likewise.

    >>> from art_atmc import Sparsity
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 2.0]))
    >>> solver = StraightThrough(Weights({"w": w}), Sparsity(density=0.5))
    >>> solver.step()
    >>> w.tolist(), solver.latent()["w"].tolist()
    ([3.0, 0.0], [3.0, 2.0])
    """

    def __init__(
        self, weights: Weights, constraint: Constraint, *, feedback: float = 0.3, ramp: Ramp | None = None
    ) -> None:
        # Always every step: held for eight, the support was so stale that the network did not train.
        super().__init__(weights, constraint, ramp=ramp)
        remedy = "1 moves pruned entries like all others, 0 not at all"
        self.feedback: float = Real("[0, 1]", remedy).plain("feedback", feedback)
        self.point: Weights | None = None
        self.residual: Weights | None = None

    def latent(self) -> Weights:
        """The weights that the optimizer moves, L = W + R; new tensors."""
        weights = self.weights.detach()
        return weights.clone() if self.residual is None else weights.map(torch.add, self.residual)

    @torch.no_grad()
    def restore(self) -> None:
        if self.residual is not None:
            for name, weight in self.weights.items():
                weight.add_(self.residual[name])

    def enforce(self, constraint: Constraint) -> None:
        latent = self.weights.detach()
        if not (self.point is None or self.residual is None or constraint.coded):
            latent = latent.map(self._damped, self.point, self.residual)
        self.point = project(constraint, latent, self.point)
        self.residual = latent.map(torch.sub, self.point)
        self.weights.assign_(self.point)

    def _damped(self, latent: Tensor, point: Tensor, residual: Tensor) -> Tensor:
        """Where the point was zero the residual is what the latent weight was before the step."""
        return torch.where(point == 0, residual.lerp(latent, self.feedback), latent)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | _plain(point=self.point, residual=self.residual)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.point, self.residual = (_copied(self.weights, state[key]) for key in ("point", "residual"))


@final
class FixedSupport(Solver):
    r"""Pruning once: which entries are zero is settled before training and never changes (Han et al. 2015).

    .. math:: W \leftarrow W \odot 1[P_S(W_0) \ne 0]

    after each step, with :math:`W_0` the weights that the solver was built for. The constraint must be closed under
    zeros, as sparsity of every kind is: with more of them a feasible point stays feasible.

    :raises TypeError: for a set of values, such as a codebook, which this does not enforce.

    >>> from art_atmc import Sparsity
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 1.0]))
    >>> pruned = FixedSupport(Weights({"w": w}), Sparsity(density=0.5))
    >>> w.data = torch.tensor([2.0, 9.0])       # what an optimizer may do
    >>> pruned.step()
    >>> w.tolist()
    [2.0, 0.0]
    """

    def __init__(self, weights: Weights, constraint: Constraint, *, every: int = 1, ramp: Ramp | None = None) -> None:
        if constraint.coded:
            raise TypeError(
                f"{constraint} restricts values, not zeros; give it to ADMM, and a sparsity to FixedSupport"
            )
        super().__init__(weights, constraint, every=every, ramp=ramp)
        self.support = project(constraint, weights.detach()).map(_nonzero)

    def enforce(self, constraint: Constraint) -> None:
        # Adding zero makes negative zeros positive: a file that is exact to the bit would have to keep them.
        self.weights.assign_(self.weights.detach().map(lambda w, kept: (w * kept).add_(0.0), self.support))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"support": dict(self.support)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.support = self.weights.like(state["support"]).clone()


@final
class ADMM(Solver):
    r"""Alternating direction method of multipliers with scaled duals (ATMC, Algorithm 1, steps c-e).

    The weights W feel the penalty :math:`\tfrac\rho2 \|W - Z + D\|^2`; every so many steps

    .. math:: Z \leftarrow P_S(W + D), \qquad D \leftarrow D + W - Z

    for the copy Z, which is always feasible, and the dual D. Both start when the ramp does, from :math:`Z = P_S(W)`,
    :math:`D = 0`. An entry of W that is exactly zero was put there by another constraint; it stays zero in the copy and
    loses its dual, so that the two constraints hold together.

    With ``balance`` :math:`\mu` the weight follows the residuals (Boyd et al. 2011, section 3.4.1),

    .. math:: r = \|W - Z\|, \qquad s = \rho\, \|Z - Z_{\text{before}}\|, \qquad
              \rho \leftarrow 2 \rho \text{ where } r > \mu s, \quad \rho / 2 \text{ where } s > \mu r,

    and D with it, so that :math:`\rho D` stays. The figures of an epoch hold r and s as ``primal_residual`` and
    ``dual_residual``.

    :param rho: weight of the penalty, positive; at least of the order of the loss's curvature to converge on a
        non-convex set.
    :param balance: :math:`\mu`, above 1, such as 10; None leaves rho as it is.
    :raises ValueError: when ``rho`` is not positive, or ``balance`` not above 1.

    >>> from art_atmc import Quantization
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0, 6.0]))
    >>> admm = ADMM(Weights({"w": w}), Quantization(bits=1), rho=1.0)
    >>> admm.step()
    >>> admm.copy["w"].tolist()
    [1.5, 1.5, 6.0]
    """

    def __init__(
        self,
        weights: Weights,
        constraint: Constraint,
        *,
        rho: float = 0.1,
        balance: float | None = None,
        every: int = 1,
        ramp: Ramp | None = None,
    ) -> None:
        super().__init__(weights, constraint, every=every, ramp=ramp)
        self.rho: float = Real("(0, inf)", "the reference code uses 0.1").plain("rho", rho)
        self.balance = None if balance is None else Real("(1, inf)", "10 is usual").plain("balance", balance)
        self.residuals: tuple[float, float] | None = None
        self.copy: Weights | None = None
        self.dual: Weights | None = None

    def enforce(self, constraint: Constraint) -> None:
        weights = self.weights.detach()
        if self.copy is None or self.dual is None:
            self.copy = project(constraint, weights)
            self.dual = weights.map(torch.zeros_like)
            return
        shifted = weights.map(_where_nonzero, weights.map(torch.add, self.dual))
        before, self.copy = self.copy, project(constraint, shifted, self.copy)
        self.dual = shifted.map(torch.sub, self.copy)
        self.residuals = _distance(weights, self.copy), self.rho * _distance(self.copy, before)
        if self.balance is not None:
            self._follow(*self.residuals)

    def _follow(self, primal: float, dual: float) -> None:
        factor = 2.0 if primal > self.balance * dual else 0.5 if dual > self.balance * primal else 1.0  # type: ignore[operator]
        if factor != 1 and self.dual is not None:
            self.rho *= factor
            self.dual = self.dual.map(lambda tensor: tensor / factor)

    def figures(self) -> dict[str, float]:
        if self.residuals is None:
            return {}
        return {"primal_residual": self.residuals[0], "dual_residual": self.residuals[1], "rho": self.rho}

    @torch.no_grad()
    def add_penalty_grad_(self) -> None:
        if self.copy is None or self.dual is None:
            return
        for name, weight in self.weights.items():
            gradient = (weight - self.copy[name]).add_(self.dual[name])
            if weight.grad is None:
                weight.grad = gradient.mul_(self.rho)
            else:
                weight.grad.add_(gradient, alpha=self.rho)

    def penalty(self) -> Tensor:
        r"""The penalty :math:`\tfrac\rho2 \|W - Z + D\|^2`, differentiable; the oracle of :meth:`add_penalty_grad_`."""
        if self.copy is None or self.dual is None:
            return torch.zeros(())
        gaps = self.weights.map(torch.sub, self.copy).map(torch.add, self.dual)
        return self.rho / 2 * torch.stack([gap.square().sum() for gap in gaps.values()]).sum()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"rho": self.rho} | _plain(copy=self.copy, dual=self.dual)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.rho = state["rho"]
        self.copy, self.dual = (_copied(self.weights, state[key]) for key in ("copy", "dual"))


def default_solver(weights: Weights, constraint: Constraint, ramp: Ramp) -> Solver:
    """Training through the projection, whatever the constraint; chosen on validation data (decision 0020)."""
    return StraightThrough(weights, constraint, ramp=ramp)


def paper_solver(weights: Weights, constraint: Constraint, ramp: Ramp) -> Solver:
    """ADMM for a codebook or grid, projection after each step for everything else (ATMC, Algorithm 1)."""
    if constraint.coded:
        return ADMM(weights, constraint, rho=0.1, every=10, ramp=ramp)
    return ProjectedGradient(weights, constraint, ramp=ramp)


def _plain(**points: Weights | None) -> dict[str, dict[str, Tensor] | None]:
    """Points in a state, as plain dictionaries; None for those that do not exist yet."""
    return {key: None if point is None else dict(point) for key, point in points.items()}


def _copied(weights: Weights, point: Mapping[str, Tensor] | None) -> Weights | None:
    """A point from a state, in tensors of its own."""
    return None if point is None else weights.like(point).clone()


def _distance(a: Weights, b: Weights) -> float:
    return math.sqrt(sum(float((tensor - b[name]).square().sum()) for name, tensor in a.items()))


def _nonzero(tensor: Tensor) -> Tensor:
    return (tensor != 0).to(tensor.dtype)


def _where_nonzero(weight: Tensor, value: Tensor) -> Tensor:
    return torch.where(weight == 0, torch.zeros_like(value), value)
