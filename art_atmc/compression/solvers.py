r"""Solvers make weights obey a constraint while any optimizer trains them.

A solver is shaped like an optimizer: it holds its tensors, steps, and has a state. Each of the classical schemes is one
class, and their combinations are the papers' methods:

* :class:`ProjectedGradient` with :class:`~art_atmc.Sparsity` is iterative hard thresholding;
* :class:`ADMM` with :class:`~art_atmc.Quantization` is quantization by splitting;
* both together are ATMC (Gui et al. 2019, Algorithm 1): the support by projection, the codebook by ADMM;
* :class:`FixedSupport` prunes once and trains what is left, the baseline of all of them.

With a :class:`Ramp` a solver tightens its constraint over the run; what counts at the end is the constraint itself.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from art_atmc.compression.constraints import Constraint
from art_atmc.compression.schedule import Ramp
from art_atmc.compression.weights import Weights
from art_atmc.support.numbers import Real, Whole
from art_atmc.support.versions import provider

__all__ = ["ADMM", "FixedSupport", "ProjectedGradient", "Solver", "SolverFactory", "default_solver", "project"]


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

    @final
    def step(self) -> None:
        """After an optimizer step: count it and, every so often, enforce the constraint as it acts now.

        :raises FloatingPointError: when the step left a weight infinite or NaN.
        :raises RuntimeError: when the constraint fails, see :func:`project`; the weights stay as they were.
        """
        self.steps += 1
        if self.steps % self.every == 0 and (acting := self.acting) is not None:
            _require_finite(self.weights)  # projecting NaN or infinities would hide where they came from
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

    def state_dict(self) -> dict[str, Any]:
        """All that changes over a run; with the weights themselves it suffices for an exact resume."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


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

    :param rho: weight of the penalty, positive; at least of the order of the loss's curvature to converge on a
        non-convex set.
    :raises ValueError: when ``rho`` is not positive.

    >>> from art_atmc import Quantization
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0, 6.0]))
    >>> admm = ADMM(Weights({"w": w}), Quantization(bits=1), rho=1.0)
    >>> admm.step()
    >>> admm.copy["w"].tolist()
    [1.5, 1.5, 6.0]
    """

    def __init__(
        self, weights: Weights, constraint: Constraint, *, rho: float = 0.1, every: int = 1, ramp: Ramp | None = None
    ) -> None:
        super().__init__(weights, constraint, every=every, ramp=ramp)
        self.rho: float = Real("(0, inf)", "the reference code uses 0.1").plain("rho", rho)
        self.copy: Weights | None = None
        self.dual: Weights | None = None

    def enforce(self, constraint: Constraint) -> None:
        weights = self.weights.detach()
        if self.copy is None or self.dual is None:
            self.copy = project(constraint, weights)
            self.dual = weights.map(torch.zeros_like)
            return
        shifted = weights.map(_where_nonzero, weights.map(torch.add, self.dual))
        self.copy = project(constraint, shifted, self.copy)
        self.dual = shifted.map(torch.sub, self.copy)

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
        started = {"copy": self.copy, "dual": self.dual}
        return super().state_dict() | {key: None if value is None else dict(value) for key, value in started.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for key in ("copy", "dual"):
            setattr(self, key, None if state[key] is None else self.weights.like(state[key]).clone())


SolverFactory: TypeAlias = Callable[[Weights, Constraint, Ramp], Solver]


def default_solver(weights: Weights, constraint: Constraint, ramp: Ramp) -> Solver:
    """ADMM for a codebook or grid, projection after each step for everything else (ATMC, Algorithm 1)."""
    if constraint.coded:
        return ADMM(weights, constraint, rho=0.1, every=10, ramp=ramp)
    return ProjectedGradient(weights, constraint, ramp=ramp)


def _nonzero(tensor: Tensor) -> Tensor:
    return (tensor != 0).to(tensor.dtype)


def _where_nonzero(weight: Tensor, value: Tensor) -> Tensor:
    return torch.where(weight == 0, torch.zeros_like(value), value)


def project(constraint: Constraint, weights: Weights, near: Weights | None = None) -> Weights:
    """``constraint.project(weights)``, or ``project_near`` where there is a point nearby, looked at before it is used.

    Constraints may be other people's code. What one returns is written nowhere unless it is a finite point of the same
    names, shapes, dtypes and devices in tensors of its own.

    :raises RuntimeError: naming the constraint, where it comes from and what it did.
    :raises FloatingPointError: when the weights themselves are infinite or NaN.
    """
    versions = [tensor._version for tensor in weights.values()]
    cause: Exception | None = None
    try:
        projected = constraint.project(weights) if near is None else constraint.project_near(weights, near)
        offence = _offence(weights, projected)
    except Exception as error:
        cause, offence = error, f"raised {type(error).__name__}: {error}"
    if untouched := [tensor._version for tensor in weights.values()] == versions:
        if offence is None:
            return projected
        _require_finite(weights)
    raise RuntimeError(
        f"the constraint {constraint} of {provider(type(constraint))} {offence or 'changed its argument in place'}; "
        f"the weights are {'as before its projection' if untouched else 'lost, as it changed them in place'}: check it "
        "with art_atmc.testing.check_constraint and report it to its authors, or leave it out"
    ) from cause


def _offence(weights: Weights, projected: object) -> str | None:
    """What is wrong with what a projection returned; None where nothing is."""
    if not isinstance(projected, Weights):
        return f"returned a {type(projected).__name__} in place of Weights"
    if projected.keys() != weights.keys():
        return f"returned the tensors {sorted(projected)} for {sorted(weights)}"
    for name, tensor in weights.items():
        other = projected[name]
        if (other.shape, other.dtype, other.device) != (tensor.shape, tensor.dtype, tensor.device):
            return f"returned {_kind(other)} for `{name}` of {_kind(tensor)}"
        if other.data_ptr() == tensor.data_ptr() and tensor.numel():
            return f"returned its argument for `{name}` in place of a new tensor"
        if not _finite(other):
            return f"returned NaN or infinite values for `{name}`"
    return None


def _kind(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}, {tensor.dtype}, {tensor.device}"


def _finite(tensor: Tensor) -> bool:
    # A sum shows NaN and infinities in one pass; but a sum of finite half-precision values may be infinite too.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _require_finite(weights: Weights) -> None:
    if bad := [name for name, tensor in weights.items() if not _finite(tensor.detach())]:
        raise FloatingPointError(f"the optimizer's step made {bad} infinite or NaN; lower the learning rate")
