"""Measures of images where the true ones are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from art_atmc.support.numbers import Real

__all__ = ["psnr", "ssim"]

RANGE = Real("(0, inf)", "1 for images in [0, 1], 2 for [-1, 1]")


def psnr(a: Tensor, b: Tensor, *, data_range: float) -> float:
    r"""Peak signal-to-noise ratio in decibels, :math:`10 \log_{10} (R^2 / \overline{(a - b)^2})`, over all images.

    :param a: images, any shape.
    :param b: the true ones, of the same shape.
    :param data_range: R, the largest value less the least that an image may have.
    :raises ValueError: for other shapes or a range that is not positive.

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1), data_range=1.0)
    20.0
    """
    span = RANGE.plain("data_range", data_range)
    _check(a, b)
    error = float((a.detach() - b.detach()).double().square().mean())
    return math.inf if error == 0 else round(10 * math.log10(span**2 / error), 6)


@torch.no_grad()
def ssim(a: Tensor, b: Tensor, *, data_range: float) -> float:
    r"""Structural similarity, the mean over windows, channels and images of

    .. math:: \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
              {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)},
              \qquad c_1 = (0.01 R)^2, \quad c_2 = (0.03 R)^2

    with Gaussian windows of 11 x 11 pixels and a standard deviation of 1.5 (Wang et al. 2004), those that lie within
    the image.

    :param a: images, shape (N, C, H, W), of sides of at least 11.
    :param b: the true ones, of the same shape.
    :param data_range: R, as for :func:`psnr`.
    :raises ValueError: as for :func:`psnr`, and for smaller images.

    >>> ssim(torch.ones(1, 1, 11, 11), torch.ones(1, 1, 11, 11), data_range=1.0)
    1.0
    """
    span = RANGE.plain("data_range", data_range)
    _check(a, b)
    if a.dim() != 4 or min(a.shape[2:]) < 11:
        raise ValueError(f"images must have shape (N, C, H, W) with sides of at least 11, got {tuple(a.shape)}")
    offsets = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def averaged(x: Tensor) -> Tensor:
        return conv2d(x.flatten(0, 1)[:, None], window.to(x.device))

    a, b = a.double(), b.double()
    mean_a, mean_b = averaged(a), averaged(b)
    var_a, var_b = averaged(a * a) - mean_a**2, averaged(b * b) - mean_b**2
    covariance = averaged(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((above / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or not a.numel():
        raise ValueError(f"images must have the shape of the true ones, got {tuple(a.shape)} and {tuple(b.shape)}")
