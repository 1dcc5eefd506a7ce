r"""The scale of the nearest grid.

For given integers n the best scale is :math:`s = \langle w, n\rangle / \|n\|^2`, which leaves the error
:math:`\|w\|^2 - \langle w, n\rangle^2 / \|n\|^2`. So integers are compared by :math:`\langle w, n\rangle^2 / \|n\|^2`,
and of all integers only those count that are the nearest ones for some scale.
"""

from __future__ import annotations

import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from art_atmc_uniform.grid import Grid, rounded

__all__ = ["nearest_grid"]

_EXACT = 2**18  # breakpoints up to which every one is tried
_SAMPLE = 16  # many scales are tried on one in so many entries of a row, 64 to 512 of them
_FINE = 512  # at most so many
_BLOCK = 2**17  # numbers in hand at once: they stay in the cache
_LLOYD = 3


def nearest_grid(rows: Tensor, grid: Grid, power_of_two: bool) -> tuple[Tensor, Tensor]:
    """Scale and smallest integer of the grid nearest to each row, which must not be zero.

    :param rows: shape (rows, entries), float32 or float64; zeros change nothing.
    :returns: two vectors, of the dtype of ``rows``.
    """
    groups = rows.split(max(1, _BLOCK // rows.shape[1]))
    scales, lows = zip(*(_nearest(group, grid, power_of_two) for group in groups), strict=True)
    return torch.cat(scales), torch.cat(lows)


def _nearest(rows: Tensor, grid: Grid, power_of_two: bool) -> tuple[Tensor, Tensor]:
    search = _Search(rows, grid)
    low, high = search.bracket()
    if power_of_two:
        exponents = torch.arange(math.ceil(float((high / low).log2().max())) + 2, device=rows.device)
        scales = torch.ldexp(torch.ones_like(high), high.log2().floor())[:, None] * 0.5**exponents
        scale = search.best_as_they_are(scales)
    elif search.breakpoints <= _EXACT:
        return search.exact()
    else:
        scale = search.best_near(low, high)
    return scale, search.lows(scale[:, None])[:, 0]


@final
class _Search:
    """Rows of weights, and how much of them grids of given scales capture."""

    def __init__(self, rows: Tensor, grid: Grid) -> None:
        self.rows = rows
        self.grid = grid
        self.offsets = 1 if grid.low is not None else grid.span + 1
        self.breakpoints = rows.numel() * grid.reach * self.offsets
        if grid.low is None:
            self.ordered = rows.sort(dim=1).values
            self.sums = torch.nn.functional.pad(self.ordered.cumsum(dim=1, dtype=torch.float64), (1, 0))

    def bracket(self) -> tuple[Tensor, Tensor]:
        r"""Bounds between which the best scale of each row lies.

        *Above*: where less than half of the span is used, half the scale holds the same values and more. *Below*: a
        grid captures :math:`\sum_i s n_i (2 w_i - s n_i) \le 2 s \max|n| \, \|w\|_1` of :math:`\|w\|^2`. The best has
        to capture as much as some power of two does that holds the largest entry only, one magnitude for all entries
        of a sign, or all of them without clipping.
        """
        largest, total = self.rows.abs().amax(dim=1), self.rows.abs().sum(dim=1)
        count = self.rows.count_nonzero(dim=1)
        if self.grid.low is not None:
            high = 2 * largest / self.grid.reach
        else:
            extent = self.rows.amax(dim=1).clamp(min=0) - self.rows.amin(dim=1).clamp(max=0)
            high = torch.minimum(2 * largest, 2 * extent / max(self.grid.span - 1, 0.5))
        captured = 0.75 * torch.maximum(largest.square(), total.square() / (4 * count))
        if self.grid.span > 1:
            captured = torch.maximum(captured, self.rows.square().sum(dim=1) - count * (high / 2).square())
        return captured / (2 * self.grid.reach * total), high

    def lows(self, scales: Tensor) -> Tensor:
        r"""The best smallest integer for each scale.

        The error is convex in it, so the first is sought from which one more makes the error rise.
        """
        if self.grid.low is not None:
            return torch.full_like(scales, self.grid.low)
        span, entries = self.grid.span, self.rows.shape[1]
        first, last = torch.full_like(scales, -span), torch.zeros_like(scales)
        for _ in range(span.bit_length()):
            low = ((first + last) / 2).floor()
            below = torch.searchsorted(self.ordered, scales * (low + 0.5))
            above = torch.searchsorted(self.ordered, scales * (low + span + 0.5), right=True)
            moved = self.sums.gather(1, below) + self.sums[:, -1:] - self.sums.gather(1, above)
            steps = (2 * low + 1) * below + (2 * (low + span) + 1) * (entries - above)
            rises = scales * steps >= 2 * moved
            first, last = torch.where(rises, first, low + 1), torch.where(rises, low, last)
            first = torch.minimum(first, last)
        return last

    def moments(self, scales: Tensor, lows: Tensor) -> tuple[Tensor, Tensor]:
        """The inner product of weights and nearest integers, and the integers' squared norm; shape (rows, scales)."""
        products, squares = torch.zeros_like(scales), torch.zeros_like(scales)
        buffer = self.rows.new_empty(_BLOCK)
        for block in self.rows.split(max(1, _BLOCK // len(self.rows)), dim=1):
            at_once = max(1, _BLOCK // block.numel())
            for k in range(0, scales.shape[1], at_once):
                some = slice(k, k + at_once)
                shape = len(block), scales[:, some].shape[1], block.shape[1]
                n = buffer[: math.prod(shape)].view(shape)
                rounded(block[:, None], scales[:, some, None], lows[:, some, None], self.grid.span, out=n)
                products[:, some] += torch.linalg.vecdot(n, block[:, None])
                squares[:, some] += torch.linalg.vecdot(n, n)
        return products, squares

    def best_as_they_are(self, scales: Tensor) -> Tensor:
        products, squares = self.moments(scales, self.lows(scales))
        return _pick(scales, scales * (2 * products - scales * squares))

    def best(self, scales: Tensor, lows: Tensor) -> tuple[Tensor, Tensor]:
        """The best of the integers for ``scales``: the scale that suits them, and their least."""
        products, squares = self.moments(scales, lows)
        refined = torch.where(products > 0, products / squares, scales)
        return _pick(refined, products * refined), _pick(lows, products * refined)

    def best_near(self, low: Tensor, high: Tensor) -> Tensor:
        """Coarse over the whole bracket, fine on a part of the entries, fine around the best, then Lloyd's steps.

        Weights that lie near some grid have a narrow optimum there, as wide as half a step at the largest integer:
        that is what the fine search on a part of the entries finds.
        """
        quarters = torch.arange(math.ceil(4 * float((high / low).log2().max())) + 1, device=low.device)
        scales = high[:, None] * 0.5 ** (quarters / 4)
        found = self.best(scales, self.lows(scales))
        many = self.around(*found, 2.0, min(_FINE, 6 * self.grid.reach))
        promising = self.part().captured(*many).topk(4, dim=1).indices
        nearby, _ = self.around(*found, 2**0.25, 33)
        scales = torch.cat([nearby, many[0].gather(1, promising)], dim=1)
        found = self.best(scales, self.lows(scales))
        scale, _ = self.best(*self.around(*found, 1.01, 9))
        for _ in range(_LLOYD):
            scale, _ = self.best(scale[:, None], self.lows(scale[:, None]))
        return scale

    def around(self, scale: Tensor, low: Tensor, most: float, count: int) -> tuple[Tensor, Tensor]:
        """Scales up to a factor of ``most`` from one, under which the middle of the range stays about where it is."""
        factors = most ** torch.linspace(-1, 1, count, dtype=scale.dtype, device=scale.device)
        half = self.grid.span / 2
        lows = ((low + half)[:, None] / factors - half).round().clamp(-self.grid.span, 0)
        return scale[:, None] * factors, lows

    def part(self) -> _Search:
        """A part of the entries: one in so many, 64 to 512 of them."""
        entries = self.rows.shape[1]
        stride = max(1, entries // min(max(entries // _SAMPLE, 64), 512))
        return _Search(self.rows[:, ::stride].contiguous(), dataclasses.replace(self.grid, low=0))

    def captured(self, scales: Tensor, lows: Tensor) -> Tensor:
        products, squares = self.moments(scales, lows)
        return products.square() / squares.clamp(min=1)

    def exact(self) -> tuple[Tensor, Tensor]:
        r"""The best over all scales and offsets.

        As s falls, :math:`|n_i|` grows from k - 1 to k where :math:`s = |w_i| / (k - 1/2)`. Between two such
        breakpoints the integers stay, so all that are nearest for some scale appear as running sums over the sorted
        breakpoints.
        """
        k = torch.arange(1, self.grid.reach + 1, device=self.rows.device)
        lows = self.rows.new_tensor([self.grid.low] if self.grid.low is not None else range(-self.grid.span, 1))
        magnitudes = self.rows.abs()[:, None, :, None]
        most = torch.where(self.rows[:, None] > 0, lows[:, None] + self.grid.span, -lows[:, None])[..., None]
        breaks = torch.where((k <= most) & (magnitudes > 0), magnitudes / (k - 0.5), -1.0).flatten(2)
        breaks, order = breaks.sort(dim=2, descending=True, stable=True)
        products = magnitudes.expand(-1, len(lows), -1, len(k)).flatten(2).gather(2, order).cumsum(dim=2)
        squares = (2 * k - 1).expand(self.rows.shape[1], -1).flatten()[order].cumsum(dim=2)
        captured = torch.where(breaks > 0, products.square() / squares, -1.0).flatten(1)
        best = captured.argmax(dim=1, keepdim=True)
        scale = (products.flatten(1).gather(1, best) / squares.flatten(1).gather(1, best))[:, 0]
        return scale, lows[best[:, 0] // breaks.shape[2]]


def _pick(column: Tensor, captured: Tensor) -> Tensor:
    """Per row the entry where most is captured."""
    return column.gather(1, captured.argmax(dim=1, keepdim=True))[:, 0]
