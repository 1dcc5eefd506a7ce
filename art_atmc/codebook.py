r"""Optimal one-dimensional k-means: a codebook for the values of one tensor.

The optimal cells are intervals of the sorted values, so a codebook is a partition of a sorted list. The partition is
found by an exact dynamic program over at most 4096 bins, then refined on the values themselves by Lloyd's algorithm,
whose step costs one search per code and one pass over the sorted values.

Everything but the sort runs on the host: values of an accelerator are sorted there and copied once, so that the
codebook does not depend on the device.
"""

from __future__ import annotations

import platform
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["fit_codebook", "nearest_code"]

Floats: TypeAlias = npt.NDArray[Any]
Indices: TypeAlias = npt.NDArray[np.intp]

_BINS = 4096
_EXACT_CODES = 1024  # the dynamic program's time and memory grow with codes times bins
_COLD_STEPS = 100
_WARM_STEPS = 4
# On x86, torch sorts long integer tensors by radix: 10 ms for a million, against 6 to 32 ms for numpy's vector sort,
# which some AVX-512 processors run in microcode.
_RADIX_FROM = 32_768 if platform.machine().lower() in ("x86_64", "amd64") else None


def fit_codebook(values: Tensor, size: int, *, start: Tensor | None = None) -> Tensor:
    r"""The codebook nearest to the values in the mean square.

    .. math:: \arg\min_{c \in \mathbb{R}^m} \; \sum_i \min_j (v_i - c_j)^2

    Without ``start`` the search is global: it is exact while there are at most 4096 distinct values and 1024 codes,
    and within 0.3 % of the optimum beyond that many values. With ``start`` it is a few steps of Lloyd's algorithm from
    there, and never ends above the squared error of ``start``. Every centre is the mean of its cell, rounded to the
    dtype. Zero is a value like any other; leave the zeros out to keep them exact.

    :param values: v, any shape, at least one entry, finite; float16, bfloat16, float32 or float64.
    :param size: m, the largest number of codes, at least 1.
    :param start: codebook of an earlier call, one to m finite values in any order.
    :return: the centres, ascending and distinct, of the dtype and device of ``values``: exactly the distinct values
        when there are at most m of them, else m centres.
    :raises TypeError: when the values are not floating-point.
    :raises ValueError: when an argument is out of its range.

    Source: Wu 1991, *Optimal quantization by matrix searching*, for the dynamic program; Lloyd 1982 for the steps.

    >>> fit_codebook(torch.tensor([7.0, 1.0, 2.0, 9.0]), 2)
    tensor([1.5000, 8.0000])
    """
    ordered = _sorted(values, size)
    fresh = np.append(True, ordered[1:] != ordered[:-1])
    if np.count_nonzero(fresh) <= size:
        centres = ordered[fresh]
    elif start is None:
        cells = _optimal_cells(ordered, np.flatnonzero(fresh), min(size, _EXACT_CODES))
        centres = _lloyd(ordered, _means(ordered, cells, values.dtype), size, _COLD_STEPS, values.dtype)
    else:
        centres = _lloyd(ordered, _checked_start(start, size, ordered.dtype), size, _WARM_STEPS, values.dtype)
    return torch.from_numpy(centres).to(values.device, values.dtype)


def nearest_code(values: Tensor, codebook: Tensor) -> Tensor:
    r"""Each value replaced by the nearest centre, :math:`\arg\min_{c \in C} |v_i - c|`; between two, by the lower one.

    :param values: v, finite, any shape.
    :param codebook: C, ascending and distinct, as :func:`fit_codebook` returns it; of the dtype of ``values``.
    :return: a new tensor of the shape, dtype and device of ``values``.
    :raises ValueError: when the codebook is empty, not ascending, or of another dtype.

    >>> nearest_code(torch.tensor([7.0, 5.0, 2.0]), torch.tensor([2.0, 8.0]))
    tensor([8., 2., 2.])
    """
    codebook = codebook.detach().to(values.device)
    centres = _widened(codebook).cpu().numpy()
    if codebook.dim() != 1 or codebook.dtype != values.dtype or not len(centres) or (np.diff(centres) <= 0).any():
        raise ValueError(f"`codebook` must be a vector of ascending values of dtype {values.dtype}, got shape "
                         f"{tuple(codebook.shape)} and dtype {codebook.dtype}; pass the result of `fit_codebook`")
    bounds = torch.from_numpy(_bounds(centres)).to(values.device)
    codes = torch.bucketize(_widened(values.detach()).reshape(-1).contiguous(), bounds)
    return codebook.index_select(0, codes).reshape(values.shape)


