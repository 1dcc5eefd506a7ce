"""Photographs to train on, cut into patches; a corner of each is held out for calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from art_atmc_distortion.codec.transform import BLOCK

__all__ = ["Photographs", "opened", "read"]

Pixels = npt.NDArray[np.uint8]
HELD_OUT = 0.3  # of either side: about a tenth of the area


def opened(path: Path) -> Pixels:
    """An image file as (height, width, 3).

    :raises ValueError: for what is no image, for one with transparency, and for sides above 2^15.
    """
    try:
        with Image.open(path) as image:
            if max(image.size) >= 2**15:
                raise ValueError(f"{path} has sides {image.size}; cut it into parts of fewer than 32768 pixels a side")
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                raise ValueError(
                    f"{path} has transparency, which the codec does not code; put it on a background first"
                )
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no image that Pillow reads; give a PNG, JPEG or WebP file") from None


@final
@dataclasses.dataclass(frozen=True)
class Photographs:
    """Images without a held-out corner, and the corners.

    :param images: of shape (height, width, 3), uint8.
    """

    images: Sequence[Pixels]

    @classmethod
    def of(cls, folder: Path, longest: int = 900) -> Photographs:
        """All images of a folder, shrunk to ``longest`` pixels a side, which takes the traces of JPEG out of them.

        :raises ValueError: for a folder without images.
        """
        found = []
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")):
            whole = Image.fromarray(opened(path))
            share = min(1.0, longest / max(whole.size))
            size = (round(whole.width * share), round(whole.height * share))
            found.append(np.asarray(whole.resize(size, Image.Resampling.LANCZOS)))
        if not found:
            raise ValueError(f"{folder} holds no PNG, JPEG or WebP image; give a folder of photographs")
        return cls(found)

    def batches(self, size: int, side: int, generator: np.random.Generator) -> Iterator[Tensor]:
        """Random patches without end, (size, 3, side, side), mirrored at random, none from a held-out corner."""
        while True:
            yield _stacked([_mirrored(self._patch(side, generator), generator) for _ in range(size)])

    def held_out(self, number: int, side: int) -> Tensor:
        """Patches of the corners of all photographs, the same for each call, (number, 3, side, side).

        As in training each is the more textured of two: a bound holds for the distribution that it was met on.
        """
        generator = np.random.default_rng(0)
        corners = [image[-_corner(image.shape[0], side) :, -_corner(image.shape[1], side) :] for image in self.images]
        chosen = (corners[place % len(corners)] for place in range(number))
        return _stacked([max((_cut(c, side, generator) for _ in range(2)), key=_texture) for c in chosen])

    def _patch(self, side: int, generator: np.random.Generator) -> Pixels:
        """The more textured of two, which are not in the lower right corner."""
        tries: list[Pixels] = []
        while len(tries) < 2:
            image = self.images[int(generator.integers(len(self.images)))]
            height, width = image.shape[:2]
            row, column = (int(generator.integers(length - side + 1)) for length in (height, width))
            if row + side > height - _corner(height, side) and column + side > width - _corner(width, side):
                continue
            tries.append(image[row : row + side, column : column + side])
        return max(tries, key=_texture)


def read(paths: Sequence[Path]) -> list[Pixels]:
    """Several image files."""
    return [opened(path) for path in paths]


def _corner(length: int, side: int) -> int:
    return max(side, int(HELD_OUT * length) // BLOCK * BLOCK)


def _cut(image: Pixels, side: int, generator: np.random.Generator) -> Pixels:
    row, column = (int(generator.integers(length - side + 1)) for length in image.shape[:2])
    return image[row : row + side, column : column + side]


def _texture(patch: Pixels) -> float:
    return float(np.abs(np.diff(patch.astype(np.int16), axis=0)).mean())


def _mirrored(patch: Pixels, generator: np.random.Generator) -> Pixels:
    patch = patch[:, ::-1] if generator.random() < 0.5 else patch
    return patch.transpose(1, 0, 2) if generator.random() < 0.5 else patch


def _stacked(patches: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float()
