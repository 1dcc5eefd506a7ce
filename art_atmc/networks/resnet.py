"""Residual networks for 32x32 colour images: ResNet (CIFAR-10) and WideResNet (SVHN, and one that two cores train)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu

from art_atmc.networks.image_network import ImageNetwork, head

__all__ = ["resnet18", "resnet34", "wide_resnet16_1", "wide_resnet16_8"]


def resnet18(nb_classes: int = 10) -> ImageNetwork:
    r"""ResNet-18 for 32x32 colour images: :func:`resnet34` with (2, 2, 2, 2) blocks.

    Source: He et al. 2016, Table 1, with the stem for small images. Dense size with 10 classes: 357,259,264 bits.

    :param nb_classes: number of logits, at least 2.
    :raises ValueError: when ``nb_classes`` is below 2.

    >>> from art_atmc.compression.weights import compressible
    >>> 32 * compressible(resnet18()).dense_size
    357259264
    """
    return _resnet((2, 2, 2, 2), nb_classes)


def resnet34(nb_classes: int = 10) -> ImageNetwork:
    r"""ResNet-34 for 32x32 colour images (CIFAR-10, CIFAR-100).

    Four stages of (3, 4, 6, 3) basic blocks with 64, 128, 256 and 512 channels, each

    .. math:: x \mapsto \text{ReLU}(s(x) + \text{bn}(\text{conv}(\text{ReLU}(\text{bn}(\text{conv}(x))))))

    with 3x3 kernels, where :math:`s` is a 1x1 convolution with batch normalisation where the shape changes, else the
    identity. The stem is one 3x3 convolution without pooling. Source: He et al. 2016, Table 1, with the stem for small
    images. Dense size: 680,482,816 bits with 10 classes, 681,957,376 with 100.

    :param nb_classes: number of logits, at least 2.
    :raises ValueError: when ``nb_classes`` is below 2.

    >>> from art_atmc.compression.weights import compressible
    >>> 32 * compressible(resnet34()).dense_size
    680482816
    """
    return _resnet((3, 4, 6, 3), nb_classes)


def wide_resnet16_8(nb_classes: int = 10, dropout: float = 0.4) -> ImageNetwork:
    r"""WideResNet-16-8 for 32x32 colour images (SVHN).

    Three stages of two pre-activation blocks with 128, 256 and 512 channels, each, with
    :math:`a = \text{ReLU}(\text{bn}(x))`,

    .. math:: x \mapsto s + \text{conv}(\text{dropout}(\text{ReLU}(\text{bn}(\text{conv}(a)))))

    where :math:`s` is a 1x1 convolution of :math:`a` where the number of channels changes (the first block of each
    stage), else :math:`x`. Source: Zagoruyko & Komodakis 2016. Dense size with 10 classes: 350,533,120 bits.

    :param nb_classes: number of logits, at least 2.
    :param dropout: probability of a zero between the two convolutions of a block, in [0, 1).
    :raises ValueError: when ``nb_classes`` is below 2 or ``dropout`` is out of range.

    >>> from art_atmc.compression.weights import compressible
    >>> 32 * compressible(wide_resnet16_8()).dense_size
    350533120
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be in [0, 1), got {dropout!r}; give 0 to train without it")
    return _wide_resnet16(8, nb_classes, dropout)


def wide_resnet16_1(nb_classes: int = 10) -> ImageNetwork:
    r"""WideResNet-16-1 for 32x32 colour images: :func:`wide_resnet16_8` with 16, 32 and 64 channels, and no dropout.

    An eightieth of ResNet-18's weights; an epoch of CIFAR-10 takes minutes of one core. Source: Zagoruyko & Komodakis
    2016. Dense size with 10 classes: 5,572,096 bits.

    :param nb_classes: number of logits, at least 2.
    :raises ValueError: when ``nb_classes`` is below 2.

    >>> from art_atmc.compression.weights import compressible
    >>> 32 * compressible(wide_resnet16_1()).dense_size
    5572096
    """
    return _wide_resnet16(1, nb_classes, dropout=0.0)


def _resnet(depths: Sequence[int], nb_classes: int) -> ImageNetwork:
    return ImageNetwork(
        (3, 32, 32),
        {
            "conv": _conv3x3(3, 64),
            "bn": nn.BatchNorm2d(64),
            "relu": nn.ReLU(),
            **_stages(_BasicBlock, 64, (64, 128, 256, 512), depths),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "fc": head(512, nb_classes),
        },
    )


def _wide_resnet16(width: int, nb_classes: int, dropout: float) -> ImageNetwork:
    channels = 16 * width, 32 * width, 64 * width
    return ImageNetwork(
        (3, 32, 32),
        {
            "conv": _conv3x3(3, 16),
            **_stages(partial(_PreActivationBlock, dropout=dropout), 16, channels, (2, 2, 2)),
            "bn": nn.BatchNorm2d(channels[-1]),
            "relu": nn.ReLU(),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "fc": head(channels[-1], nb_classes),
        },
    )


class _BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(self.shortcut(x) + residual)


class _PreActivationBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _conv3x3(channels, channels)
        self.shortcut: nn.Module | None = None
        if in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        residual: Tensor = self.conv2(self.dropout(relu(self.bn2(self.conv1(activated)))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


def _stages(
    block: Callable[[int, int, int], nn.Module], in_channels: int, widths: Sequence[int], depths: Sequence[int]
) -> dict[str, nn.Module]:
    """Stages of blocks; all but the first stage halve the image in their first block."""
    stages: dict[str, nn.Module] = {}
    for number, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        first = block(in_channels, width, 1 if number == 1 else 2)
        stages[f"stage{number}"] = nn.Sequential(first, *(block(width, width, 1) for _ in range(depth - 1)))
        in_channels = width
    return stages


def _conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
