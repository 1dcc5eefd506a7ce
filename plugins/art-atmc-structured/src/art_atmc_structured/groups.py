r"""Groups: the parts of a weight that structured sparsity keeps or drops as a whole.

A weight W of shape (m, n, \*kernel), as of a linear or convolution layer with m outputs and n inputs, falls into groups
that together hold each entry once. A :class:`Grouping` lays them out as the rows of a matrix and puts them back.

In a *transposed* convolution torch stores W as (inputs, outputs, \*kernel), so its :class:`Filters` are what reads an
input and its :class:`Channels` what makes an output. In a *grouped* convolution the second dimension holds the inputs
of one group only. Of an embedding, the rows are the words.
"""

from __future__ import annotations

import abc
import dataclasses
import fnmatch
import math
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from art_atmc import Weights
from art_atmc.support.numbers import Whole, check_numbers

__all__ = [
    "Blocks",
    "Channels",
    "Columns",
    "Entries",
    "Filters",
    "Grouping",
    "Kernels",
    "check_ignore",
    "grouped_names",
]

TILE = Whole(1, None, "a block needs a height and a width")


@dataclasses.dataclass(frozen=True)
class Grouping(abc.ABC):
    r"""A partition of the entries of a weight, :math:`W \mapsto (W_1, \dots, W_G)`.

    Subclasses say how, by :meth:`group` and its inverse :meth:`ungroup`, both differentiable.
    """

    least_dimensions: ClassVar[int] = 2
    """A weight of fewer dimensions has no such groups."""

    interface: ClassVar[int | None] = None
    """Which of the weights, in the order of the model, has groups that are not free to go: 0 where those of the first
    one are the network's inputs, -1 where those of the last one are its outputs."""

    @abc.abstractmethod
    def group(self, weight: Tensor) -> Tensor:
        """The groups of ``weight`` as rows, shape (groups, entries of a group): a view or a copy."""

    @abc.abstractmethod
    def ungroup(self, grouped: Tensor, shape: Sequence[int]) -> Tensor:
        """The weight of this ``shape`` whose groups are the rows of ``grouped``; inverse of :meth:`group`."""

    @final
    def applies_to(self, shape: Sequence[int]) -> bool:
        """Whether a weight of this ``shape`` has such groups."""
        return len(shape) >= self.least_dimensions

    @final
    def count(self, shape: Sequence[int]) -> int:
        """Number of groups of a weight of this ``shape``."""
        return len(self.group(torch.empty(tuple(shape), device="meta")))

    @final
    def norms(self, weight: Tensor) -> Tensor:
        r"""Length of every group, :math:`\|W_g\|_2`, shape (groups,), in double precision, where the squares of single
        precision neither vanish nor overflow."""
        # Groups that lie alike in memory are summed in the same order, so equal ones get equal lengths.
        return torch.linalg.vector_norm(self.group(weight).contiguous(), dim=1, dtype=torch.float64)

    @final
    def spread(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """One value for each group, shape (groups,), at all of its entries; this ``shape``, maybe a view."""
        size = self.group(torch.empty(tuple(shape), device="meta")).shape[1]
        return self.ungroup(values[:, None].expand(-1, size), shape)


@final
@dataclasses.dataclass(frozen=True)
class Filters(Grouping):
    """What makes one output: W[i], a filter of a convolution, a row of a matrix. m groups.

    >>> Filters().group(torch.arange(6).reshape(2, 3)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """

    interface: ClassVar[int | None] = -1

    def group(self, weight: Tensor) -> Tensor:
        return weight.reshape(len(weight), -1)

    def ungroup(self, grouped: Tensor, shape: Sequence[int]) -> Tensor:
        return grouped.reshape(tuple(shape))


@final
@dataclasses.dataclass(frozen=True)
class Channels(Grouping):
    """What reads one input: W[:, j], an input channel of a convolution, a column of a matrix. n groups.

    >>> Channels().group(torch.arange(6).reshape(2, 3)).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """

    interface: ClassVar[int | None] = 0

    def group(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, 1).reshape(weight.shape[1], -1)

    def ungroup(self, grouped: Tensor, shape: Sequence[int]) -> Tensor:
        outputs, inputs, *kernel = shape
        return grouped.reshape(inputs, outputs, *kernel).transpose(0, 1)


@final
@dataclasses.dataclass(frozen=True)
class Columns(Grouping):
    r"""One position of all filters alike: W[:, j, y, x], which gives filters a common shape.

    The columns of W as a matrix (m, n\*kernel). Of a matrix they are its :class:`Channels`.

    >>> Columns().group(torch.arange(8).reshape(2, 1, 2, 2)).tolist()
    [[0, 4], [1, 5], [2, 6], [3, 7]]
    """

    def group(self, weight: Tensor) -> Tensor:
        return weight.reshape(len(weight), -1).T

    def ungroup(self, grouped: Tensor, shape: Sequence[int]) -> Tensor:
        return grouped.T.reshape(tuple(shape))


@final
@dataclasses.dataclass(frozen=True)
class Kernels(Grouping):
    """One kernel of one filter: W[i, j], at least three dimensions. m n groups; a matrix has no kernels.

    >>> Kernels().group(torch.arange(8).reshape(2, 2, 2)).tolist()
    [[0, 1], [2, 3], [4, 5], [6, 7]]
    """

    least_dimensions: ClassVar[int] = 3

    def group(self, weight: Tensor) -> Tensor:
        return weight.reshape(weight.shape[0] * weight.shape[1], -1)

    def ungroup(self, grouped: Tensor, shape: Sequence[int]) -> Tensor:
        return grouped.reshape(tuple(shape))


@final
@dataclasses.dataclass(frozen=True)
class Blocks(Grouping):
    r"""Tiles of W as a matrix (m, n\*kernel), from the upper left, row of tiles by row of tiles.

    Where the matrix is no multiple of the tile, the tiles at the lower and right border hold fewer entries; the rows of
    :meth:`group` are filled up with zeros, which :meth:`ungroup` drops again.

    :param rows: height of a tile, at least 1.
    :param columns: width of a tile, at least 1.
    :raises ValueError: for other numbers.

    >>> Blocks(rows=2, columns=2).group(torch.arange(1, 7).reshape(2, 3)).tolist()
    [[1, 2, 4, 5], [3, 0, 6, 0]]
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        check_numbers(self, rows=TILE, columns=TILE)

    def group(self, weight: Tensor) -> Tensor:
        down, across = self._tiles(weight.shape)
        matrix = weight.reshape(len(weight), -1)
        matrix = pad(matrix, (0, across * self.columns - matrix.shape[1], 0, down * self.rows - matrix.shape[0]))
        tiles = matrix.reshape(down, self.rows, across, self.columns).transpose(1, 2)
        return tiles.reshape(down * across, self.rows * self.columns)

    def ungroup(self, grouped: Tensor, shape: Sequence[int]) -> Tensor:
        down, across = self._tiles(shape)
        tiles = grouped.reshape(down, across, self.rows, self.columns).transpose(1, 2)
        matrix = tiles.reshape(down * self.rows, across * self.columns)
        return matrix[: shape[0], : math.prod(shape[1:])].reshape(tuple(shape))

    def _tiles(self, shape: Sequence[int]) -> tuple[int, int]:
        return -(-shape[0] // self.rows), -(-math.prod(shape[1:]) // self.columns)


@final
@dataclasses.dataclass(frozen=True)
class Entries(Grouping):
    """Every entry for itself: no structure.

    >>> Entries().group(torch.tensor([[1, 2]])).tolist()
    [[1], [2]]
    """

    least_dimensions: ClassVar[int] = 0

    def group(self, weight: Tensor) -> Tensor:
        return weight.reshape(-1, 1)

    def ungroup(self, grouped: Tensor, shape: Sequence[int]) -> Tensor:
        return grouped.reshape(tuple(shape))


def grouped_names(weights: Weights, grouping: Grouping, ignore: Sequence[str] | None = None) -> list[str]:
    """The names of the weights whose groups may go, in the order of ``weights``.

    A weight without such groups, as a matrix for :class:`Kernels`, is left out.

    :param ignore: shell-style patterns of weights, layers or modules that stay as they are, such as ``"head"``; by
        default the one weight at the network's ``interface``: the last for :class:`Filters`, whose rows are the
        outputs, the first for :class:`Channels`. ``()`` for none.
    :raises ValueError: for factors U, V, C, whose groups are not those of W; for patterns that match nothing; and when
        no weight is left.

    >>> weights = Weights({"fc1.weight": torch.ones(4, 3), "fc2.weight": torch.ones(2, 4)})
    >>> grouped_names(weights, Filters()), grouped_names(weights, Filters(), ignore=["fc1"])
    (['fc1.weight'], ['fc2.weight'])
    """
    if factored := [n[:-2] for n in weights if n.endswith(".U") and {f"{n[:-1]}V", f"{n[:-1]}C"} <= weights.keys()]:
        raise ValueError(
            f"{factored} are factored, and groups of the factors are not groups of W; train the weights themselves "
            "with ATMCTrainer(..., factored=False), or fold the factors with art_atmc.recompose first"
        )
    every = list(weights)
    if ignore is None:
        ignored = set() if grouping.interface is None else {every[grouping.interface]}
    else:
        matches = {pattern: [name for name in every if _matches(pattern, name)] for pattern in ignore}
        if unused := [pattern for pattern, found in matches.items() if not found]:
            raise ValueError(f"the `ignore` patterns {unused} match none of the weights {every}; give their names")
        ignored = {name for found in matches.values() for name in found}
    names = [name for name in every if name not in ignored and grouping.applies_to(weights[name].shape)]
    if not names:
        raise ValueError(
            f"{grouping} has no weight to act on: {sorted(ignored) or 'none'} of {every} are ignored, and the others "
            "have no such groups; give `ignore`, () for nothing, or another grouping"
        )
    return names


def check_ignore(ignore: object) -> None:
    """Refuse, with a ``ValueError``, patterns that are no tuple, which a frozen constraint can't hold."""
    if ignore is not None and not isinstance(ignore, tuple):
        raise ValueError(f"`ignore` must be a tuple of patterns, got {ignore!r}; write ('head',), or () for none")


def _matches(pattern: str, name: str) -> bool:
    """A pattern names the weight, its layer, or a module above it, as in :func:`art_atmc.compressible`."""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))
