"""Uniform b-bit grids for art-atmc: weights that are integers times a scale."""

from __future__ import annotations

from art_atmc_uniform.constraint import UniformQuantization
from art_atmc_uniform.integers import Integers, integers

__all__ = ["Integers", "UniformQuantization", "integers"]
__version__ = "0.1.0"
