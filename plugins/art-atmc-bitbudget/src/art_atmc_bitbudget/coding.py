r"""What a codebook captures of a tensor, given what a non-zero costs.

Writing a code c in place of zero for the value x captures :math:`x^2 - (x - c)^2 = c\,(2x - c)` of the squared norm.
The best of several codes captures :math:`g(x) = \max_c c\,(2x - c)`, which is convex and grows with |x| on either side
of zero. So at a price :math:`\mu` for a non-zero, those values are kept that lie outside an interval around zero, and
both its ends follow from the codes: all that is needed of the values is to have them sorted, with running sums.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_atmc.compression import fit_codebook

__all__ = ["CODEBOOK", "WIDTHS", "Coding", "Floats", "Ints", "Values"]

Floats: TypeAlias = npt.NDArray[Any]
Ints: TypeAlias = npt.NDArray[np.int64]

WIDTHS = range(1, 9)
CODEBOOK = 32  # bits for each value of a codebook
_LLOYD = 6  # steps while supports and widths are sought
_PART = 2  # values for each code that its first place is computed from, and _BASE more
_BASE = 256
_EXACT = 2**16  # values times codes up to which all values are


@final
@dataclasses.dataclass(frozen=True)
class Side:
    """The magnitudes of one sign, ascending, with running sums of them and of their squares."""

    ordered: Floats
    sums: Floats
    squares: Floats

    @classmethod
    def of(cls, ordered: Floats) -> Side:
        wide = np.concatenate(([0.0], ordered))
        sums = wide.cumsum()
        return cls(ordered, sums, np.square(wide, out=wide).cumsum())

    @property
    def distinct(self) -> int:
        return int(np.count_nonzero(self.ordered[1:] != self.ordered[:-1])) + bool(len(self.ordered))

    def upto(self, bounds: Floats) -> Ints:
        """How many magnitudes are at most each bound."""
        return self.ordered.searchsorted(bounds.astype(self.ordered.dtype), side="right")


def _ascending(magnitudes: Tensor) -> Floats:
    """Sorted, on the host: as integers, whose order positive numbers share and torch sorts several times faster."""
    bits = torch.int64 if magnitudes.dtype == torch.float64 else torch.int32
    ordered: Floats = magnitudes.view(bits).sort().values.view(magnitudes.dtype).cpu().numpy()
    return ordered


@final
class Values:
    """The non-zeros of a tensor, sorted, on the host."""

    def __init__(self, tensor: Tensor) -> None:
        flat = tensor.detach().flatten()
        flat = flat if flat.dtype == torch.float64 else flat.float()
        self.sides = Side.of(_ascending(-flat[flat < 0])), Side.of(_ascending(flat[flat > 0]))
        self.count = sum(len(side.ordered) for side in self.sides)
        self.distinct = sum(side.distinct for side in self.sides)

    @property
    def largest(self) -> float:
        return max(float(side.ordered[-1]) if len(side.ordered) else 0.0 for side in self.sides)

    def above(self, prices: Floats) -> Ints:
        """How many squares are above each price."""
        negative, positive = (len(side.ordered) - side.upto(np.sqrt(prices)) for side in self.sides)
        return negative + positive

    def bound(self, prices: Floats) -> Floats:
        r"""What no codebook can exceed at a price for a non-zero: :math:`\sum_{x^2 > \mu} (x^2 - \mu)`."""
        total = np.zeros_like(prices)
        for side in self.sides:
            first = side.upto(np.sqrt(prices))
            total += side.squares[-1] - side.squares[first] - prices * (len(side.ordered) - first)
        return total

    def fitted(self, width: int, price: float, start: Floats | None = None) -> Coding:
        """A codebook for what is worth ``price``."""
        counts = np.array([len(side.ordered) - side.upto(np.sqrt([price]))[0] for side in self.sides])
        return self.coded(width, counts, start).refined(price)

    def coded(self, width: int, counts: Ints, start: Floats | None = None) -> Coding:
        """A codebook for the largest magnitudes of either sign, so many: exact for few, else from a part of them."""
        parts = [side.ordered[len(side.ordered) - n :] for side, n in zip(self.sides, counts, strict=True)]
        values = np.concatenate((-parts[0][::-1], parts[1]))
        if not len(values):
            return Coding(self, np.empty(0), width)
        few = len(values) << width <= _EXACT
        part = values if few else values[:: max(1, len(values) // (_PART * 2**width + _BASE))]
        former = None if few or start is None or not len(start) else torch.from_numpy(start)
        codes = fit_codebook(torch.from_numpy(part.astype(np.float64)), 2**width, start=former).numpy()
        coding = Coding(self, codes, width)
        return coding if few else coding.settled(counts)


@final
class Coding:
    """A codebook of at most 2^width values on the values of a tensor."""

    def __init__(self, values: Values, codes: Floats, width: int) -> None:
        self.values = values
        self.codes = codes
        self.width = width
        parts = -codes[codes < 0][::-1], codes[codes > 0]
        self.sides = [_Coded(side, part) for side, part in zip(values.sides, parts, strict=True)]

    def at(self, prices: Floats) -> tuple[Ints, Floats]:
        """For each price the numbers of non-zeros, negative and positive, shape (2, prices), and what they capture."""
        counts, captured = zip(*(side.at(prices) for side in self.sides), strict=True)
        return np.stack(counts), sum(captured)

    def captured(self, counts: Ints) -> float:
        """What the largest magnitudes of either sign capture, so many."""
        return sum(side.captured(int(n)) for side, n in zip(self.sides, counts, strict=True))

    def size(self, counts: Ints) -> Ints:
        """Bits of a tensor with so many non-zeros: an index each, and the codebook."""
        total = counts.sum(axis=0)
        return np.where(total > 0, self.width * total + CODEBOOK * 2**self.width, 0)

    def refined(self, price: float) -> Coding:
        """Lloyd's steps: codes become the means of what they are kept for at ``price``."""
        coding, captured = self, -np.inf
        for _ in range(_LLOYD):
            counts, reached = coding.at(np.array([price]))
            reached = reached - price * counts.sum(axis=0)
            if not reached[0] > captured * (1 + 1e-9) or not counts.any():
                break
            captured = reached[0]
            coding = coding.moved(counts[:, 0])
        return coding

    def settled(self, counts: Ints, steps: int = _LLOYD) -> Coding:
        """Lloyd's steps on so many of the largest magnitudes of either sign."""
        coding = self
        for _ in range(steps):
            moved = coding.moved(counts)
            if np.array_equal(moved.codes, coding.codes):
                break
            coding = moved
        return coding

    def moved(self, counts: Ints) -> Coding:
        """Every code at the mean of its cell, of which only so many largest magnitudes of each sign count."""
        negative, positive = (side.means(int(n)) for side, n in zip(self.sides, counts, strict=True))
        return Coding(self.values, np.concatenate((-negative[::-1], positive)), self.width)


