"""Rate and quality of codecs over images, and of those that Pillow has, in bytes that decode."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from art_atmc_distortion.codec.measures import psnr
from art_atmc_distortion.codec.stream import Coder

__all__ = ["Point", "coded", "jpeg", "over", "webp"]

Pixels = npt.NDArray[np.uint8]
Roundtrip = Callable[[Pixels], tuple[int, Pixels]]
"""An image to its bytes and what they decode to."""

QUALITIES: Final = (1, 5, 10, 15, *range(20, 96, 5))


@final
@dataclasses.dataclass(frozen=True)
class Point:
    """Means over images: bits a pixel of the files, and decibels."""

    bpp: float
    psnr: float


def over(images: Sequence[Pixels], roundtrip: Roundtrip) -> Point:
    """A codec's point over images of any sizes, each counting alike."""
    rates, decibels = [], []
    for image in images:
        size, restored = roundtrip(image)
        rates.append(8 * size / (image.shape[0] * image.shape[1]))
        decibels.append(psnr(image, restored))
    return Point(float(np.mean(rates)), float(np.mean(decibels)))


def coded(coder: Coder) -> Roundtrip:
    """Through the learned codec, bytes and back."""

    def roundtrip(image: Pixels) -> tuple[int, Pixels]:
        data = coder.encode(image)
        return len(data), coder.decode(data)

    return roundtrip


def jpeg(quality: int) -> Roundtrip:
    """Pillow's JPEG with optimised tables."""
    return _pillow("JPEG", quality=quality, optimize=True)


def webp(quality: int) -> Roundtrip:
    """Pillow's WebP at its slowest setting."""
    return _pillow("WEBP", quality=quality, method=6)


def _pillow(kind: str, **options: Any) -> Roundtrip:
    def roundtrip(image: Pixels) -> tuple[int, Pixels]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, **options)
        with Image.open(file) as restored:  # moves the position in the file
            return len(file.getvalue()), np.asarray(restored.convert("RGB"))

    return roundtrip
