r"""The codec's network: a transform, learnt steps, an entropy model, and corrections of the inverse transform.

.. math:: t = \mathrm{DCT}(x) / \Delta, \qquad y = t + a(t), \qquad k = Q(y), \qquad
          \hat x = \mathrm{DCT}^{-1}\bigl(\Delta (k + s(k))\bigr) + p(\cdot)

with a learnt step :math:`\Delta` for each of the 192 channels, and small networks a, s and p that begin as zero: the
codec begins as a plain transform codec, and what it learns is what it gains on that.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from art_atmc.support.numbers import Real, Whole, check_numbers
from art_atmc_distortion.codec.prior import LARGEST, Prior, bits, squeezed
from art_atmc_distortion.codec.transform import BLOCK, CHANNELS, basis, blocks, pixels

__all__ = ["Architecture", "Codec", "Coded"]


class Coded(NamedTuple):
    """What a batch was coded to."""

    rate: Tensor
    """Bits a pixel, ideal, over the batch; a scalar with a graph."""
    images: Tensor
    """Reconstructed, (N, 3, H, W) in [0, 255], not rounded."""
    symbols: Tensor
    """Integers, (N, 192, H/8, W/8)."""


@final
@dataclasses.dataclass(frozen=True)
class Architecture:
    r"""The sizes of a codec.

    :param hidden: channels of each network of the entropy model.
    :param transform: channels of the networks a and s beside the transform.
    :param filter: channels of the filter p at half resolution; 0 for none.
    :param step: :math:`\Delta` at the start, in units of a pixel's value.
    :param dead_zone: :math:`\zeta`: a symbol moves towards its mean where that saves more than it costs,
        :math:`(y - k)^2 + \zeta\, \mathrm{bits}(k)`; 0.1155 is the slope of the rate of uniform quantization.
    :raises ValueError: for sizes out of range.
    """

    hidden: int = 64
    transform: int = 96
    filter: int = 32
    step: float = 24.0
    dead_zone: float = 0.115

    def __post_init__(self) -> None:
        size = Whole(1, 1024, "it counts channels")
        check_numbers(
            self,
            hidden=size,
            transform=size,
            filter=Whole(0, 1024, "0 leaves it out"),
            step=Real("(0, inf)", "about the root of 12 times the distortion"),
            dead_zone=Real("[0, 1)", "0 rounds to the nearest"),
        )


@final
class Codec(nn.Module):
    """An image codec; trained by :func:`~art_atmc_distortion.codec.train`, and used through ``encode`` and ``decode``.

    >>> codec = Codec(Architecture(hidden=8, transform=8, filter=0))
    >>> codec(torch.full((1, 3, 16, 16), 128.0)).images.shape
    torch.Size([1, 3, 16, 16])
    """

    basis: Tensor
    fineness: Tensor

    def __init__(self, architecture: Architecture = Architecture()) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("basis", basis().reshape(CHANNELS, CHANNELS, 1, 1), persistent=False)
        self.log_step = nn.Parameter(torch.full((CHANNELS,), architecture.step).log())
        self.register_buffer("fineness", torch.ones(()))
        self.prior = Prior(architecture.hidden)
        self.analysis = _residual(CHANNELS, architecture.transform)
        self.synthesis = _residual(3 * CHANNELS, architecture.transform)
        self.filter = _filter(architecture.filter) if architecture.filter else None

    @property
    def step(self) -> Tensor:
        r"""Of every channel, :math:`\Delta`, (1, 192, 1, 1); ``fineness`` is the one number that calibration moves."""
        return (self.log_step.exp() * self.fineness).reshape(1, CHANNELS, 1, 1)

    def forward(self, images: Tensor) -> Coded:
        """Code images (N, 3, H, W) in [0, 255], of sides that are multiples of 8, with gradients through rounding."""
        y = self.analysed(images)
        spent: list[Tensor] = []

        def choose(group: slice, mask: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
            own = y[:, group]
            k = self.quantized(own, mean, scale)
            k = own + (k - own).detach()
            spent.append((bits(k, mean, scale) * mask).sum())
            return k * mask

        symbols, mean, scale = self.prior((len(y), *y.shape[2:]), choose)
        rate = torch.stack(spent).sum() / (images.numel() / 3)
        return Coded(rate, self.synthesised(symbols, mean, scale), symbols)

    def analysed(self, images: Tensor) -> Tensor:
        """What is quantized, (N, 192, H/8, W/8)."""
        scaled = nn.functional.conv2d(blocks(images - 128), self.basis) / self.step
        return scaled + self.analysis(squeezed(scaled))  # type: ignore[no-any-return]

    @torch.no_grad()
    def quantized(self, y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """The cheaper of the nearest integer and its neighbour towards the mean."""
        near = y.round().clamp(-LARGEST, LARGEST)
        inward = near - (near - mean).sign() * ((near - mean).abs() > 0.5)
        zeta = self.architecture.dead_zone
        saved = bits(near, mean, scale) - bits(inward, mean, scale)
        return torch.where((y - inward).square() - (y - near).square() < zeta * saved, inward, near)

    def synthesised(self, symbols: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """Images of symbols, with the means and log-scales that these were coded by."""
        expected = torch.cat([squeezed(symbols), mean - symbols, scale / 4], dim=1)
        coefficients = (symbols + self.synthesis(expected)) * self.step
        images = pixels(nn.functional.conv_transpose2d(coefficients, self.basis))
        if self.filter is not None:
            half = nn.functional.pixel_unshuffle(images / 64, 2)
            images = images + 64 * nn.functional.pixel_shuffle(self.filter(half), 2)
        return images + 128

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The sides of an image after padding to whole blocks."""
        return -(-height // BLOCK) * BLOCK, -(-width // BLOCK) * BLOCK


def _residual(channels: int, hidden: int) -> nn.Sequential:
    last = nn.Conv2d(hidden, CHANNELS, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(hidden, hidden, 3, padding=1),
        nn.LeakyReLU(0.1),
        last,
    )


def _filter(hidden: int) -> nn.Sequential:
    """Over pixels in groups of four, which removes the edges of blocks."""
    last = nn.Conv2d(hidden, 12, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv2d(12, hidden, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(hidden, hidden, 3, padding=1),
        nn.LeakyReLU(0.1),
        last,
    )
