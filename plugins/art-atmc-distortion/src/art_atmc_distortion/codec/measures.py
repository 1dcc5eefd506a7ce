r"""How good a reconstruction is, and how two codecs compare over a range of qualities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["bd_rate", "ms_ssim", "psnr"]

Curve = Sequence[tuple[float, float]]
"""Points (rate, quality)."""

_SCALES: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5


def psnr(image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    r"""Peak signal-to-noise ratio, :math:`10 \log_{10} (255^2 / \mathrm{MSE})`, in decibels.

    >>> round(psnr(np.full((2, 2, 3), 10, np.uint8), np.full((2, 2, 3), 15, np.uint8)), 2)
    34.15
    """
    error = float(np.square(image.astype(np.float64) - other).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def bd_rate(curve: Curve, reference: Curve, within: tuple[float, float] | None = None) -> float:
    r"""Bjontegaard's rate difference: the mean of :math:`\ln R(q)` against that of the reference, as a share.

    .. math:: \exp\Bigl( \frac{1}{q_1 - q_0} \int_{q_0}^{q_1} \ln R(q) - \ln R_{\text{ref}}(q)\, dq \Bigr) - 1

    Between points :math:`\ln R` is linear in the quality.

    :param curve: points (rate, quality), at least two, of rising quality with the rate.
    :param within: :math:`q_0, q_1`; by default all that both curves cover.
    :raises ValueError: where the curves do not cover the range.

    >>> round(bd_rate([(0.9, 30.0), (1.8, 36.0)], [(1.0, 30.0), (2.0, 36.0)]), 6)
    -0.1
    """
    tables = [np.array(sorted(points, key=lambda point: point[1])) for points in (curve, reference)]
    low, high = (max(t[0, 1] for t in tables), min(t[-1, 1] for t in tables))
    if within is not None:
        if within[0] < low - 1e-9 or within[1] > high + 1e-9:
            raise ValueError(f"the curves meet over {low:.2f} to {high:.2f} only, asked for {within}; add points")
        low, high = within
    if not low < high:
        raise ValueError("the curves have no range of qualities in common; add points to either")
    at = np.unique(np.concatenate([[low, high], *(t[:, 1] for t in tables)]).clip(low, high))
    gap = np.subtract(*(np.interp(at, t[:, 1], np.log(t[:, 0])) for t in tables))
    return float(math.exp(np.trapezoid(gap, at) / (high - low)) - 1)


def ms_ssim(image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    r"""Multi-scale structural similarity over five scales, of all three colours.

    :raises ValueError: for sides below 176 pixels: the coarsest scale would be smaller than the window.

    Source: Wang, Simoncelli and Bovik 2003, with the 11 x 11 Gaussian window of 1.5 pixels.

    >>> flat = np.full((176, 176, 3), 9, np.uint8)
    >>> round(ms_ssim(flat, flat), 6)
    1.0
    """
    if min(image.shape[:2]) < _WINDOW * 16:
        raise ValueError(f"ms_ssim needs sides of at least {_WINDOW * 16} pixels, got {image.shape[:2]}; use psnr")
    a, b = (torch.from_numpy(np.array(i, np.float64)).permute(2, 0, 1)[:, None] for i in (image, other))
    total: Any = 1.0
    for place, weight in enumerate(_SCALES):
        similarity, contrast = _ssim(a, b)
        last = place == len(_SCALES) - 1
        total = total * (similarity if last else contrast).clamp(min=0) ** weight
        a, b = nn.functional.avg_pool2d(a, 2), nn.functional.avg_pool2d(b, 2)
    return float(total.mean())


def _ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity and its part without the means, averaged over each colour."""
    place = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-place.square() / (2 * _SIGMA**2))
    window = window / window.sum()

    def blurred(x: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.conv2d(x, window.reshape(1, 1, -1, 1)), window.reshape(1, 1, 1, -1))

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    similarity = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast
    return similarity.mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))
