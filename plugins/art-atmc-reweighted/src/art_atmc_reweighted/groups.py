"""Lengths of groups, at each of their entries: single weights and groups in one form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from art_atmc import Constraint, Weights

__all__ = ["Grouped", "group_lengths"]


class Grouping(Protocol):
    """A partition of the entries of a weight."""

    def norms(self, weight: Tensor) -> Tensor:
        """Length of every group, shape (groups,)."""

    def spread(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """One value for each group at all of its entries, a tensor of this shape."""


@runtime_checkable
class Grouped(Protocol):
    """A constraint on whole groups, as all of ``art_atmc_structured.GroupSparsity`` are."""

    @property
    def grouping(self) -> Grouping:
        """How a weight falls into groups."""

    def layers(self, weights: Weights) -> Sequence[tuple[str, ...]]:
        """The names of the weights that are constrained; those whose i-th groups are one together."""


def group_lengths(constraint: Constraint, weights: Weights) -> Weights:
    r"""For every entry the length of its group, :math:`r_i = \|w_{g(i)}\|_2`.

    For a constraint that is not :class:`Grouped` every entry is a group, :math:`r_i = |w_i|`. Weights that a grouped
    constraint leaves alone belong to groups of infinite length: they are never too short.

    Sums over groups become sums over entries, since :math:`\sum_{i \in g} w_i^2 / r_i = \|w_g\|_2`.

    >>> from art_atmc import Sparsity
    >>> group_lengths(Sparsity(density=0.5), Weights({"w": torch.tensor([3.0, -4.0])}))["w"].tolist()
    [3.0, 4.0]
    """
    if not isinstance(constraint, Grouped):
        return weights.map(torch.abs)
    lengths = dict(weights.map(lambda t: torch.full_like(t, math.inf)))
    for names in constraint.layers(weights):
        joint = torch.stack([constraint.grouping.norms(weights[name]) for name in names]).norm(dim=0)
        for name in names:
            lengths[name] = constraint.grouping.spread(joint, weights[name].shape).to(weights[name].dtype)
    return weights.like(lengths)
