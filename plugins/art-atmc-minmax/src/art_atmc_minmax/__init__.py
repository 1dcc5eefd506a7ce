"""Min-max over domains for art-atmc: one attack for many networks, images, transformations and losses."""

from __future__ import annotations

from art_atmc_minmax.attacks import MinMaxAttack, MinMaxTransformations, MinMaxUniversal
from art_atmc_minmax.domains import Domains, Images, Losses, Margin
from art_atmc_minmax.generalized import Generalized
from art_atmc_minmax.minmax import MinMax
from art_atmc_minmax.models import Models
from art_atmc_minmax.result import Difficulty, MinMaxResult
from art_atmc_minmax.simplex import ascend, project_simplex, worst_weights
from art_atmc_minmax.transformations import NAMED, Transformations
from art_atmc_minmax.union import union
from art_atmc_minmax.worst import WorstOf

__all__ = [
    "NAMED",
    "Difficulty",
    "Domains",
    "Generalized",
    "Images",
    "Losses",
    "Margin",
    "MinMax",
    "MinMaxAttack",
    "MinMaxResult",
    "MinMaxTransformations",
    "MinMaxUniversal",
    "Models",
    "Transformations",
    "WorstOf",
    "ascend",
    "project_simplex",
    "union",
    "worst_weights",
]
__version__ = "0.1.0"
