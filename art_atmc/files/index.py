"""The index of a compressed file: which tensors there are, how each is encoded, and what each is of the network."""

from __future__ import annotations

import math
from collections import Counter
from typing import Annotated, Final, Literal, TypeAlias, final

from pydantic import Field

from art_atmc.files.encoding import DTYPES, EncodedTensor
from art_atmc.files.manifest import Record

__all__ = ["Entry", "Index", "check_names"]

MAX_DIMENSIONS: Final = 64
PLACE: Final = 48  # bytes of memory that decoding takes for each position
SYMBOL: Final = 8  # bytes that a symbol counts for, so that a limit of memory is one of time too

Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**48)]


@final
class Entry(Record):
    """How one tensor is encoded; the fields of :class:`~art_atmc.files.encoding.EncodedTensor`.

    :param gaps: as many as ``nnz`` where it is not said.
    """

    dtype: Literal[tuple(DTYPES)] = "float32"  # type: ignore[valid-type]
    shape: Annotated[list[Count], Field(max_length=MAX_DIMENSIONS)]
    bytes: Count
    nnz: Count | None = None
    codes: Count | None = None
    gaps: Count | None = None
    shift: Count = 0
    packed: bool = False

    @classmethod
    def of(cls, tensor: EncodedTensor) -> Entry:
        """The entry of ``tensor``."""
        fields = {name: getattr(tensor, name) for name in ("dtype", "nnz", "codes", "shift", "packed")}
        gaps = None if tensor.gaps == (tensor.nnz or 0) else tensor.gaps
        return cls(shape=list(tensor.shape), bytes=len(tensor.record), gaps=gaps, **fields)


@final
class Index(Record):
    """What the tensors are.

    :param tensors: how each is encoded, in the order of the payload. Factors stand as ``layer.weight.U``.
    :param factored: the weights that stand as U, V and C.
    :param grouped: those of them that belong to grouped convolutions, which can't run their factors.
    :param compressed: the tensors that the constraints hold for.
    :param tied: further names of a tensor.
    :param positions: how often a weight is applied to one example: once in a linear layer, at each place of the output
        in a convolution.
    """

    tensors: dict[str, Entry]
    factored: list[str] = []
    grouped: list[str] = []
    compressed: list[str] = []
    tied: dict[str, str] = {}
    positions: dict[str, Count] = {}

    def encoded(self, payload: bytes, max_bytes: int) -> dict[str, EncodedTensor]:
        """The tensors, still encoded; nothing is decoded that would take more memory or time than is allowed.

        :raises ValueError: when the payload is another, or the tensors are too large.
        """
        tensors: dict[str, EncodedTensor] = {}
        place, dense, working, symbols = 0, 0, 0, 0
        for name, entry in self.tensors.items():
            fields = entry.model_dump(exclude={"bytes", "shape", "gaps"})
            gaps = (entry.nnz or 0) if entry.gaps is None else entry.gaps
            record = payload[place : place + entry.bytes]
            tensors[name] = tensor = EncodedTensor(shape=tuple(entry.shape), record=record, gaps=gaps, **fields)
            place += entry.bytes
            # Torch reckons with the other sides also where one is empty.
            dense += math.prod(max(1, side) for side in tensor.shape) * DTYPES[entry.dtype].itemsize
            working = max(working, PLACE * tensor.gaps)
            symbols += tensor.gaps + tensor.coded
        if place != len(payload):
            raise ValueError("its index and its payload are of different lengths")
        if (needed := max(dense + working, SYMBOL * symbols)) > max_bytes:
            raise ValueError(
                f"its tensors take {needed} bytes of memory, more than {max_bytes}; raise `max_bytes` if you trust it"
            )
        return tensors


def check_names(index: Index) -> None:
    """Refuse an index that names what it does not hold, or one thing twice, with a ``ValueError``."""
    names, tied, compressed = index.tensors.keys(), index.tied.keys(), {*index.compressed}
    factors = {name: {f"{name}.{factor}" for factor in "UVC"} for name in index.factored}
    every = {name for group in factors.values() for name in group}
    if missing := (compressed | every | {*index.tied.values()}) - names | {*index.grouped} - factors.keys():
        raise ValueError(f"its index names tensors that it does not hold: {sorted(missing)[:5]}")
    below = {name for name in names | tied if name.rpartition(".")[0] in factors}
    clashing = (names & tied) | (factors.keys() & (names | tied)) | (below - every) | (every & {*index.tied.values()})
    listed = (index.factored, index.compressed, index.grouped)
    clashing |= {name for group in listed for name, n in Counter(group).items() if n > 1}
    if clashing:
        raise ValueError(f"its index says two things of each of these names: {sorted(clashing)[:5]}")
    if parted := [name for name, group in factors.items() if group & compressed and group - compressed]:
        raise ValueError(f"its index lets the constraints hold for some factors only of {parted[:5]}")
