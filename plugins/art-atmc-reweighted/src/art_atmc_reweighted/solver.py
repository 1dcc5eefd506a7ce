"""Pruning by a reweighted penalty, driven to a given constraint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from art_atmc import Constraint, Ramp, Solver, Weights
from art_atmc.compression import paper_solver, project
from art_atmc.support.numbers import Real, Whole
from art_atmc_reweighted.groups import group_lengths

__all__ = ["Reweighted", "reweighted"]

_TINY = torch.finfo(torch.float64).tiny


@final
class Reweighted(Solver):
    r"""Reweighted regularisation within the ramp, masked training after it (Zhang et al. 2020, arXiv 2004.05531).

    Let the constraint's projection :math:`P_S` keep the groups T(w) and drop the others. The penalty

    .. math:: R(w) = \sum_{g \notin T(w)} P_g \|w_g\|_2, \qquad P_g = \frac{1}{\|w_g\|_2 + \varepsilon},
              \qquad \varepsilon = \max_{g \notin T(w)} \|w_g\|_2

    is zero exactly on S. Its weights P are computed a few times only and held in between: long groups are pushed little
    and short ones much, as by the derivative of :math:`\sum_g \log(\|w_g\| + \varepsilon)`. After each step of the
    optimizer the weights move by the proximal operator of :math:`\lambda R` with T held, soft-thresholding,

    .. math:: w_g \leftarrow \Bigl(1 - \frac{\lambda P_g}{\|w_g\|_2}\Bigr)_+ w_g \quad \text{for } g \notin T(w) .

    Nobody chooses :math:`\lambda`: it grows while R(w) is above the path to the constraint and shrinks while it is
    below,

    .. math:: \log \lambda \leftarrow \log \lambda + \text{reach} \cdot \Delta p \cdot
              \Bigl[10 \log \frac{R(w)}{R(w_0)\,(1 - p)^3}\Bigr]_{-1}^{1},
              \qquad \lambda_0 = 10^{-5} \varepsilon^2,

    with p the progress of the ramp and :math:`\Delta p` that of a step. It never exceeds what takes every group outside
    of T to zero at once. At the ramp's end the support becomes that of :math:`P_S(w)`, for good. A ramp without length
    leaves no time for the penalty: then this is pruning in one shot.

    Groups are those of the constraint where it is :class:`~art_atmc_reweighted.Grouped`, else single entries.

    :param weights: the parameters themselves.
    :param constraint: on which entries are zero, such as :class:`~art_atmc.Sparsity` and all of
        ``art_atmc_structured``.
    :param ramp: when the penalty acts.
    :param every: act after every so many optimizer steps.
    :param updates: how often P is computed over the ramp, evenly, at its start first.
    :param reach: how far log lambda can go over the ramp, positive; for a group as long as epsilon to vanish it must go
        by :math:`\log(2 \cdot 10^5) = 12.2`.
    :raises TypeError: for a constraint that changes more than zeros, such as a codebook.
    :raises ValueError: for numbers out of range, and when the constraint refuses the weights.

    >>> from art_atmc import Sparsity
    >>> w = torch.nn.Parameter(torch.tensor([4.0, 2.0, 1.0]))
    >>> solver = Reweighted(Weights({"w": w}), Sparsity(density=0.34), Ramp(0, 2))
    >>> solver.step()               # lambda = 4e-5 exp(7.5) = 0.0723, P = 1 / (2 + 2) and 1 / (1 + 2)
    >>> [round(v, 4) for v in w.tolist()]
    [4.0, 1.9819, 0.9759]
    >>> solver.step()
    >>> w.tolist()
    [4.0, 0.0, 0.0]
    """

    def __init__(
        self,
        weights: Weights,
        constraint: Constraint,
        ramp: Ramp | None = None,
        *,
        every: int = 1,
        updates: int = 4,
        reach: float = 15.0,
    ) -> None:
        super().__init__(weights, constraint, every=every, ramp=ramp)
        _require_support(constraint, weights.detach())
        self.updates: int = Whole(1, None, "4 was chosen on validation data").plain("updates", updates)
        self.reach: float = Real("(0, inf)", "15 was chosen on validation data").plain("reach", reach)
        self.updated = 0
        self.strength = 0.0
        self.start = 0.0
        self.factors: Weights | None = None
        self.support: Weights | None = None

    def enforce(self, constraint: Constraint) -> None:
        weights = self.weights.detach()
        progress = self.ramp.progress(self.steps)
        if progress == 1 and self.support is None:
            self.support = self._kept(weights)
            self.factors = None
        if self.support is not None:
            self.weights.assign_(weights.map(lambda w, kept: (w * kept).add_(0.0), self.support))  # no negative zeros
        elif progress is not None:
            self._shrink(weights, progress)

    def _shrink(self, weights: Weights, progress: float) -> None:
        """One step of the proximal operator, with lambda corrected for what the last ones achieved."""
        lengths = group_lengths(self.constraint, weights)
        kept = self._kept(weights)
        border = max(map(_longest, lengths.map(_zero_where, kept).values()))
        if border == 0:
            return  # feasible as it is
        if int(progress * self.updates) >= self.updated:
            self.factors = lengths.map(lambda length: 1 / (length + border))
            self.strength = self.strength or 1e-5 * border**2
            self.updated = int(progress * self.updates) + 1
        assert self.factors is not None
        factors = self.factors.map(_zero_where, kept)
        penalty = _penalty(weights, factors, lengths)
        self.start = self.start or penalty
        surplus = math.log(max(penalty, _TINY)) - math.log(max(self.start * (1 - progress) ** 3, _TINY))
        enough = max(map(_longest, lengths.map(torch.div, self.factors).map(_zero_where, kept).values()))
        most = self.reach * self.every / (self.ramp.end - self.ramp.start)
        self.strength = min(enough, self.strength * math.exp(most * min(1.0, max(-1.0, 10 * surplus))))
        self.weights.assign_(weights.map(self._thresholded, factors, lengths))

    def _thresholded(self, weight: Tensor, factor: Tensor, length: Tensor) -> Tensor:
        return weight * (1 - self.strength * factor / _positive(length)).clamp_min(0)

    def _kept(self, weights: Weights) -> Weights:
        """Where the projection keeps the group of an entry, as booleans."""
        return group_lengths(self.constraint, project(self.constraint, weights)).map(lambda length: length > 0)

    def state_dict(self) -> dict[str, Any]:
        numbers = {"updated": self.updated, "strength": self.strength, "start": self.start}
        tensors = {"factors": self.factors, "support": self.support}
        held = {key: None if value is None else dict(value) for key, value in tensors.items()}
        return super().state_dict() | numbers | held

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.updated, self.strength, self.start = state["updated"], state["strength"], state["start"]
        for key in ("factors", "support"):
            setattr(self, key, None if state[key] is None else self.weights.like(state[key]).clone())


def reweighted(weights: Weights, constraint: Constraint, ramp: Ramp, **options: Any) -> Solver:
    """:class:`Reweighted` for supports, and ADMM for a codebook or grid as in the paper; a ``solver`` of the trainer.

    :param options: of :class:`Reweighted`; give them by ``functools.partial``.

    >>> from art_atmc import Quantization, Sparsity
    >>> weights = Weights({"w": torch.nn.Parameter(torch.ones(4))})
    >>> [type(reweighted(weights, c, Ramp())).__name__ for c in (Sparsity(density=0.5), Quantization(bits=2))]
    ['Reweighted', 'ADMM']
    """
    if constraint.coded:
        return paper_solver(weights, constraint, ramp)
    return Reweighted(weights, constraint, ramp, **options)


def _zero_where(tensor: Tensor, condition: Tensor) -> Tensor:
    return tensor.masked_fill(condition, 0)


def _longest(lengths: Tensor) -> float:
    return float(lengths.max()) if lengths.numel() else 0.0


def _positive(length: Tensor) -> Tensor:
    return length.clamp_min(torch.finfo(length.dtype).tiny)


def _penalty(weights: Weights, factors: Weights, lengths: Weights) -> float:
    """Sum of P r over groups, entry by entry, see :func:`~art_atmc_reweighted.group_lengths`."""
    parts = weights.map(lambda w, factor, length: factor * w * (w / _positive(length)), factors, lengths)
    return sum(float(part.sum(dtype=torch.float64)) for part in parts.values())


def _require_support(constraint: Constraint, weights: Weights) -> None:
    """Refuse sets that say more than which entries are zero: a mask can't stand for them."""
    if constraint.coded or not _keeps_or_zeroes(project(constraint, weights), weights):
        raise TypeError(
            f"{constraint} says more than which entries are zero, so no penalty on lengths leads to it; give it to "
            "another solver, as art_atmc_reweighted.reweighted does with codebooks, and a sparsity to Reweighted"
        )


def _keeps_or_zeroes(projected: Weights, weights: Weights) -> bool:
    return all(bool(((z == 0) | (z == weights[name])).all()) for name, z in projected.items())
