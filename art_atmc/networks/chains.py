"""Small chains: LeNet for MNIST, with and without ReLU, and a network for scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from art_atmc.networks.image_network import ImageNetwork, head

__all__ = ["digits_cnn", "lenet", "lenet_relu"]


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
            "fc2": head(128, nb_classes),
        },
    )


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
            "fc2": head(500, nb_classes),
        },
    )