def _widened(values: Tensor) -> Tensor:
    """The same numbers in a dtype that numpy and the searches know."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _sorted(values: Tensor, size: int) -> Floats:
    """The values in ascending order on the host, once the arguments are known to be sound."""
    if not values.is_floating_point():
        raise TypeError(f"`values` must be floating-point, got {values.dtype}; convert them with `.float()`")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"`size` must be an integer of at least 1, got {size!r}; give the largest number of codes")
    if not values.numel():
        raise ValueError("`values` must hold at least one entry, got none; an empty tensor needs no codebook")
    flat = _widened(values.detach()).reshape(-1)
    if flat.device.type != "cpu":
        ordered: Floats = flat.sort().values.cpu().numpy()
    elif _RADIX_FROM is not None and flat.dtype == torch.float32 and len(flat) >= _RADIX_FROM:
        ordered = _flipped(_flipped(flat.view(torch.int32)).sort().values).view(torch.float32).numpy()
    else:
        ordered = np.sort(flat.numpy())
    # Infinities and NaN of either sign sort to the ends; a sum in float64 can overflow for float64 values only.
    with np.errstate(over="ignore"):
        sound = np.isfinite(ordered[[0, -1]]).all() and np.isfinite(np.abs(ordered[[0, -1]]).max() * float(len(ordered)))
    if not sound:
        raise ValueError("`values` must be finite, and so must their sum, got values from "
                         f"{ordered[0]} to {ordered[-1]}; look for a diverged loss or rescale the tensor")
    return ordered


def _flipped(bits: Tensor) -> Tensor:
    """Bits of float32 numbers as integers of the same order, or back: negative numbers run the other way."""
    return (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)


def _checked_start(start: Tensor, size: int, dtype: npt.DTypeLike) -> Floats:
    centres = np.unique(_widened(start.detach()).cpu().numpy().astype(dtype))
    if not 0 < len(centres) <= size or not np.isfinite(centres).all():
        raise ValueError(f"`start` must hold 1 to {size} finite values, got {start.numel()} entries, {len(centres)} "
                         "of them distinct; pass a codebook of the same size, or None to search afresh")
    return centres


def _bounds(centres: Floats) -> Floats:
    """Largest value of each cell but the last: the midpoints, rounded down to the dtype."""
    middle = centres[:-1].astype(np.float64) / 2 + centres[1:].astype(np.float64) / 2
    bounds = middle.astype(centres.dtype)
    lowest = np.array(-np.inf, centres.dtype)
    np.nextafter(bounds, lowest, out=bounds, where=bounds > middle)
    # The midpoint of two neighbouring float64 numbers may round to the upper one, which is its own nearest code.
    return np.minimum(bounds, np.nextafter(centres[1:], lowest))


def _means(ordered: Floats, cells: Indices, dtype: torch.dtype) -> Floats:
    """Mean of each cell, rounded to ``dtype``; cells are given by where they begin."""
    ends = np.append(cells[1:], len(ordered))
    means = np.add.reduceat(ordered, cells, dtype=np.float64) / (ends - cells)
    # Rounding must not leave the cell: so the centres stay distinct, and the mean of equal values is that value.
    means = means.clip(ordered[cells], ordered[ends - 1])
    return _widened(torch.from_numpy(means).to(dtype)).numpy()


def _lloyd(ordered: Floats, centres: Floats, size: int, steps: int, dtype: torch.dtype) -> Floats:
    """Lloyd's algorithm until the cells settle. Codes that lost their cell halve the widest cells."""
    settled: Indices | None = None
    for _ in range(steps):
        inner = ordered.searchsorted(_bounds(centres), side="right")
        cells = _distinct(np.append(0, inner), len(ordered))
        if len(cells) < size:
            cells = _halved(ordered, cells, size, dtype)
        if settled is not None and np.array_equal(cells, settled):
            break
        settled, centres = cells, _means(ordered, cells, dtype)
    return centres


def _distinct(cells: Indices, end: int) -> Indices:
    """Cells that are not empty."""
    cells = np.unique(cells)
    return cells[cells < end]


def _halved(ordered: Floats, cells: Indices, size: int, dtype: torch.dtype) -> Indices:
    """More cells, at most ``size``: those of the largest error, bounded by count and width, parted at their means."""
    ends = np.append(cells[1:], len(ordered))
    spread = (ordered[ends - 1] - ordered[cells]) * np.sqrt(ends - cells)
    worst = np.argsort(-spread, kind="stable")[: size - len(cells)]
    parts = ordered.searchsorted(_means(ordered, cells, dtype)[worst], side="right")
    return _distinct(np.append(cells, parts), len(ordered))


