"""Structured sparsity for art-atmc: groups of weights that go as a whole, and networks that get smaller by it."""

from __future__ import annotations

from art_atmc_structured.constraints import (
    BlockSparsity,
    ChannelSparsity,
    ColumnSparsity,
    FilterSparsity,
    GroupSparsity,
    KernelSparsity,
)
from art_atmc_structured.coupling import CoupledChannels, coupled_channels
from art_atmc_structured.groups import Blocks, Channels, Columns, Entries, Filters, Grouping, Kernels, grouped_names
from art_atmc_structured.n_m import NMSparsity
from art_atmc_structured.removal import Removal, coupled_filters, remove_filters

__version__ = "0.1.0"
__all__ = [
    "BlockSparsity",
    "Blocks",
    "ChannelSparsity",
    "Channels",
    "ColumnSparsity",
    "Columns",
    "CoupledChannels",
    "Entries",
    "FilterSparsity",
    "Filters",
    "GroupSparsity",
    "Grouping",
    "KernelSparsity",
    "Kernels",
    "NMSparsity",
    "Removal",
    "coupled_channels",
    "coupled_filters",
    "grouped_names",
    "remove_filters",
]
