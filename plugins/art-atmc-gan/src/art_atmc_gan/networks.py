"""A generator that translates images and a discriminator of patches, small enough for a processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

__all__ = ["PatchDiscriminator", "ResidualGenerator"]


@final
class ResidualGenerator(nn.Module):
    r"""Down by two, residual blocks, up by two: images in, images in [-1, 1] of the same shape out.

    The generator of Johnson et al. 2016 (https://arxiv.org/abs/1603.08155) and CycleGAN, with one step down. Channels
    within the blocks, before the first and after the last step have normalisation with scales, so that they can go;
    the stream that the blocks add to has normalisation without.

    :param widths: channels after the first convolution, within each block, and before the last convolution.
    :param stream: channels of the stream.
    :param channels: of the images; their sides are even.

    >>> import torch
    >>> ResidualGenerator(widths=(4, 8, 4), stream=8)(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 32, 32, 16), stream: int = 32, channels: int = 3) -> None:
        super().__init__()
        first, *inner, last = widths
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, first, 5, padding=2, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(first, affine=True),
            nn.ReLU(),
            nn.Conv2d(first, stream, 3, stride=2, padding=1, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(stream),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(_Block(stream, width) for width in inner))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(stream, last, 4, stride=2, padding=1, bias=False),
            nn.InstanceNorm2d(last, affine=True),
            nn.ReLU(),
            nn.Conv2d(last, channels, 5, padding=2, padding_mode="reflect"),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.blocks(self.encoder(x)))
        return y


@final
class PatchDiscriminator(nn.Module):
    """A map of scores, one for each patch of 22 x 22 pixels: high for real ones (Isola et al. 2017).

    >>> import torch
    >>> PatchDiscriminator()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 1, 7, 7])
    """

    def __init__(self, width: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.InstanceNorm2d(2 * width, affine=True),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 4, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores


@final
class _Block(nn.Module):
    def __init__(self, stream: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(stream, width, 3, padding=1, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(),
            nn.Conv2d(width, stream, 3, padding=1, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(stream),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]
