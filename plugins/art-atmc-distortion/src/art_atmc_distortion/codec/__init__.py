"""A learned image codec that is trained to a distortion; needs the extra ``codec``."""

from __future__ import annotations

from art_atmc_distortion.codec.measures import bd_rate, ms_ssim, psnr
from art_atmc_distortion.codec.network import Architecture, Codec, Coded
from art_atmc_distortion.codec.photographs import Photographs
from art_atmc_distortion.codec.stream import Coder
from art_atmc_distortion.codec.training import Recipe, Row, calibrate, distortion, load, mse, save, train

__all__ = [
    "Architecture",
    "Codec",
    "Coded",
    "Coder",
    "Photographs",
    "Recipe",
    "Row",
    "bd_rate",
    "calibrate",
    "distortion",
    "load",
    "ms_ssim",
    "mse",
    "psnr",
    "save",
    "train",
]
