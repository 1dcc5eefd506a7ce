"""The projection on a constraint as solvers use it: what other people's code returns is looked at first."""

from __future__ import annotations

from torch import Tensor

from art_atmc.compression.constraints import Constraint
from art_atmc.compression.weights import Weights
from art_atmc.support.versions import provider

__all__ = ["project", "require_finite"]


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
        require_finite(weights)
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


def require_finite(weights: Weights) -> None:
    if bad := [name for name, tensor in weights.items() if not _finite(tensor.detach())]:
        raise FloatingPointError(f"the optimizer's step made {bad} infinite or NaN; lower the learning rate")
