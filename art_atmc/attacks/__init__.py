"""The inner maximisation: attacks on tensors, ours and ART's."""

from __future__ import annotations

from art_atmc.attacks.apgd import APGD, DLR, CrossEntropy, PerSampleLoss
from art_atmc.attacks.art import ARTAttack, adversary, perturb
from art_atmc.attacks.base import Adversary, ClipValues, Loss, Motion, Problem, Rows
from art_atmc.attacks.built import Built
from art_atmc.attacks.curriculum import Growing, Linear
from art_atmc.attacks.pgd import PGD
from art_atmc.attacks.recycled import Perturbations, Recycled
from art_atmc.attacks.square import Square
from art_atmc.attacks.straight_through import StraightThrough
from art_atmc.attacks.wrm import WRM

__all__ = [
    "APGD",
    "DLR",
    "PGD",
    "WRM",
    "ARTAttack",
    "Adversary",
    "Built",
    "ClipValues",
    "CrossEntropy",
    "Growing",
    "Linear",
    "Loss",
    "Motion",
    "PerSampleLoss",
    "Perturbations",
    "Problem",
    "Recycled",
    "Rows",
    "Square",
    "StraightThrough",
    "adversary",
    "perturb",
]
