r"""Every support, width and codebook of a few values: the exact answer, where it can be had.

The kept values of either sign are its largest, and the cells of an optimal codebook are intervals of them, none with
both signs. With :math:`T_k(i)` the most that the i largest magnitudes of a sign capture with k codes,

.. math:: T_k(i) = \max_{h < i} T_{k-1}(h) + \frac{(S_i - S_h)^2}{i - h}, \qquad S_i \text{ the sum of the i largest},

a support of i and j values with a codebook of K captures :math:`\max_k T_k(i) + T_{K-k}(j)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from art_atmc_bitbudget.choice import Choice
from art_atmc_bitbudget.coding import CODEBOOK, WIDTHS, Floats, Side, Values

__all__ = ["exhaustive"]

Part: TypeAlias = tuple[int, int, int]  # width, and the numbers of values kept, negative and positive
Option: TypeAlias = tuple[int, float, tuple[Part, ...]]  # bits, captured, and of each tensor its part


def exhaustive(tensors: Sequence[Values], budget: int) -> Choice:
    """The best choice, by dynamic programming over the tensors; exact."""
    front: list[Option] = [(0, 0.0, ())]
    for tensor in tensors:
        mine = _front(_options(tensor), budget)
        front = _front(((a + c, b + d, (*p, *q)) for a, b, p in front for c, d, q in mine), budget)
    _, captured, parts = front[-1]
    counts = tuple(np.array(part[1:]) for part in parts)
    codings = (t.coded(p[0], n) if p[0] else None for t, p, n in zip(tensors, parts, counts, strict=True))
    return Choice(tuple(codings), counts, captured, captured)


def _options(tensor: Values) -> Iterator[Option]:
    yield 0, 0.0, ((0, 0, 0),)
    for width in WIDTHS:
        codes = min(2**width, tensor.count)
        negative, positive = (_table(side, codes) for side in tensor.sides)
        captured = np.max([negative[k][:, None] + positive[codes - k] for k in range(codes + 1)], axis=0)
        for kept in range(1, tensor.count + 1):
            places = [(i, kept - i) for i in range(len(captured)) if 0 <= kept - i < captured.shape[1]]
            best = max(places, key=lambda place: captured[place])
            yield width * kept + CODEBOOK * 2**width, float(captured[best]), ((width, *best),)
        if codes == tensor.count:  # exact already
            break


def _table(side: Side, codes: int) -> list[Floats]:
    """For each number of codes, from none, what the largest magnitudes capture, for each number of them."""
    sums = np.append(0.0, side.ordered[::-1].astype(np.float64).cumsum())
    places = np.arange(len(sums))
    lengths = places - places[:, None]
    cells = np.where(lengths > 0, (sums - sums[:, None]) ** 2 / np.maximum(lengths, 1), -np.inf)
    table = [np.where(places == 0, 0.0, -np.inf)]
    for _ in range(codes):
        table.append(np.maximum(table[-1], (table[-1][:, None] + cells).max(axis=0)))
    return table


def _front(options: Iterable[Option], budget: int) -> list[Option]:
    """Those within the budget that capture more than every smaller one."""
    front: list[Option] = []
    for option in sorted(options, key=lambda o: (o[0], -o[1])):
        if option[0] <= budget and (not front or option[1] > front[-1][1]):
            front.append(option)
    return front