@final
class _Coded:
    """One sign of a coding; all codes are positive here."""

    def __init__(self, side: Side, codes: Floats) -> None:
        self.side = side
        self.codes = codes
        # The gain is c_j (2x - c_j) between the middles of neighbouring codes, where it is the product of both.
        self.products = np.zeros(len(codes))
        np.multiply(codes[:-1], codes[1:], out=self.products[1:])
        self.ends = np.full(len(codes), len(side.ordered))
        self.ends[:-1] = side.upto((codes[:-1] + codes[1:]) / 2)

    @functools.cached_property
    def beyond(self) -> Floats:
        """What the cells of all larger codes capture."""
        cells = self._gain(np.arange(len(self.codes)), self._begins(len(self.side.ordered)), self.ends)
        return cells[::-1].cumsum()[::-1] - cells

    def _gain(self, code: Ints, first: Ints, last: Ints) -> Floats:
        c = self.codes[code]
        return c * (2 * (self.side.sums[last] - self.side.sums[first]) - c * (last - first))

    def at(self, prices: Floats) -> tuple[Ints, Floats]:
        """Number of magnitudes that capture more than each price, and what they capture together."""
        if not len(self.codes):
            return np.zeros(len(prices), np.int64), np.zeros(len(prices))
        code = self.products.searchsorted(prices, side="right") - 1
        c = self.codes[code]
        first = np.minimum(self.side.upto((prices / c + c) / 2), self.ends[code])
        captured = self.beyond[code] + self._gain(code, first, self.ends[code])
        return len(self.side.ordered) - first, captured

    def captured(self, count: int) -> float:
        begins = self._begins(count)
        return float(self._gain(np.arange(len(self.codes)), begins, np.maximum(begins, self.ends)).sum())

    def means(self, count: int) -> Floats:
        begins = self._begins(count)
        filled = self.ends > begins
        sums = self.side.sums[self.ends] - self.side.sums[begins]
        means: Floats = sums[filled] / (self.ends - begins)[filled]
        return means

    def _begins(self, count: int) -> Ints:
        """Where the cells begin of which only the ``count`` largest magnitudes count."""
        begins = np.zeros_like(self.ends)
        begins[1:] = self.ends[:-1]
        return np.maximum(begins, len(self.side.ordered) - count)

    def next_run(self, count: int) -> tuple[int, float]:
        """Beyond the ``count`` largest: how many magnitudes are equal, and what each would capture."""
        last = len(self.side.ordered) - count
        if not last or not len(self.codes):
            return 0, 0.0
        x = self.side.ordered[last - 1]
        run = last - int(self.side.ordered.searchsorted(x))
        return run, float((self.codes * (2 * float(x) - self.codes)).max())
