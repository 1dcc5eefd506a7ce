r"""A fixed orthonormal transform of an image: colours, then blocks of 8 by 8 pixels by the discrete cosine transform.

It costs no bytes, since it is a formula, and because it is orthonormal a squared error of coefficients is a squared
error of pixels. What is learnt stands behind it, see :mod:`art_atmc_distortion.codec.network`.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

__all__ = ["BLOCK", "CHANNELS", "COLOURS", "FREQUENCIES", "GROUPS", "basis", "blocks", "pixels"]

BLOCK: Final = 8
CHANNELS: Final = 3 * BLOCK * BLOCK
# Rows: brightness, red against blue, green against both; each of length 1.
COLOURS: Final = torch.tensor(
    [[1 / math.sqrt(3)] * 3, [1 / math.sqrt(2), 0, -1 / math.sqrt(2)], [v / math.sqrt(6) for v in (1, -2, 1)]]
)
FREQUENCIES: Final = sorted(((u, v) for u in range(BLOCK) for v in range(BLOCK)), key=lambda f: (sum(f), f))
"""(vertical, horizontal) of each coefficient of a block, low ones first."""

_LOW, _MID = 6, 28  # frequencies with u + v below 3 and below 7
GROUPS: Final = (3, 3 + _LOW - 1, 3 + _MID - 1, 3 + 63, CHANNELS)
"""Ends of the groups in which channels are coded: means, then brightness from low to high, then colour."""


def basis() -> Tensor:
    """The transform of a flattened block of three colours, (192, 192), orthonormal; rows in the order of coding."""
    place = torch.arange(BLOCK, dtype=torch.float64)
    rows = [
        torch.cos(math.pi * (place + 0.5) * f / BLOCK) * math.sqrt((1 if f == 0 else 2) / BLOCK) for f in range(BLOCK)
    ]
    planes = torch.stack([torch.outer(rows[u], rows[v]).reshape(-1) for u, v in FREQUENCIES])
    every = torch.einsum("cd,fp->cfdp", COLOURS.double(), planes).reshape(3, BLOCK**2, CHANNELS)
    parts = every[:, 0], every[0, 1:], every[1:, 1:].transpose(0, 1).reshape(-1, CHANNELS)
    return torch.cat(parts).float()


def blocks(images: Tensor) -> Tensor:
    """(N, 3, 8h, 8w) to (N, 192, h, w), one block of pixels a position."""
    n, colours, height, width = images.shape
    split = images.reshape(n, colours, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return split.permute(0, 1, 3, 5, 2, 4).reshape(n, CHANNELS, height // BLOCK, width // BLOCK)


def pixels(coefficients: Tensor) -> Tensor:
    """The inverse of :func:`blocks`."""
    n, _, height, width = coefficients.shape
    split = coefficients.reshape(n, 3, BLOCK, BLOCK, height, width).permute(0, 1, 4, 2, 5, 3)
    return split.reshape(n, 3, height * BLOCK, width * BLOCK)
