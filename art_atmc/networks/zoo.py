r"""The networks of the ATMC experiments, and a small one for scikit-learn's digits.

A network maps images in :math:`[0, 1]`, shaped (N, C, H, W), to logits of shape (N, ``nb_classes``). Its *dense size*
is 32 bits for each convolution and linear weight; biases and batch normalisation are not counted, as in the paper
(Gui et al., NeurIPS 2019, Table 1). Weights are drawn by torch's layers, so ``torch.manual_seed`` fixes them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import final

from torch import Tensor, nn
from torch.nn.functional import relu

from art_atmc.support.numbers import Whole

__all__ = [
    "NETWORKS",
    "ImageNetwork",
    "digits_cnn",
    "lenet",
    "lenet_relu",
    "resnet18",
    "resnet34",
    "wide_resnet16_1",
    "wide_resnet16_8",
]


@final
class ImageNetwork(nn.Module):
    r"""A chain of named layers, :math:`x \mapsto (f_n \circ \dots \circ f_1)(x)`.

    The chain is inside the module rather than the module itself, because ART returns every layer's output of a model
    that is an ``nn.Sequential``.

    :param input_shape: (C, H, W) of the images that the network is made for.
    :param layers: the layers by name, in order.

    >>> lenet().input_shape, list(lenet().layers._modules)[:3]
    ((1, 28, 28), ['conv1', 'pool1', 'conv2'])
    """

    def __init__(self, input_shape: tuple[int, int, int], layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.layers = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def lenet(nb_classes: int = 10) -> ImageNetwork:
    r"""Caffe's LeNet, for 28x28 grey images (MNIST).

    .. math:: \text{conv}_{20}^{5\times5} \to \text{max} \to \text{conv}_{50}^{5\times5} \to \text{max}
              \to \text{fc}_{500} \to \text{ReLU} \to \text{fc}

    No ReLU follows a convolution. Source: LeCun et al. 1998, as changed in Caffe's MNIST example. Dense size with 10
    classes: 13,776,000 bits.

    :param nb_classes: number of logits, at least 2.
    :raises ValueError: when ``nb_classes`` is below 2.

    >>> from art_atmc.compression.weights import compressible
    >>> 32 * compressible(lenet()).dense_size
    13776000
    """
    return _lenet(nb_classes, {}, {})


def lenet_relu(nb_classes: int = 10) -> ImageNetwork:
    r"""LeNet with a ReLU after each convolution, for 28x28 grey images (MNIST).

    .. math:: \text{conv}_{20}^{5\times5} \to \text{ReLU} \to \text{max} \to \text{conv}_{50}^{5\times5} \to \text{ReLU}
              \to \text{max} \to \text{fc}_{500} \to \text{ReLU} \to \text{fc}

    The weights are those of :func:`lenet`, and as many. The ReLU lets the first layer put a threshold on a pixel, which
    undoes most of what an attack within the maximum norm can do on MNIST; Caffe's network has none to put there.
    Source: the networks of robust MNIST since Madry et al. 2018. Dense size with 10 classes: 13,776,000 bits.

    :param nb_classes: number of logits, at least 2.
    :raises ValueError: when ``nb_classes`` is below 2.

    >>> from art_atmc.compression.weights import compressible
    >>> 32 * compressible(lenet_relu()).dense_size
    13776000
    """
    return _lenet(nb_classes, {"relu1": nn.ReLU()}, {"relu2": nn.ReLU()})


def digits_cnn(nb_classes: int = 10) -> ImageNetwork:
    r"""A small network for 8x8 grey images (scikit-learn's digits).

    .. math:: \text{conv}_{32}^{3\times3} \to \text{ReLU} \to \text{conv}_{64}^{3\times3} \to \text{ReLU} \to
              \text{max} \to \text{fc}_{128} \to \text{ReLU} \to \text{fc}

    Nothing is padded. Source: this project. Dense size with 10 classes: 1,688,576 bits.

    :param nb_classes: number of logits, at least 2.
    :raises ValueError: when ``nb_classes`` is below 2.

    >>> from art_atmc.compression.weights import compressible
    >>> 32 * compressible(digits_cnn()).dense_size
    1688576
    """
    return ImageNetwork(
        (1, 8, 8),
        {
            "conv1": nn.Conv2d(1, 32, 3),
            "relu1": nn.ReLU(),
            "conv2": nn.Conv2d(32, 64, 3),
            "relu2": nn.ReLU(),
            "pool": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(64 * 2 * 2, 128),
            "relu3": nn.ReLU(),
            "fc2": _head(128, nb_classes),
        },
    )


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


NETWORKS: Mapping[str, Callable[[int], ImageNetwork]] = MappingProxyType(
    {
        "digits-cnn": digits_cnn,
        "lenet": lenet,
        "lenet-relu": lenet_relu,
        "resnet18": resnet18,
        "resnet34": resnet34,
        "wrn-16-1": wide_resnet16_1,
        "wrn-16-8": wide_resnet16_8,
    }
)
"""The networks by their names on the command line; each is made for a number of classes."""


def _lenet(nb_classes: int, after1: Mapping[str, nn.Module], after2: Mapping[str, nn.Module]) -> ImageNetwork:
    return ImageNetwork(
        (1, 28, 28),
        {
            "conv1": nn.Conv2d(1, 20, 5),
            **after1,
            "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(20, 50, 5),
            **after2,
            "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(50 * 4 * 4, 500),
            "relu": nn.ReLU(),
            "fc2": _head(500, nb_classes),
        },
    )


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
            "fc": _head(512, nb_classes),
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
            "fc": _head(channels[-1], nb_classes),
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


def _head(features: int, nb_classes: int) -> nn.Linear:
    return nn.Linear(features, Whole(2, None, "give the number of classes of the data").plain("nb_classes", nb_classes))
