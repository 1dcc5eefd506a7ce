"""Reweighted regularisation for art-atmc: a penalty that takes a network to a given sparsity, then masked training."""

from __future__ import annotations

from art_atmc_reweighted.groups import Grouped, group_lengths
from art_atmc_reweighted.solver import Reweighted, reweighted

__version__ = "0.1.0"
__all__ = ["Grouped", "Reweighted", "group_lengths", "reweighted"]
