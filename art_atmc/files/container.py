"""The file: manifest, index and the encoded tensors behind a digest; written at once or not at all.

=========  =================================================================================================
4 bytes    ``ATMC``
1 byte     format version
16 bytes   BLAKE2b of the version and of all that follows
4 bytes    length of the text, least byte first
text       manifest and index as JSON, deflated with :data:`DICTIONARY`, in which the usual words stand
payload    the records of :mod:`art_atmc.files.encoding`, one after another
=========  =================================================================================================

Nothing in it is executed, and nothing is believed: the digest covers all of it, every field is checked, and no
announced size is allocated before it has been compared with a limit. Files of format 1
(:mod:`art_atmc.files.format_1`) are read too.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any, Final, final

from art_atmc.files import format_1
from art_atmc.files.encoding import EncodedTensor
from art_atmc.files.index import Entry, Index, check_names
from art_atmc.files.manifest import Manifest, Record
from art_atmc.support.atomic import write_file
from art_atmc.support.reading import validated

__all__ = ["Entry", "Index", "check_names", "read", "serialized", "write"]

MAGIC: Final = b"ATMC"
VERSION: Final = 2
HEADER: Final = 25
MAX_TEXT: Final = 1 << 20  # a hundred times what networks of a thousand layers take; checking more could take seconds
# Part of the format: it must not change while files of version 2 are read. What comes often stands last.
DICTIONARY: Final = (
    b'"members":{"members.0":{"constraints":["Sparsity(density=0.01)","Quantization(bits=1)"],"network":"lenet",'
    b'"num_batches_tracked":{"dtype":"int64","shape":[],"bytes":8,"packed":true}"dtype":"float16""dtype":"bfloat16"'
    b'"dtype":"float64""grouped":["tied":{"head.weight":"embedding.weight"}"preprocessing":[0.5,0.5],'
    b'"running_mean":{"shape":[512],"bytes":,"running_var":{"shape":[256],"bytes":,"downsample.0.weight.U":'
    b'"layer4.1.conv2.weight.V":"layer3.0.conv1.weight.C":"layer2.0.bn1.weight":{"layer1.0.bn2.bias":{"ignore":["'
    b'"input_shape":[3,32,32],"input_shape":[1,28,28],"nb_classes":10,"clip_values":[0.0,1.0],"supplied":['
    b'"metrics":{"clean_accuracy":0.9,"robust_accuracy":0.8,"validation_accuracy":0.'
    b'},"versions":{"art-atmc":"0.1.0","adversarial-robustness-toolbox":"1.20.1","torch":"2.13.0+cpu",'
    b'"numpy":"2.4.6","constriction":"0.5.0","safetensors":"0.8.0"}},"index":{"tensors":{"factored":['
    b'"compressed":["layers.fc1.weight.U","layers.fc1.weight.V","layers.fc1.weight.C"],"positions":{'
    b'"layers.fc2.bias":{"shape":[128],"bytes":40,"packed":true},"layers.conv2.weight.U":{"shape":[64,32,3,3],'
    b'"bytes":1200,"nnz":640,"codes":16,"shift":3},"layers.conv1.weight.V":{"shape":[20,1,5,5],"bytes":,"nnz":'
    b'"layers.conv1.weight.C":{"shape":[32,32],"bytes":0,"nnz":0},"layers.conv1.bias":{"shape":[32],"bytes":'
    b'{"manifest":{"constraints":["Sparsity(density=0.05)","Quantization(bits=4)"],"network":"digits-cnn"'
)


@final
class Text(Record):
    """What the file says in words."""

    manifest: Manifest
    index: Index


def write(path: Path, manifest: Manifest, index: Index, payload: bytes) -> int:
    """Write the file and return its size."""
    data = serialized(manifest, index, payload)
    write_file(path, data)
    return len(data)


def serialized(manifest: Manifest, index: Index, payload: bytes) -> bytes:
    """The bytes of the file; the same for the same content.

    :raises ValueError: when :func:`read` would refuse the file for the length of its text.
    """
    text = Text(manifest=manifest, index=index).model_dump_json(exclude_defaults=True).encode()
    if len(text) >= MAX_TEXT:
        raise ValueError(f"manifest and index must stay below {MAX_TEXT} bytes; keep fewer metrics or tensors")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    packed = deflater.compress(text) + deflater.flush()
    return framed(packed, payload)


def framed(packed: bytes, payload: bytes) -> bytes:
    """A file of this text and payload, behind their digest."""
    content = len(packed).to_bytes(4, "little") + packed + payload
    return MAGIC + bytes([VERSION]) + _digest(bytes([VERSION]), content) + content


def read(path: Path, max_bytes: int) -> tuple[Manifest, Index, dict[str, EncodedTensor]]:
    """Read and check the file; tensors stay encoded.

    :param max_bytes: most memory that the file and decoding its tensors may take.
    :raises OSError: when the file can't be read.
    :raises ValueError: when it is not such a file, is damaged, newer than this version, or larger than allowed.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes} bytes; raise `max_bytes` if you trust it")
    try:
        with path.open("rb") as file:
            data = file.read(size)
        manifest, index, payload = _parsed(data) if data.startswith(MAGIC) else format_1.parsed(data)
        tensors = index.encoded(payload, max_bytes)
        check_names(index)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return manifest, index, tensors


def _parsed(data: bytes) -> tuple[Manifest, Index, bytes]:
    if len(data) < HEADER:
        raise ValueError("this is no art-atmc file, or it was cut off")
    version, digest, content = data[4:5], data[5:21], data[21:]
    if version[0] > VERSION:
        newer = f"(format {version[0]}; this one reads up to {VERSION})"
        raise ValueError(f"it was written by a newer art-atmc {newer}: upgrade art-atmc")
    if _digest(version, content) != digest or version[0] != VERSION:
        raise ValueError(
            "it is damaged or was cut off: its content does not match its digest; copy it again from its source"
        )
    end = 4 + int.from_bytes(content[:4], "little")
    try:
        text: Any = validated(Text, _inflated(content[4:end]))
    except ValueError as error:
        raise ValueError(f"its text is {error}") from None
    return text.manifest, text.index, content[end:]


def _inflated(packed: bytes) -> bytes:
    inflater = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        text = inflater.decompress(packed, MAX_TEXT)
    except zlib.error:
        raise ValueError("no deflated text") from None
    if not inflater.eof or inflater.unused_data:
        raise ValueError("cut off, padded, or longer than any that art-atmc writes")
    return text


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
