r"""How many bits each tensor takes, and which of its values are kept: a multiple-choice knapsack.

With a codebook for every tensor l and width b,

.. math:: \max \sum_l G_{l, b_l}(z_l) \quad \text{s.t.} \quad
          \sum_{l : z_l > 0} \bigl( b_l z_l + 32 \cdot 2^{b_l} \bigr) \le B,

where :math:`G_{l,b}(z)` is what the best z values capture, a concave function. With a price :math:`\lambda` for a bit
the tensors part, and for every :math:`\lambda` the relaxed optimum bounds what can be captured:

.. math:: U(\lambda) = \lambda B + \sum_l \max_b \max_z \bigl( G_{l,b}(z) - \lambda (b z + 32 \cdot 2^b) \bigr) .

Widths are tried in the order of what they lose against the relaxed optimum, until that is more than the gap.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from art_atmc_bitbudget.choice import Choice
from art_atmc_bitbudget.coding import CODEBOOK, WIDTHS, Coding, Floats, Ints, Values
from art_atmc_bitbudget.exhaustive import exhaustive

__all__ = ["allocate"]

Codings: TypeAlias = Sequence[Mapping[int, Coding]]
_NOTHING = 1e-14  # of the highest price of a bit: as good as free
_POINTS = 32
_FEW = 128  # values up to which the answer is exact
_ROUNDS = 2
_SETTLED = 0.02
_TRIES = 64
_RUNS = 64
_WIDE = 4  # bits up to which a codebook is sought from scratch; others begin with the next narrower one
_LAST = 30  # Lloyd's steps in the end


def allocate(tensors: Sequence[Values], budget: int, former: Sequence[Coding | None] = ()) -> Choice:
    """Share ``budget`` bits among tensors.

    :param former: for each tensor a coding whose width is kept and whose codes are the start, or None to try all.
    """
    if sum(tensor.count for tensor in tensors) <= _FEW:
        return exhaustive(tensors, budget)
    codings: list[dict[int, Coding]] = [{} for _ in tensors]
    price = _first_price(tensors, budget)
    for _ in range(_ROUNDS):
        for i, tensor in enumerate(tensors):
            kept = former[i] if former else None
            if kept is not None:
                start = codings[i].get(kept.width, kept).codes
                codings[i] = {kept.width: tensor.fitted(kept.width, price * kept.width, start)}
            elif tensor.count:
                _fit_widths(tensor, codings[i], price, budget)
        found = _price(lambda prices: _total(_relaxed(c, prices)[1] for c in codings), budget, _highest(tensors))
        settled = abs(found - price) < _SETTLED * price
        price = found
        if settled:
            break
    choice = _settled(_improved(_best_widths(codings, budget, price), budget))
    tried = [[*known.values(), last] for known, last in zip(codings, choice.codings, strict=True)]
    limit = price * budget + sum(max([0.0, *(_worth(c, price) for c in some if c)]) for some in tried)
    return dataclasses.replace(choice, limit=limit)


def _settled(choice: Choice) -> Choice:
    """The same widths and supports with codebooks that Lloyd's steps hardly change."""
    pairs = list(zip(choice.codings, choice.counts, strict=True))
    codings = tuple(coding and coding.settled(counts, _LAST) for coding, counts in pairs)
    captured = sum(c.captured(n) for c, n in zip(codings, choice.counts, strict=True) if c)
    return Choice(codings, choice.counts, captured)


def _improved(choice: Choice, budget: int) -> Choice:
    """Codebooks for what is kept, then what is best kept with these codebooks, in turn."""
    for _ in range(_ROUNDS):
        refitted = [
            c and c.values.coded(c.width, n, c.codes) for c, n in zip(choice.codings, choice.counts, strict=True)
        ]
        other = _filled(refitted, budget)
        if not other.captured > choice.captured * (1 + 1e-9):
            break
        choice = other
    return choice


def _fit_widths(tensor: Values, known: dict[int, Coding], price: float, budget: int) -> None:
    """Codebooks, fitted for ``price`` a bit, for all widths that may be best at that price."""
    best = 0.0
    for width in sorted(WIDTHS, key=lambda w: abs(w - 3)):
        codebook = CODEBOOK * 2**width
        if codebook >= budget or tensor.bound(np.array([price * width]))[0] - price * codebook <= best:
            continue
        near = known.get(width) or (known.get(width - 1) if width > _WIDE else None)
        known[width] = tensor.fitted(width, price * width, near and near.codes)
        best = max(best, _worth(known[width], price))


def _relaxed(codings: Mapping[int, Coding], prices: Floats) -> tuple[Floats, Ints]:
    """For each price of a bit the most that a tensor can be worth, and the bits that it then takes."""
    value, bits = np.zeros(len(prices)), np.zeros(len(prices), np.int64)
    for width in sorted(codings):
        counts, captured = codings[width].at(prices * width)
        size = codings[width].size(counts)
        worth = captured - prices * size
        better = worth > value
        value, bits = np.where(better, worth, value), np.where(better, size, bits)
    return value, bits


