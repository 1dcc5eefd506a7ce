r"""A few machine words in fewer bits than they have, bit for bit: biases, scales and codebooks.

A floating-point word is a sign, an exponent and a mantissa. In a bias vector the exponents lie close to one another,
often all signs are alike, and the last bits of all mantissas are zero where they were rounded, so

.. math:: 1 + \lceil\log_2(e_{\max} - e_{\min} + 1)\rceil + (m - t)

bits a word are enough, with m bits of mantissa of which t are zero in all words. A whole number is all mantissa, of
which the first bits are zero in all words too. Each part goes through the range coder as uniform.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from art_atmc.files.range_coding import SymbolReader, Uniform

__all__ = ["MAX_PACKED", "packed_bits", "put_words", "rounded", "take_words"]

Words: TypeAlias = npt.NDArray[Any]

MAX_PACKED: Final = 65_536  # words; more of them are rarely worth the time
CHUNK: Final = 12  # bits of a mantissa at a time, which the coder takes fast
FIELDS: Final = {  # bits of exponent and mantissa
    torch.float64: (11, 52),
    torch.float32: (8, 23),
    torch.float16: (5, 10),
    torch.bfloat16: (8, 7),
}


class _Layout(NamedTuple):
    """Which parts of the words differ: exponents from ``low`` on, and ``width`` bits above ``zeros`` zeros."""

    signed: int
    low: int
    span: int
    zeros: int
    width: int

    def bits(self, count: int, dtype: torch.dtype) -> float:
        header = (2 * _fields(dtype)[0] + 1) * (dtype in FIELDS) + 2 * math.log2(65)
        return header + count * (self.signed + math.log2(self.span + 1) + self.width)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Place and length of each stretch of a mantissa, from the highest."""
        for place in range(self.width - CHUNK, -CHUNK, -CHUNK):
            yield self.zeros + max(place, 0), min(CHUNK, place + CHUNK)


def packed_bits(words: Words, dtype: torch.dtype) -> float:
    """What :func:`put_words` makes of ``words``, in bits."""
    return _layout(*_parts(words, dtype)).bits(len(words), dtype) if len(words) else 0.0


def put_words(coder: Any, words: Words, dtype: torch.dtype) -> None:
    """Encode ``words`` of type ``dtype``, at least one and at most :data:`MAX_PACKED`."""
    signs, exponents, mantissas = _parts(words, dtype)
    layout = _layout(signs, exponents, mantissas)
    for number, model in zip(layout, _header(dtype), strict=True):
        if model is not None:
            coder.encode(np.array([number], np.int32), model)
    if layout.signed:
        coder.encode(signs.astype(np.int32), Uniform(2))
    if layout.span:
        coder.encode((exponents - np.uint64(layout.low)).astype(np.int32), Uniform(layout.span + 1))
    for place, length in layout.chunks():
        chunk = mantissas >> np.uint64(place) & np.uint64((1 << length) - 1)
        coder.encode(chunk.astype(np.int32), Uniform(1 << length))


def take_words(stream: SymbolReader, count: int, dtype: torch.dtype) -> Words:
    """Undo :func:`put_words`.

    :raises ValueError: when nobody wrote that.
    """
    layout = _Layout(*(0 if model is None else int(stream.take(1, model)[0]) for model in _header(dtype)))
    exponent, mantissa = _fields(dtype)
    if layout.low + layout.span >= 1 << exponent or layout.zeros + layout.width > mantissa:
        raise ValueError("its words are broken")
    words = np.full(count, layout.low << mantissa, np.uint64)
    if layout.signed:
        words |= stream.take(count, Uniform(2)).astype(np.uint64) << np.uint64(exponent + mantissa)
    if layout.span:
        words += stream.take(count, Uniform(layout.span + 1)).astype(np.uint64) << np.uint64(mantissa)
    for place, length in layout.chunks():
        words |= stream.take(count, Uniform(1 << length)).astype(np.uint64) << np.uint64(place)
    return words.astype(f"<u{dtype.itemsize}")


def rounded(tensor: torch.Tensor, mantissa_bits: int) -> torch.Tensor:
    """``tensor`` with so many bits of mantissa, at least one, to the nearest, ties to even; what is not floating stays.

    >>> rounded(torch.tensor([1.0, 3.141592, -1e-3]), 7).tolist()   # as bfloat16 has them
    [1.0, 3.140625, -0.00099945068359375]
    """
    if tensor.dtype not in FIELDS or (drop := FIELDS[tensor.dtype][1] - mantissa_bits) <= 0:
        return tensor
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize]
    words = tensor.detach().contiguous().view(integers)
    half = (1 << (drop - 1)) - 1 + (words >> drop & 1)  # the carry goes on into the exponent, as it ought to
    result = (words + half >> drop << drop).view(tensor.dtype)
    kept = tensor.isfinite() & result.isfinite()  # the largest numbers would round to infinity
    return torch.where(kept, result, tensor.detach())


def _fields(dtype: torch.dtype) -> tuple[int, int]:
    return FIELDS.get(dtype, (0, 8 * dtype.itemsize))


def _header(dtype: torch.dtype) -> tuple[Any, ...]:
    """The distribution of each number of a layout; None where the type has no such part."""
    exponents = Uniform(1 << _fields(dtype)[0]) if dtype in FIELDS else None
    return Uniform(2) if dtype in FIELDS else None, exponents, exponents, Uniform(65), Uniform(65)


def _parts(words: Words, dtype: torch.dtype) -> tuple[Words, Words, Words]:
    """Signs, exponents and mantissas."""
    exponent, mantissa = _fields(dtype)
    wide = words.astype(np.uint64)
    low = np.uint64((1 << mantissa) - 1)
    if not exponent:
        none = np.zeros_like(wide)
        return none, none, wide & low
    return (
        wide >> np.uint64(exponent + mantissa),
        wide >> np.uint64(mantissa) & np.uint64((1 << exponent) - 1),
        wide & low,
    )


def _layout(signs: Words, exponents: Words, mantissas: Words) -> _Layout:
    used = int(np.bitwise_or.reduce(mantissas))
    zeros = (used & -used).bit_length() - 1 if used else 0
    low = int(exponents.min())
    return _Layout(int(signs.any()), low, int(exponents.max()) - low, zeros, used.bit_length() - zeros if used else 0)
