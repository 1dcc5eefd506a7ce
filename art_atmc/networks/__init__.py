"""Networks of the papers, and networks by name."""

from __future__ import annotations

from art_atmc.networks.by_name import NETWORKS, build, import_network, is_ours, require_fit
from art_atmc.networks.chains import digits_cnn, lenet, lenet_relu
from art_atmc.networks.image_network import ImageNetwork
from art_atmc.networks.resnet import resnet18, resnet34, wide_resnet16_1, wide_resnet16_8

__all__ = [
    "NETWORKS",
    "ImageNetwork",
    "build",
    "digits_cnn",
    "import_network",
    "is_ours",
    "lenet",
    "lenet_relu",
    "require_fit",
    "resnet18",
    "resnet34",
    "wide_resnet16_1",
    "wide_resnet16_8",
]