def _price(bits: Callable[[Floats], Ints], budget: int, high: float) -> float:
    """The least price of a bit, up to rounding, at which ``bits`` are within the budget; nothing is worth ``high``."""
    low = high * _NOTHING
    while high > low * (1 + 1e-13):
        prices = np.geomspace(low, high, _POINTS)
        within = int(np.append(bits(prices[:-1]) <= budget, True).argmax())
        if not within:
            return low
        low, high = prices[within - 1], prices[within]
    return high


def _total(parts: Iterable[Ints]) -> Ints:
    return np.sum(list(parts), axis=0, dtype=np.int64)


def _highest(tensors: Sequence[Values]) -> float:
    return 1.01 * max(t.largest**2 for t in tensors)


def _first_price(tensors: Sequence[Values], budget: int) -> float:
    """What a bit is worth where every tensor takes the same width and codes are exact."""
    filled = sum(t.count > 0 for t in tensors)
    width = max((w for w in (1, 2, 3) if filled * CODEBOOK * 2**w < budget), default=1)
    left = max(budget - filled * CODEBOOK * 2**width, width)
    return _price(lambda p: width * _total(t.above(p * width) for t in tensors), left, _highest(tensors))


def _best_widths(codings: Codings, budget: int, price: float) -> Choice:
    """Try widths in the order of what they lose at ``price``, until no other can capture more."""
    options = []
    limit = price * budget
    for known in codings:
        worth = {0: 0.0} | {width: _worth(coding, price) for width, coding in known.items()}
        best = max(worth.values())
        limit += best
        options.append(sorted((best - value, width) for width, value in worth.items()))
    found: Choice | None = None
    for loss, widths in itertools.islice(_by_loss(options), _TRIES):
        if found is not None and limit - loss <= found.captured * (1 + 1e-12):
            break
        choice = _filled([known.get(width) for known, width in zip(codings, widths, strict=True)], budget)
        if found is None or choice.captured > found.captured:
            found = choice
    assert found is not None
    return found


def _worth(coding: Coding, price: float) -> float:
    """What a tensor may capture at a price of a bit, its codebook paid."""
    counts, captured = coding.at(np.array([price * coding.width]))
    return float(captured[0] - price * (coding.width * counts.sum() + CODEBOOK * 2**coding.width))


def _by_loss(options: Sequence[Sequence[tuple[float, int]]]) -> Iterator[tuple[float, tuple[int, ...]]]:
    """One option for each tensor, in the order of the summed losses; each tensor's options are sorted."""
    base = sum(choices[0][0] for choices in options)
    heap: list[tuple[float, tuple[int, ...], int]] = [(base, (0,) * len(options), 0)]
    while heap:
        loss, picks, last = heapq.heappop(heap)
        yield loss, tuple(choices[pick][1] for choices, pick in zip(options, picks, strict=True))
        for i in range(last, len(options)):  # later places only: every combination is reached once
            if picks[i] + 1 < len(options[i]):
                rise = options[i][picks[i] + 1][0] - options[i][picks[i]][0]
                heapq.heappush(heap, (loss + rise, (*picks[:i], picks[i] + 1, *picks[i + 1 :]), i))


def _filled(codings: Sequence[Coding | None], budget: int) -> Choice:
    """The best support for given widths: what captures most for a bit, down to a threshold, then what still fits."""
    used = [coding for coding in codings if coding is not None]
    high = _highest([coding.values for coding in used]) if used else 1.0
    price = np.array([_price(lambda p: _total(c.size(c.at(p * c.width)[0]) for c in used), budget, high)])
    kept = [coding.at(price * coding.width) for coding in used]
    counts = [count[:, 0] for count, _ in kept]
    captured = sum(float(gain[0]) for _, gain in kept)
    left = budget - sum(int(c.size(n[:, None])[0]) for c, n in zip(used, counts, strict=True))
    for _ in range(_RUNS):
        best = max(_runs(used, counts, left), default=None)
        if best is None:
            break
        _, i, sign, number, gain = best
        left += int(used[i].size(counts[i][:, None])[0])
        counts[i] = counts[i] + number * (np.arange(2) == sign)
        left -= int(used[i].size(counts[i][:, None])[0])
        captured += number * gain
    placed = iter(counts)
    every = tuple(np.zeros(2, np.int64) if coding is None else next(placed) for coding in codings)
    return Choice(tuple(codings), every, captured)


def _runs(codings: Sequence[Coding], counts: Sequence[Ints], left: int) -> Iterator[tuple[float, int, int, int, float]]:
    """What may be kept besides: gain for a bit, tensor, sign, how many equal values fit, and the gain of each."""
    for i, (coding, count) in enumerate(zip(codings, counts, strict=True)):
        spare = left if count.any() else left - CODEBOOK * 2**coding.width
        for sign, side in enumerate(coding.sides):
            run, gain = side.next_run(int(count[sign]))
            number = min(run, spare // coding.width)
            if number > 0 and gain > 0:
                yield gain / coding.width, i, sign, number, gain
