"""The constraint: all tensors together fit a number of bits."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, final

import torch
from torch import Tensor

from art_atmc import Constraint, Weights
from art_atmc.compression import nearest_code
from art_atmc.support.numbers import Real, Whole, check_numbers
from art_atmc_bitbudget.allocation import allocate
from art_atmc_bitbudget.choice import Allocation, Choice, Share
from art_atmc_bitbudget.coding import CODEBOOK, WIDTHS, Coding, Ints, Values

__all__ = ["BitBudget"]

_SAMPLE = 65_536
_LEAST = WIDTHS[0] + CODEBOOK * 2 ** WIDTHS[0]


@final
@dataclasses.dataclass(frozen=True)
class BitBudget(Constraint):
    r"""One budget of bits over all weights, shared between the support and the bit widths of the tensors.

    .. math:: S = \Bigl\{ w : \sum_{l : W_l \ne 0} \bigl( b_l \|W_l\|_0 + 32 \cdot 2^{b_l} \bigr) \le B,\;
              |W_l|_0 \le 2^{b_l},\; b_l \in \{1, \dots, 8\} \Bigr\}

    with :math:`\|M\|_0` non-zeros and :math:`|M|_0` distinct non-zero values: an index for every non-zero and a
    codebook for every tensor. Positions cost nothing, as in the size that the ATMC paper counts. Zero is a further,
    free value.

    The projection chooses supports, widths and codebooks together. Up to 128 non-zero values it is the nearest point,
    by dynamic programming. Beyond them it is a near point of S, not always the nearest: the Lagrangian relaxation of
    the multiple-choice knapsack bounds how far it is from the best supports and widths *for the codebooks that were
    tried*, see :meth:`allocation`; these are locally optimal, and of others nothing is proved. In 390 random cases of
    up to 300 values the squared distance was the least in half, within 6.2 % of it in nine of ten, and 1.6 times it in
    the worst. Weights that fit come back bit for bit, and zeros stay zero.

    :param bits_per_weight: B divided by the number of weights of the dense network, positive; or
    :param total_bits: B itself, at least 65, which is one non-zero with its codebook of one bit.
    :raises ValueError: unless exactly one of the two is given, within its range.

    >>> weights = Weights({"w": torch.tensor([5.0, 5.2, -3.0, 0.1, -2.8, 0.2])})
    >>> [round(v, 3) for v in BitBudget(total_bits=68).project(weights)["w"].tolist()]      # four indices, two values
    [5.1, 5.1, -2.9, 0.0, -2.9, 0.0]
    """

    bits_per_weight: float | None = None
    total_bits: int | None = None
    coded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.bits_per_weight is None) == (self.total_bits is None):
            raise ValueError("give exactly one of `bits_per_weight`, such as 0.5, and `total_bits`")
        check_numbers(
            self,
            bits_per_weight=Real("(0, inf)", "32 is the dense network", optional=True),
            total_bits=Whole(_LEAST, None, f"{_LEAST} is one non-zero with its codebook", optional=True),
        )

    def budget(self, weights: Weights) -> int:
        """B, in bits."""
        if self.total_bits is not None:
            return self.total_bits
        assert self.bits_per_weight is not None
        # The number that the user meant, not its binary neighbour.
        return math.floor(self.bits_per_weight * weights.dense_size + 1e-6)

    def check(self, weights: Weights) -> None:
        if self.budget(weights) < _LEAST:
            raise ValueError(
                f"{self} leaves {self.budget(weights)} bits for {weights.dense_size} weights, and one non-zero with "
                f"its codebook takes {_LEAST}; give at least {_LEAST / weights.dense_size:.2g} bits a weight"
            )

    def project(self, weights: Weights) -> Weights:
        return self._projected(weights)[0]

    def project_near(self, weights: Weights, near: Weights) -> Weights:
        """The widths of ``near``, and Lloyd's steps from its codebooks; what is zero there is sought afresh."""
        return self._projected(weights, near)[0]

    def allocation(self, weights: Weights) -> Allocation:
        """How the projection of ``weights`` shares the budget, and how far it may be from the best.

        >>> weights = Weights({"a": torch.ones(100), "b": torch.tensor([0.1, -0.1] * 20)})
        >>> allocation = BitBudget(total_bits=180).allocation(weights)
        >>> [(share.name, share.width, share.nonzeros, share.bits) for share in allocation.shares]
        [('a', 1, 100, 164), ('b', 0, 0, 0)]
        """
        projected, choice = self._projected(weights)
        squares = sum(float(t.detach().double().square().sum()) for t in weights.values())
        shares = tuple(_share(name, Values(t)) for name, t in projected.items())
        error = sum(float((projected[n] - t.detach()).double().square().sum()) for n, t in weights.items())
        bound = 0.0 if choice is None else max(0.0, squares - float(choice.limit))
        return Allocation(shares, self.budget(weights), error, bound)

    def _projected(self, weights: Weights, near: Weights | None = None) -> tuple[Weights, Choice | None]:
        tensors = [Values(t) for t in weights.values()]
        budget = self.budget(weights)
        if all(t.distinct <= 2 ** WIDTHS[-1] for t in tensors) and sum(_share("", t).bits for t in tensors) <= budget:
            return weights.clone(), None
        former = [] if near is None else [_coding(t, near[n]) for t, n in zip(tensors, weights, strict=True)]
        choice = allocate(tensors, budget, former)
        coded = map(_coded, weights.values(), choice.codings, choice.counts)
        return weights.like(dict(zip(weights, coded, strict=True))), choice


def _share(name: str, values: Values) -> Share:
    width = max(WIDTHS[0], (values.distinct - 1).bit_length()) if values.count else 0
    return Share(name, width, values.count, width * values.count + CODEBOOK * 2**width if width else 0)


def _coding(values: Values, near: Tensor) -> Coding | None:
    """The width and the codes of a coded tensor, perhaps without the rarest; None where it is zero."""
    entries = near.detach().flatten()
    entries = entries[entries != 0]
    codes = entries[:: max(1, len(entries) // _SAMPLE)].double().unique().cpu().numpy()
    width = max(WIDTHS[0], (len(codes) - 1).bit_length())
    return Coding(values, codes, width) if len(codes) and width in WIDTHS else None


def _coded(tensor: Tensor, coding: Coding | None, counts: Ints) -> Tensor:
    """Of either sign so many of the largest magnitudes, each replaced by the nearest code; zero elsewhere."""
    tensor = tensor.detach()
    coded = torch.zeros_like(tensor, memory_format=torch.contiguous_format)
    if coding is None or not counts.any():
        return coded
    kept = torch.zeros_like(coded, dtype=torch.bool)
    for sign, side, count in zip((-1, 1), coding.values.sides, counts, strict=True):
        if count:
            kept |= _largest(sign * tensor, float(side.ordered[-count]), int(count))
    codes = torch.from_numpy(coding.codes).to(tensor.device, tensor.dtype).unique()
    coded[kept] = nearest_code(tensor[kept], codes)
    return coded


def _largest(values: Tensor, threshold: float, count: int) -> Tensor:
    """Where the ``count`` largest values are, the least of which is ``threshold``; of equal ones the first."""
    above, ties = values > threshold, values == threshold
    missing = count - int(above.sum())
    if int(ties.sum()) > missing:
        ties &= (ties.flatten().cumsum(0) <= missing).view_as(ties)
    return above | ties
