r"""The rate of a network: the bytes that its weights take in a file, and the constraint set that is driven by them.

Bytes are no differentiable function of weights, but they grow with the density at given bits, so what is moved is the
tightness of the set, and what is measured is the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Final, final

from art_atmc import Constraint, Quantization, Sparsity, Weights
from art_atmc.files.encoding import encode
from art_atmc.support.numbers import Whole, check_numbers

__all__ = ["FileSize", "encoded_bytes", "largest_within"]

TOLERANCE: Final = 0.01
"""By how much less than the bytes asked for is good enough."""
LOOSE: Final = 64  # times the bytes: no network of 32-bit weights takes as many
TRIES: Final = 40


def encoded_bytes(weights: Weights) -> int:
    """The bytes that the weights take in a compressed file: supports and codes through the range coder.

    Names, biases and whatever else a file holds come on top.

    >>> import torch
    >>> encoded_bytes(Weights({"w": torch.zeros(100_000)})) < 20
    True
    """
    return sum(len(encode(tensor).record) for tensor in weights.values())


@final
@dataclasses.dataclass(frozen=True)
class FileSize(Constraint):
    r"""Weights that take at most so many bytes in the file, in codebooks of :math:`2^b` values.

    .. math:: S = \{ w : |W_l|_0 \le 2^b \text{ for every } l,\; \mathrm{bytes}(w) \le B \}

    The projection keeps the largest magnitudes, as many as fit after their values have been coded: bisection over the
    density, with the encoder itself as the measure. The result is within 1 % below B wherever B is below what all
    weights take, and a point of S near w, not the nearest one. Each projection encodes some ten times, so give it to
    ``finalize`` and to :class:`~art_atmc_distortion.Fits`, and not to every step of a long training.

    :param bytes: B: of the encoded weights (:func:`encoded_bytes`), at least 1.
    :param bits: b, an integer in 1..16.
    :raises ValueError: for numbers out of range.

    >>> import torch
    >>> weights = Weights({"w": torch.randn(10_000, generator=torch.Generator().manual_seed(0))})
    >>> 990 <= encoded_bytes(FileSize(bytes=1000).project(weights)) <= 1000
    True
    """

    bytes: int
    bits: int = 4

    def __post_init__(self) -> None:
        check_numbers(
            self,
            bytes=Whole(1, None, "it is the size of the encoded weights"),
            bits=Whole(1, 16, "it is the width of a code"),
        )

    def check(self, weights: Weights) -> None:
        if (least := encoded_bytes(Sparsity(1 / weights.dense_size).project(weights))) > self.bytes:
            raise ValueError(f"`bytes` {self.bytes} is less than one single weight takes, {least}; give more")

    def project(self, weights: Weights) -> Weights:
        if self._holds(weights):
            return weights.clone()

        def coded(k: int) -> tuple[Weights, int]:
            point = Quantization(self.bits).project(Sparsity(k / weights.dense_size).project(weights))
            return point, encoded_bytes(point)

        most = min(weights.nnz(), weights.dense_size)
        found = largest_within(coded, self.bytes, most)
        if found is None:
            raise ValueError(f"`bytes` {self.bytes} is less than one single weight takes; give more")
        return found[1]

    def relaxed(self, progress: float) -> FileSize:
        """Bytes that fall to B as the density of :class:`art_atmc.Sparsity` does, on a logarithmic scale."""
        if progress >= 1:
            return self
        return FileSize(math.ceil(self.bytes * LOOSE ** ((1 - progress) ** 3)), self.bits)

    def _holds(self, weights: Weights) -> bool:
        for tensor in weights.values():
            values = tensor[tensor != 0]
            if values.numel() > 2**self.bits and values.unique().numel() > 2**self.bits:
                return False
        return encoded_bytes(weights) <= self.bytes


def largest_within(
    measured: Callable[[int], tuple[Any, int]], budget: int, most: int, start: int | None = None
) -> tuple[int, Any, int] | None:
    r"""The largest k, nearly, whose bytes are within the budget.

    Bytes grow with k, though not strictly; tries follow :math:`\ln \mathrm{bytes}` along :math:`\ln k` and stop within
    1 % below the budget, or where no k lies between two that were tried.

    :param measured: k to (whatever, bytes).
    :param most: largest k.
    :param start: the first k that is tried.
    :returns: k, whatever, bytes; None where not even k = 1 fits.

    >>> largest_within(lambda k: (k, 3 * k + 10), 1000, 10_000)[0]
    328
    """
    low, high = 0, most + 1
    best: tuple[int, Any, int] | None = None
    k = start or most
    for _ in range(TRIES):
        k = min(max(k, low + 1), high - 1)
        what, size = measured(k)
        if size <= budget:
            low, best = k, (k, what, size)
            if size > (1 - TOLERANCE) * budget:
                break
        else:
            high = k
        if high - low <= 1:
            break
        guess = int(k * ((1 - TOLERANCE / 2) * budget / size))
        # Where the steps are short on one side only, halving the rest ends it.
        k = guess if low < guess < high and guess != k else (low + high) // 2
    return best
