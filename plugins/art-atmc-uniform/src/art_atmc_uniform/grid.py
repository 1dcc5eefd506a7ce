r"""The grid :math:`\{s\,n : n_0 \le n \le n_0 + m\}`, which holds zero, and which values lie on one."""

from __future__ import annotations

import dataclasses
from typing import final

import torch
from torch import Tensor

__all__ = ["Grid", "nonzeros", "rounded", "scales_of"]

_SAMPLE = 1024  # entries of a row that are looked at before all of them
_FIRST = 4  # entries by which most candidates fall
_CANDIDATES = 2**20  # held at once


@final
@dataclasses.dataclass(frozen=True)
class Grid:
    """Which integers :math:`n` b bits hold: ``span`` + 1 in a row, zero among them.

    ``low`` is the smallest of them; None where it is free, from -span to 0 (the zero point of an affine grid).
    """

    span: int
    low: int | None

    @property
    def reach(self) -> int:
        """The largest magnitude of an integer."""
        return self.span if self.low is None else -self.low

    def holds(self, least: Tensor, greatest: Tensor) -> Tensor:
        """Whether integers from ``least`` to ``greatest`` fit."""
        if self.low is None:
            return greatest.clamp(min=0) - least.clamp(max=0) <= self.span
        return (least >= self.low) & (greatest <= self.low + self.span)


def rounded(rows: Tensor, scale: Tensor, low: Tensor, span: int, out: Tensor | None = None) -> Tensor:
    """The nearest integers :math:`n` of the grid, as floats."""
    n = torch.div(rows, scale, out=out).round_()
    return torch.minimum(torch.maximum(n, low, out=n), low + span, out=n)


def nonzeros(rows: Tensor) -> Tensor:
    """The entries that alone tell grids apart: the non-zeros of each row, padded to the longest row of them."""
    counts = rows.count_nonzero(dim=1)
    most = max(1, int(counts.max()))
    if most == rows.shape[1]:
        return rows
    row, column = rows.nonzero(as_tuple=True)
    place = torch.arange(len(row), device=rows.device) - (counts.cumsum(0) - counts)[row]
    return rows.new_zeros(len(rows), most).index_put_((row, place), rows[row, column])


def scales_of(rows: Tensor, grid: Grid, power_of_two: bool) -> Tensor:
    r"""Per row the largest scale s of which every entry is a rounded multiple, :math:`\mathrm{fl}(s\,n)`; 0 where none.

    The largest magnitude v is :math:`\mathrm{fl}(s\,n)` for one of ``reach`` integers n, which leaves
    :math:`\mathrm{fl}(v / n)` and its two neighbours for s: so few candidates that each can be tried. Most fail at
    the first few entries.

    :param rows: shape (rows, entries), of the dtype for which the rounding counts; fastest where zeros come last.
    :returns: shape (rows,).
    """
    found = rows.new_zeros(len(rows))
    at_once = max(1, _CANDIDATES // grid.reach)
    for first in range(0, len(rows), at_once):
        some = rows[first : first + at_once]
        row, scale = _candidates(some, grid.reach, power_of_two)
        sample = some[:, :: max(1, some.shape[1] // _SAMPLE)]
        for part in (sample[:, :64], sample):
            fits = _fits(part, row, scale, grid)
            row, scale = row[fits], scale[fits]
        # The candidates of a row follow one another, the larger scale first; try the first of each row on all entries.
        while len(row):
            leading = torch.cat([row.new_ones(1, dtype=torch.bool), row[1:] != row[:-1]])
            fits = _fits(some, row[leading], scale[leading], grid)
            found[first + row[leading][fits]] = scale[leading][fits]
            rest = ~leading & (found[first + row] == 0)
            row, scale = row[rest], scale[rest]
    return found


def _candidates(rows: Tensor, reach: int, power_of_two: bool) -> tuple[Tensor, Tensor]:
    """Scales under which the largest magnitude of a row may lie on the grid, each with its row."""
    largest = rows.abs().amax(dim=1)
    row, n = _multiples(rows, largest, reach)
    quotient = (largest.to(_wide(rows.dtype))[row] / n).to(rows.dtype)
    bits = quotient.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])
    scales = torch.stack([bits + 1, bits, bits - 1], dim=-1).view(rows.dtype)
    usable = scales.isfinite() & (scales > 0)
    if power_of_two:
        usable &= torch.frexp(scales.to(_wide(rows.dtype))).mantissa == 0.5
    return row[:, None].expand(-1, 3)[usable], scales[usable]


def _multiples(rows: Tensor, largest: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """The n for which the first entries of a row are about integers too, where n stands for the largest magnitude."""
    n = torch.arange(1, reach + 1, device=rows.device).expand(len(rows), -1)
    row, column = (largest > 0)[:, None].expand_as(n).nonzero(as_tuple=True)
    n = n[row, column]
    for entry in range(min(_FIRST, rows.shape[1])):
        others = rows[:, entry].double() / largest.double()
        multiple = others[row] * n
        # Either value may be off by half a unit in the last place.
        near = (multiple - multiple.round()).abs() <= 1.01 * torch.finfo(rows.dtype).eps * (multiple.abs() + 1)
        row, n = row[near], n[near]
    return row, n


def _fits(rows: Tensor, row: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """For each candidate, a row and a scale, whether all entries of the row lie on the grid."""
    if not rows.shape[1] or not len(row):
        return row.new_ones(len(row), dtype=torch.bool)
    values = rows[row]
    wide, step = values.to(_wide(rows.dtype)), scale.to(_wide(rows.dtype))[:, None]
    n = (wide / step).round_()
    on_grid = ((n * step).to(rows.dtype) == values).all(dim=1)
    return on_grid & grid.holds(n.amin(dim=1), n.amax(dim=1))


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Where products with an integer are computed before they are rounded to ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32
