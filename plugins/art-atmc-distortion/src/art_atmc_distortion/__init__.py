"""Say the target: the smallest network that is good enough, the best that fits, a codec of a given distortion.

The codec is in :mod:`art_atmc_distortion.codec`, which needs the extra ``codec``.
"""

from __future__ import annotations

from art_atmc_distortion.constrained import Bound, CleanLoss, Constrained, Measure, RobustLoss
from art_atmc_distortion.lagrangian import Lagrangian
from art_atmc_distortion.multipliers import Multiplier, Rule
from art_atmc_distortion.rate import FileSize, encoded_bytes
from art_atmc_distortion.rules import Additive, AugmentedLagrangian, Fixed, Hinge, Multiplicative, NuPI
from art_atmc_distortion.targets import Fits, InfeasibleError, Smallest
from art_atmc_distortion.trainer import TargetTrainer

__version__ = "0.1.0"
__all__ = [
    "Additive",
    "AugmentedLagrangian",
    "Bound",
    "CleanLoss",
    "Constrained",
    "FileSize",
    "Fits",
    "Fixed",
    "Hinge",
    "InfeasibleError",
    "Lagrangian",
    "Measure",
    "Multiplicative",
    "Multiplier",
    "NuPI",
    "RobustLoss",
    "Rule",
    "Smallest",
    "TargetTrainer",
    "encoded_bytes",
]
