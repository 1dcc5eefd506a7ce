"""The file: one safetensors container with a manifest, an index and the encoded tensors; written at once or not at all.

============================  ==============================================================================
``__metadata__["art-atmc"]``  format version, SHA-256 and, for people, the manifest as JSON; spaces between
tensor ``index`` (U8)         a deflated JSON text: which tensors there are, and how each is encoded
tensor ``payload`` (U8)       the records of :mod:`art_atmc.files.encoding`, one after another
============================  ==============================================================================

Nothing in it is executed, and nothing is believed: the digest covers manifest, index and payload, every field is
checked, and no announced size is allocated before it has been compared with a limit.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections import Counter
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias, TypeVar, final

import numpy as np
import safetensors.numpy
from pydantic import Field

from art_atmc.files.encoding import DTYPES, EncodedTensor
from art_atmc.files.manifest import Manifest, Record
from art_atmc.support.atomic import write_file
from art_atmc.support.reading import validated

__all__ = ["Entry", "Index", "check_names", "read", "serialized", "write"]

KEY: Final = "art-atmc"
VERSION: Final = 1
MAX_HEADER: Final = 1 << 20  # a hundred times what networks of a thousand layers take; checking more could take seconds
MAX_INDEX: Final = 1 << 20
MAX_DIMENSIONS: Final = 64

Checked = TypeVar("Checked")
Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**48)]


@final
class Entry(Record):
    """How one tensor is encoded; the fields of :class:`~art_atmc.files.encoding.EncodedTensor`."""

    dtype: Literal[tuple(DTYPES)]  # type: ignore[valid-type]
    shape: Annotated[list[Count], Field(max_length=MAX_DIMENSIONS)]
    bytes: Count
    nnz: Count | None = None
    codes: Count | None = None
    gaps: Count = 0
    shift: Count = 0

    @classmethod
    def of(cls, tensor: EncodedTensor) -> Entry:
        """The entry of ``tensor``."""
        fields = {name: getattr(tensor, name) for name in ("dtype", "nnz", "codes", "gaps", "shift")}
        return cls(shape=list(tensor.shape), bytes=len(tensor.record), **fields)


@final
class Index(Record):
    """What the tensors are.

    :param tensors: how each is encoded, in the order of the payload. Factors stand as ``layer.weight.U``.
    :param factored: the weights that stand as U, V and C.
    :param compressed: the tensors that the constraints hold for.
    :param tied: further names of a tensor.
    :param positions: how often a weight is applied to one example: once in a linear layer, at each place of the output
        in a convolution.
    """

    tensors: dict[str, Entry]
    factored: list[str]
    compressed: list[str]
    tied: dict[str, str]
    positions: dict[str, Count]


def write(path: Path, manifest: Manifest, index: Index, payload: bytes) -> int:
    """Write the file and return its size."""
    data = serialized(manifest, index, payload)
    write_file(path, data)
    return len(data)


def serialized(manifest: Manifest, index: Index, payload: bytes) -> bytes:
    """The bytes of the file; the same for the same content.

    :raises ValueError: when :func:`read` would refuse the file for the length of its manifest or index.
    """
    text, names = manifest.model_dump_json(), index.model_dump_json(exclude_defaults=True).encode()
    packed = zlib.compress(names, level=9)
    data = safetensors.numpy.save(
        {"index": np.frombuffer(packed, np.uint8), "payload": np.frombuffer(payload, np.uint8)},
        # One key, as safetensors writes several in random order.
        {KEY: f"{VERSION} {_digest(text, packed, payload)} {text}"},
    )
    if int.from_bytes(data[:8], "little") > MAX_HEADER or len(names) >= MAX_INDEX:
        raise ValueError(f"manifest and index must each stay below {MAX_INDEX} bytes; keep fewer metrics or tensors")
    return data


def read(path: Path, max_bytes: int) -> tuple[Manifest, Index, dict[str, EncodedTensor]]:
    """Read and check the file; tensors stay encoded.

    :param max_bytes: most memory that the decoded tensors may take.
    :raises OSError: when the file can't be read.
    :raises ValueError: when it is not such a file, is damaged, newer than this version, or larger than allowed.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes} bytes; raise `max_bytes` if you trust it")
    try:
        with path.open("rb") as file:
            return _parsed(file.read(size), max_bytes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parsed(data: bytes, max_bytes: int) -> tuple[Manifest, Index, dict[str, EncodedTensor]]:
    metadata, arrays = _container(data)
    if KEY not in metadata:
        raise ValueError("this is no art-atmc file, though a safetensors container")
    version, digest, text = (*metadata[KEY].split(" ", 2), "", "")[:3]
    if not (version.isascii() and version.isdigit() and len(version) < 9):
        raise ValueError("its format version is missing")
    if int(version) > VERSION:
        raise ValueError(
            f"it was written by a newer art-atmc (format {version}; this one reads up to {VERSION}): upgrade art-atmc"
        )
    if arrays.keys() != {"index", "payload"}:
        raise ValueError("parts of the file are missing")
    packed, payload = arrays["index"], arrays["payload"]
    if _digest(text, packed, payload) != digest:
        raise ValueError("it is damaged: its content does not match its SHA-256; copy it again from its source")
    manifest = _validated(Manifest, text.encode(), "manifest")
    index = _validated(Index, _inflated(packed), "index")
    return manifest, index, _tensors(index, payload, max_bytes)


def _container(data: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
        raise ValueError("this is no art-atmc file, or it was cut off")
    try:
        arrays = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, RecursionError):
        raise ValueError("this is no art-atmc file, or it was cut off") from None
    return metadata, {name: bytes(array["data"]) for name, array in arrays.items()}


def _inflated(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, MAX_INDEX)
    except zlib.error:
        raise ValueError("its index can't be inflated") from None
    if not inflater.eof or inflater.unused_data:
        raise ValueError("its index is cut off, padded, or larger than any that art-atmc writes")
    return text


def _validated(kind: type[Checked], text: bytes, name: str) -> Checked:
    try:
        return validated(kind, text)
    except ValueError as error:
        raise ValueError(f"its {name} is {error}") from None


def _tensors(index: Index, payload: bytes, max_bytes: int) -> dict[str, EncodedTensor]:
    tensors: dict[str, EncodedTensor] = {}
    place, dense = 0, 0
    for name, entry in index.tensors.items():
        record = payload[place : place + entry.bytes]
        place += entry.bytes
        fields = entry.model_dump(exclude={"bytes", "shape"})
        tensors[name] = EncodedTensor(shape=tuple(entry.shape), record=record, **fields)
        # Torch reckons with the other sides also where one is empty.
        dense += math.prod(max(1, side) for side in entry.shape) * DTYPES[entry.dtype].itemsize
    if place != len(payload):
        raise ValueError("its index and its payload are of different lengths")
    if dense > max_bytes:
        raise ValueError(
            f"its tensors take {dense} bytes of memory, more than {max_bytes}; raise `max_bytes` if you trust it"
        )
    check_names(index)
    return tensors


def check_names(index: Index) -> None:
    """Refuse an index that names what it does not hold, or one thing twice, with a ``ValueError``."""
    names, tied, compressed = index.tensors.keys(), index.tied.keys(), {*index.compressed}
    factors = {name: {f"{name}.{factor}" for factor in "UVC"} for name in index.factored}
    every = {name for group in factors.values() for name in group}
    if missing := (compressed | every | {*index.tied.values()}) - names:
        raise ValueError(f"its index names tensors that it does not hold: {sorted(missing)[:5]}")
    below = {name for name in names | tied if name.rpartition(".")[0] in factors}
    clashing = (names & tied) | (factors.keys() & (names | tied)) | (below - every) | (every & {*index.tied.values()})
    clashing |= {name for group in (index.factored, index.compressed) for name, n in Counter(group).items() if n > 1}
    if clashing:
        raise ValueError(f"its index says two things of each of these names: {sorted(clashing)[:5]}")
    if parted := [name for name, group in factors.items() if group & compressed and group - compressed]:
        raise ValueError(f"its index lets the constraints hold for some factors only of {parted[:5]}")


def _digest(text: str, packed: bytes, payload: bytes) -> str:
    digest = hashlib.sha256()
    for part in (text.encode("utf-8", "surrogatepass"), packed, payload):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
