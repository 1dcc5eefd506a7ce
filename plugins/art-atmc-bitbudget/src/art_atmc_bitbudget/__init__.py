"""One budget of bits for art-atmc, shared between the support and the bit widths of the tensors."""

from __future__ import annotations

from art_atmc_bitbudget.choice import Allocation, Share
from art_atmc_bitbudget.constraint import BitBudget

__all__ = ["Allocation", "BitBudget", "Share"]
__version__ = "0.1.0"