def _optimal_cells(ordered: Floats, runs: Indices, size: int) -> Indices:
    """Where the cells of an optimal partition begin; optimal among those that split no bin."""
    bins = _bins(ordered, runs)
    counts = np.diff(bins, append=len(ordered))
    means = _scaled(np.add.reduceat(ordered, bins, dtype=np.float64) / counts)
    # Shift, and sum outwards from the median: the few large values of a heavy tail must not swallow the digits of the
    # many small ones.
    middle = int(counts.cumsum().searchsorted(len(ordered) // 2, side="right"))
    means -= means[middle]
    moments = [_running_sum(counts * means**power, middle) for power in range(3)]
    return bins[_partition(*moments, size)]


def _bins(ordered: Floats, runs: Indices) -> Indices:
    r"""Where at most 4096 bins begin: with the distinct values, or else spaced like the codes of a far finer codebook.

    Optimal codes have the density :math:`p^{1/3}` (Panter & Dite 1951), so between neighbours a gap d apart, with w
    values on them, lie codes in proportion to :math:`\int p^{1/3} dx = (w d^2)^{1/3}`. A gap takes one border at most;
    what is left of the share of a wide one goes to the others.
    """
    if len(runs) <= _BINS:
        return runs
    codes = np.square(np.diff(_scaled(ordered[runs])))
    codes[:-1] *= runs[2:] - runs[:-2]
    codes[-1] *= len(ordered) - runs[-2]
    np.cbrt(codes, out=codes)
    for _ in range(3):
        np.minimum(codes, codes.sum(dtype=np.float64) / (0.9 * _BINS), out=codes)
    border = codes.cumsum(dtype=np.float64)
    begins = 1 + border.searchsorted(border[-1] * np.linspace(0, 1, _BINS - 1, endpoint=False))
    return runs[np.unique(np.append(0, begins))]


def _scaled(ordered: Floats) -> Floats:
    """Times a power of two, so that magnitudes are below one half and squares neither overflow nor all vanish."""
    return np.ldexp(ordered, -1 - np.frexp(np.abs(ordered[[0, -1]]).max())[1])


def _running_sum(terms: Floats, middle: int) -> Floats:
    """Sums whose differences are those of ``terms``; zero at ``middle``."""
    return np.concatenate((-terms[:middle][::-1].cumsum()[::-1], [0.0], terms[middle:].cumsum()))


def _partition(zeroth: Floats, first: Floats, second: Floats, size: int) -> Indices:
    r"""Where the cells of the optimal partition of the bins begin, given running sums of 1, x, x^2.

    With :math:`E_1(j)` the error of the first j bins as one cell, layer k of the program is

    .. math:: E_k(j) = \min_{i < j} E_{k-1}(i) + (\Sigma_2 - \Sigma_1^2 / \Sigma_0)(i, j).

    The minimising i grows with j, so it is found for every s-th j, s halving, between those of the neighbours.
    """
    bins = len(zeroth) - 1
    error = np.full(bins + 1, np.inf)
    error[1:] = second[1:] - second[0] - (first[1:] - first[0]) ** 2 / (zeroth[1:] - zeroth[0])
    splits = []
    for layer in range(2, size + 1):
        error, split = _layer(error - second, zeroth, first, layer)
        error += second
        splits.append(split)
    cells = [bins]
    for split in reversed(splits):
        cells.append(int(split[cells[-1]]))
    return np.array([0, *cells[:0:-1]])


def _layer(base: Floats, zeroth: Floats, first: Floats, layer: int) -> tuple[Floats, npt.NDArray[np.int16]]:
    r"""For every j the minimum over i of ``base[i]`` :math:`- \Sigma_1^2 / \Sigma_0 (i, j)` and its place."""
    bins = len(base) - 1
    least = np.full(bins + 1, np.inf)
    split = np.full(bins + 2, bins)
    split[layer - 1] = layer - 1  # each of the former cells holds at least one bin
    stride = 1 << bins.bit_length()
    while stride := stride // 2:
        j = np.arange(layer - 1 + stride, bins + 1, 2 * stride)
        if not len(j):
            continue
        low = split[j - stride]
        count = np.minimum(split[np.minimum(j + stride, bins + 1)], j - 1) - low + 1
        begin = count.cumsum() - count
        # All candidates of all j in one list.
        i = np.arange(begin[-1] + count[-1]) + np.repeat(low - begin, count)
        value = np.repeat(first[j], count) - first[i]
        value *= value
        value /= np.repeat(zeroth[j], count) - zeroth[i]
        np.subtract(base[i], value, out=value)
        least[j] = np.minimum.reduceat(value, begin)
        hits = np.flatnonzero(value == np.repeat(least[j], count))
        split[j] = i[hits[hits.searchsorted(begin)]]
    return least, split.astype(np.int16)
