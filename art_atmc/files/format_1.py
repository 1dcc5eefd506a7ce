"""Files of format 1, a safetensors container with the manifest in its metadata; read, no longer written."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Final, TypeVar

import safetensors

from art_atmc.files.index import Index
from art_atmc.files.manifest import Manifest
from art_atmc.support.reading import validated

__all__ = ["KEY", "parsed"]

Checked = TypeVar("Checked")

KEY: Final = "art-atmc"
MAX_HEADER: Final = 1 << 20
MAX_INDEX: Final = 1 << 20


def parsed(data: bytes) -> tuple[Manifest, Index, bytes]:
    """Manifest, index and payload.

    ============================  ==============================================================================
    ``__metadata__["art-atmc"]``  format version, SHA-256 and the manifest as JSON; spaces between
    tensor ``index`` (U8)         the index as JSON, deflated
    tensor ``payload`` (U8)       the records of the tensors
    ============================  ==============================================================================

    :raises ValueError: when it is no such file, or is damaged.
    """
    metadata, arrays = _container(data)
    if KEY not in metadata:
        raise ValueError("this is no art-atmc file, though a safetensors container")
    version, digest, text = (*metadata[KEY].split(" ", 2), "", "")[:3]
    if version != "1" or arrays.keys() != {"index", "payload"}:
        raise ValueError("parts of the file are missing")
    packed, payload = arrays["index"], arrays["payload"]
    if _digest(text, packed, payload) != digest:
        raise ValueError("it is damaged: its content does not match its digest; copy it again from its source")
    return _checked(Manifest, text.encode(), "manifest"), _checked(Index, _inflated(packed), "index"), payload


def _checked(kind: type[Checked], text: bytes, name: str) -> Checked:
    try:
        return validated(kind, text)
    except ValueError as error:
        raise ValueError(f"its {name} is {error}") from None


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


def _digest(text: str, packed: bytes, payload: bytes) -> str:
    digest = hashlib.sha256()
    for part in (text.encode("utf-8", "surrogatepass"), packed, payload):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
