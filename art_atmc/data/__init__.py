"""Data sets as arrays."""

from __future__ import annotations

from art_atmc.data.cifar import cifar10
from art_atmc.data.dataset import Dataset
from art_atmc.data.sources import load, split_validation

__all__ = [
    "Dataset",
    "cifar10",
    "load",
    "split_validation",
]
