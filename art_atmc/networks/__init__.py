"""Networks of the papers, and networks by name."""

from __future__ import annotations

from art_atmc.networks.by_name import build, import_network, is_ours, require_fit
from art_atmc.networks.zoo import (
    NETWORKS,
    ImageNetwork,
    digits_cnn,
    lenet,
    lenet_relu,
    resnet18,
    resnet34,
    wide_resnet16_1,
    wide_resnet16_8,
)

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
