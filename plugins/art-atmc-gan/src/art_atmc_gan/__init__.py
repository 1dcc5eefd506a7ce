"""GAN slimming: image-to-image generators made narrow and quantised in one minimax problem."""

from __future__ import annotations

from art_atmc_gan.activations import (
    ActivationQuantizer,
    activation_ranges,
    calibrate_,
    clipped,
    quantize_activations_,
)
from art_atmc_gan.distances import frechet_distance, kernel_distance
from art_atmc_gan.distillation import Distance, Features, Pixels
from art_atmc_gan.networks import PatchDiscriminator, ResidualGenerator
from art_atmc_gan.play import Rates
from art_atmc_gan.proximal import Proximal, soft_threshold
from art_atmc_gan.quality import psnr, ssim
from art_atmc_gan.removal import remove_channels, restore_narrow
from art_atmc_gan.scales import ScaleSparsity, channel_scales, coupled_scales
from art_atmc_gan.slimming import GANSlimming

__all__ = [
    "ActivationQuantizer",
    "Distance",
    "Features",
    "GANSlimming",
    "PatchDiscriminator",
    "Pixels",
    "Proximal",
    "Rates",
    "ResidualGenerator",
    "ScaleSparsity",
    "activation_ranges",
    "calibrate_",
    "channel_scales",
    "clipped",
    "coupled_scales",
    "frechet_distance",
    "kernel_distance",
    "psnr",
    "quantize_activations_",
    "remove_channels",
    "restore_narrow",
    "soft_threshold",
    "ssim",
]
__version__ = "0.1.0"
