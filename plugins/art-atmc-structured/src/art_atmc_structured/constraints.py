r"""Structured sparsity as constraints: at most a share of all groups differs from zero.

Which groups there are say the :mod:`~art_atmc_structured.groups`. The budget counts *groups*, whatever their sizes: a
budget of entries over groups of different sizes would make the projection a knapsack problem, while this one is solved
exactly by keeping the longest groups.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from itertools import chain
from typing import final

import torch
from torch import Tensor

from art_atmc import Constraint, Weights
from art_atmc.support.numbers import Flag, Real, check_numbers
from art_atmc_structured.groups import (
    TILE,
    Blocks,
    Channels,
    Columns,
    Filters,
    Grouping,
    Kernels,
    check_ignore,
    grouped_names,
)

__all__ = [
    "BlockSparsity",
    "ChannelSparsity",
    "ColumnSparsity",
    "FilterSparsity",
    "GroupSparsity",
    "KernelSparsity",
]


@dataclasses.dataclass(frozen=True)
class GroupSparsity(Constraint):
    r"""At most a share of all groups differs from zero, and no layer is cut off.

    With :math:`\|W_l\|_{2,0}` the number of groups of layer l that differ from zero and :math:`G_l` that of all,

    .. math:: S = \Bigl\{ w : \sum_l \max(1, \|W_l\|_{2,0}) \le k \Bigr\},
              \qquad k = \Bigl\lfloor \text{density} \cdot \sum_l G_l \Bigr\rfloor

    Each layer is charged for one group at least, so that spending nothing on a layer saves nothing. The projection
    keeps the longest group of each layer and of all others the longest. It is exact: a feasible point is a choice of k
    groups, at least one of each layer, outside of which it is zero; the nearest one keeps W inside, so it is to keep
    the choice with the largest sum of squared lengths. Exchanging any chosen group of a layer for the layer's longest
    lowers no sum, so a best choice has them all; the others are then free, and the longest are best. Among groups of
    equal length the earlier ones stay.

    :param density: share of the groups that may differ from zero, in (0, 1].
    :param per_layer: a budget for each layer, :math:`\max(1, \lfloor \text{density} \cdot G_l \rfloor)`, in place of
        one for all.
    :param ignore: patterns of weights that stay as they are, see :func:`~art_atmc_structured.grouped_names`; the
        default spares the network's outputs (filters) or inputs (channels). Where ``ignore`` of the trainer names them
        already, give ``()``.
    :raises ValueError: when the density is out of range; from ``check`` and ``project``, for factored weights, for
        patterns that match nothing, and for a budget of fewer groups than layers.
    """

    density: float
    per_layer: bool = dataclasses.field(default=False, kw_only=True)
    ignore: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_numbers(self, density=Real("(0, 1]", "give the share of groups to keep"), per_layer=Flag())
        check_ignore(self.ignore)

    @property
    @abc.abstractmethod
    def grouping(self) -> Grouping:
        """How a weight falls into groups."""

    def layers(self, weights: Weights) -> list[tuple[str, ...]]:
        """The names of the weights that are subject to the constraint; those that share their groups together."""
        return [(name,) for name in grouped_names(weights, self.grouping, self.ignore)]

    @final
    def check(self, weights: Weights) -> None:
        layers = self.layers(weights)
        self._budgets(layers, [self.grouping.count(weights[names[0]].shape) for names in layers])

    @final
    def project(self, weights: Weights) -> Weights:
        layers = self.layers(weights)
        lengths = [self._lengths(weights, names) for names in layers]
        budgets = self._budgets(layers, [len(of_layer) for of_layer in lengths])
        if self.per_layer:
            kept = list(chain.from_iterable(_longest([n], k) for n, k in zip(lengths, budgets, strict=True)))
        else:
            kept = _longest(lengths, sum(budgets))
        tensors = dict(weights.clone())
        for names, mask in zip(layers, kept, strict=True):
            for name in names:
                tensors[name].masked_fill_(self.grouping.spread(~mask, tensors[name].shape), 0)
        return weights.like(tensors)

    def relaxed(self, progress: float) -> GroupSparsity:
        r"""Density on the cubic :math:`d(p) = d + (1 - d)(1 - p)^3` (Zhu & Gupta 2017)."""
        if progress >= 1:
            return self
        return dataclasses.replace(self, density=self.density + (1 - self.density) * (1 - progress) ** 3)

    def _lengths(self, weights: Weights, names: Sequence[str]) -> Tensor:
        lengths = [self.grouping.norms(weights[name].detach()) for name in names]
        return lengths[0] if len(lengths) == 1 else torch.stack(lengths).norm(dim=0)

    def _budgets(self, layers: Sequence[tuple[str, ...]], counts: Sequence[int]) -> list[int]:
        """Groups that may differ from zero: in each layer, or in all together as a list of one."""
        if self.per_layer:
            return [max(1, _floor(self.density * count)) for count in counts]
        k, total = _floor(self.density * sum(counts)), sum(counts)
        if k < len(layers):
            raise ValueError(
                f"`density` {self.density} keeps {k} of {total} groups, fewer than there are layers, {len(layers)}, so "
                f"that one would be cut off; give at least {len(layers) / total:.2g}, or per_layer=True"
            )
        return [k]


@final
@dataclasses.dataclass(frozen=True)
class FilterSparsity(GroupSparsity):
    r"""At most a share of all filters (output channels, rows) differs from zero; see :class:`GroupSparsity`.

    :func:`~art_atmc_structured.remove_filters` takes the others out of the network.

    :param coupled: tuples of weights whose filters go together, as those that a residual connection adds up: their i-th
        filters are one group. :func:`~art_atmc_structured.coupled_filters` finds them.

    >>> weights = Weights({"a": torch.tensor([[3.0, 4.0], [1.0, 0.0]]), "b": torch.tensor([[1.0, 1.0], [0.0, 2.0]])})
    >>> kept = FilterSparsity(density=0.5, ignore=()).project(weights)
    >>> kept["a"].tolist(), kept["b"].tolist()
    ([[3.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]])
    """

    coupled: tuple[tuple[str, ...], ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = list(chain.from_iterable(self.coupled))
        if isinstance(self.coupled, str) or any(isinstance(bundle, str) for bundle in self.coupled):
            raise ValueError(f"`coupled` must hold tuples of names, got {self.coupled!r}; write (('a', 'b'),)")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"`coupled` names {twice} more than once; join the tuples that share a weight")

    @property
    def grouping(self) -> Grouping:
        return Filters()

    def layers(self, weights: Weights) -> list[tuple[str, ...]]:
        names = grouped_names(weights, self.grouping, self.ignore)
        if unknown := [name for name in chain.from_iterable(self.coupled) if name not in names]:
            raise ValueError(
                f"`coupled` names {unknown}, which are not among the weights {names} that may lose filters"
            )
        for bundle in self.coupled:
            if len(counts := {name: len(weights[name]) for name in bundle}) and len({*counts.values()}) > 1:
                raise ValueError(f"`coupled` needs weights of as many filters, got {counts}")
        bundle_of = {name: bundle for bundle in self.coupled for name in bundle}
        return list(dict.fromkeys(bundle_of.get(name, (name,)) for name in names))


@final
@dataclasses.dataclass(frozen=True)
class ChannelSparsity(GroupSparsity):
    """At most a share of all input channels (columns of a matrix) differs from zero; see :class:`GroupSparsity`.

    >>> weights = Weights({"a": torch.tensor([[3.0, 2.0, 0.0], [0.0, 2.0, 1.0]])})
    >>> ChannelSparsity(density=0.4, ignore=()).project(weights)["a"].tolist()
    [[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    @property
    def grouping(self) -> Grouping:
        return Channels()


@final
@dataclasses.dataclass(frozen=True)
class ColumnSparsity(GroupSparsity):
    """At most a share of all positions in filters differs from zero; see :class:`GroupSparsity`.

    The filters of a layer all keep the same positions, their shape.

    >>> weights = Weights({"a": torch.tensor([[[3.0, 2.0]], [[0.0, 2.0]]])})
    >>> ColumnSparsity(density=0.5).project(weights)["a"].tolist()
    [[[3.0, 0.0]], [[0.0, 0.0]]]
    """

    @property
    def grouping(self) -> Grouping:
        return Columns()


@final
@dataclasses.dataclass(frozen=True)
class KernelSparsity(GroupSparsity):
    """At most a share of all kernels of convolutions differs from zero; see :class:`GroupSparsity`.

    Matrices have no kernels and stay as they are.

    >>> weights = Weights({"a": torch.tensor([[[3.0, 2.0], [0.0, 2.0]]])})
    >>> KernelSparsity(density=0.5).project(weights)["a"].tolist()
    [[[3.0, 2.0], [0.0, 0.0]]]
    """

    @property
    def grouping(self) -> Grouping:
        return Kernels()


@final
@dataclasses.dataclass(frozen=True)
class BlockSparsity(GroupSparsity):
    r"""At most a share of all tiles of the matrices (out, in\*kernel) differs from zero; see :class:`GroupSparsity`.

    Tiles that the border cuts count as whole ones.

    :param rows: height of a tile, at least 1.
    :param columns: width of a tile, at least 1.

    >>> weights = Weights({"a": torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 4.0]])})
    >>> BlockSparsity(density=0.5, rows=2, columns=2).project(weights)["a"].tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 4.0]]
    """

    rows: int = dataclasses.field(kw_only=True)
    columns: int = dataclasses.field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, rows=TILE, columns=TILE)

    @property
    def grouping(self) -> Grouping:
        return Blocks(self.rows, self.columns)


def _longest(lengths: Sequence[Tensor], k: int) -> list[Tensor]:
    """Masks of the k longest groups of all layers, among them the longest of each; earlier groups first."""
    ranked = torch.cat([of_layer.index_fill(0, of_layer.argmax(), math.inf) for of_layer in lengths])
    order = ranked.argsort(descending=True, stable=True)
    kept = torch.zeros_like(ranked, dtype=torch.bool).index_fill_(0, order[:k], True)
    return list(kept.split([len(of_layer) for of_layer in lengths]))


def _floor(groups: float) -> int:
    # The number that the user meant, not its binary neighbour: 0.29 of 100 is 29, though 0.29 * 100 < 29.
    return math.floor(groups + 1e-6)
