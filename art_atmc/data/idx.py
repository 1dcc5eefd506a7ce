"""The idx format of MNIST's files: unsigned bytes behind a magic number and the sizes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_idx"]

Array = NDArray[Any]


def read_idx(path: Path, dimensions: int) -> Array:
    """Unsigned bytes in the idx format: a magic number, the sizes as big-endian 32-bit integers, the bytes."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):  # not by the name: some tools unpack a file without renaming it
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is truncated or damaged ({error}); fetch it again") from error
    magic = bytes([0, 0, 8, dimensions])  # 8 stands for unsigned bytes
    if content[:4] != magic:
        raise ValueError(
            f"{path} must begin with the magic number {magic.hex()}, got {content[:4].hex() or 'nothing'};"
            " it holds something else or is damaged, fetch it again"
        )
    header = 4 + 4 * dimensions
    sizes = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    if len(content) != header + math.prod(sizes):
        raise ValueError(
            f"{path} must have {header + math.prod(sizes)} bytes for the shape {tuple(sizes)}, got "
            f"{len(content)}; it is truncated or damaged, fetch it again"
        )
    values = np.frombuffer(content, np.uint8, offset=header)
    return values.reshape(sizes[0], 1, *sizes[1:]) if dimensions == 3 else values
