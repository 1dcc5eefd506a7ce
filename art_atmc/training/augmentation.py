"""Random changes of training images that keep their class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_and_flip"]


def crop_and_flip(x: Tensor, generator: torch.Generator | None = None, *, padding: int = 4) -> Tensor:
    """Shift every image by up to ``padding`` pixels, zeros coming in, and mirror every second one, at random.

    What the ATMC paper and most others train CIFAR-10 with.

    :param x: images (N, C, H, W).
    :param generator: source of the randomness.
    :returns: of the same shape.

    >>> x = torch.ones(5, 1, 8, 8)
    >>> crop_and_flip(x, padding=0).equal(x)
    True
    """
    number, _, height, width = x.shape
    top, left = torch.randint(2 * padding + 1, (2, number), generator=generator)
    mirrored = torch.randint(2, (number,), generator=generator).bool()
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = F.pad(x, (padding,) * 4)
    chosen = torch.arange(number)[:, None, None]
    return padded.permute(0, 2, 3, 1)[chosen, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
