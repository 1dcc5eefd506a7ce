"""Ternary weights: a constraint for art-atmc in fifty lines."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, final

import torch
from torch import Tensor

from art_atmc import Constraint, Weights

__all__ = ["Ternary"]


@final
@dataclasses.dataclass(frozen=True)
class Ternary(Constraint):
    r"""Every tensor holds the values -a, 0 and +a only, with an a of its own.

    .. math:: S = \{ w : W_l \in \{-a_l, 0, a_l\}^{n_l},\; a_l \ge 0 \text{ for every } l \}

    For k non-zeros the best are the k largest magnitudes, with a their mean. That leaves the squared distance
    :math:`\|W\|^2 - m_k^2 / k` with :math:`m_k` their sum, so the k with the largest :math:`m_k / \sqrt k` is taken.

    >>> Ternary().project(Weights({"w": torch.tensor([3.0, -2.0, 0.5, 0.0])}))["w"].tolist()
    [2.5, -2.5, 0.0, 0.0]
    """

    coded: ClassVar[bool] = True

    def project(self, weights: Weights) -> Weights:
        return weights.map(nearest_ternary)


def nearest_ternary(weight: Tensor) -> Tensor:
    """The ternary tensor nearest to ``weight``; a ternary one comes back bit for bit."""
    weight = weight.detach()
    ordered = weight.abs().flatten().sort(descending=True).values
    ordered = ordered[: int(ordered.count_nonzero())]  # zeros come last; they stay zero
    if not ordered.numel() or ordered[0] == ordered[-1]:
        return weight.clone()
    counts = torch.arange(1, len(ordered) + 1, device=weight.device, dtype=torch.float64)
    sums = ordered.cumsum(0, dtype=torch.float64)
    best = int((sums / counts.sqrt()).argmax())
    mean = (sums[best] / counts[best]).to(weight.dtype)
    return torch.where(weight.abs() >= ordered[best], weight.sign() * mean, torch.zeros_like(weight))
