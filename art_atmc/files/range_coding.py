"""Symbols through the range coder of ``constriction``, with models that every machine computes alike."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import constriction
import numpy as np
import numpy.typing as npt

__all__ = ["RangeEncoder", "SymbolReader", "Uniform", "put_symbols"]

Symbols: TypeAlias = npt.NDArray[Any]

RangeEncoder, RangeDecoder = constriction.stream.queue.RangeEncoder, constriction.stream.queue.RangeDecoder
Categorical, Uniform = constriction.stream.model.Categorical, constriction.stream.model.Uniform

MAX_LEVELS: Final = 100  # frequencies up to 2^50


def put_symbols(coder: Any, symbols: Symbols) -> None:
    """Encode whole numbers from 0 on, after their frequencies, which take two to five bits each."""
    levels = _levels(np.bincount(symbols))
    low, span = int(levels.min()), int(np.ptp(levels))
    coder.encode(np.array([low, span], np.int32), Uniform(MAX_LEVELS))
    if span:
        coder.encode(levels - low, Uniform(span + 1))
    coder.encode(symbols, _model(levels))


class SymbolReader:
    """The range coder's output, read front to back.

    :raises ValueError: here and in its methods, where no :class:`RangeEncoder` wrote that.
    """

    def __init__(self, record: bytes) -> None:
        if len(record) % 4:
            raise ValueError("its length is not that of whole words")
        self._decoder = RangeDecoder(np.frombuffer(record, "<u4").astype(np.uint32))

    def take(self, count: int, model: Any) -> Symbols:
        """``count`` symbols of a known distribution."""
        try:
            taken: Symbols = self._decoder.decode(model, count)
        except AssertionError:
            raise ValueError("its codes are broken") from None
        return taken

    def symbols(self, count: int, size: int) -> Symbols:
        """Undo :func:`put_symbols` for an alphabet of ``size``."""
        return self.take(count, self.model(size))

    def model(self, size: int) -> Any:
        """The distribution of the symbols that follow, of an alphabet of ``size``."""
        low, span = self.take(2, Uniform(MAX_LEVELS))
        levels = self.take(size, Uniform(int(span) + 1)) if span else np.zeros(size, np.int32)
        return _model(levels + low)

    def finish(self) -> None:
        """Refuse output that is not read to its end."""
        if not self._decoder.maybe_exhausted():
            raise ValueError("it holds more codes than entries")


def _levels(counts: Symbols) -> Symbols:
    """Counts on the scale 1, 1.5, 2, 3, 4, 6, ...: at most a quarter off, which costs a code about 0.01 bits."""
    mantissa, exponent = np.frexp(np.maximum(counts, 1))
    return (2 * (exponent - 2) + np.rint(4 * mantissa)).astype(np.int32)


def _model(levels: Symbols) -> Any:
    """The distribution of symbols whose frequencies have these levels."""
    weights = np.ldexp(2.0 + levels % 2, levels // 2)
    if len(weights) == 1:
        weights = np.append(weights, 0)  # the coder wants two symbols; the second never comes
    return Categorical(weights, perfect=False)
