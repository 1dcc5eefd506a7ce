"""Boosting against attacks for art-atmc: a sum of small compressed networks, grown stage by stage."""

from __future__ import annotations

from art_atmc_boosting.classifier import EarlyAnswers, EnsembleClassifier
from art_atmc_boosting.ensemble import Ensemble, SoftCapped
from art_atmc_boosting.folder import StageResult
from art_atmc_boosting.objectives import margin_cross_entropy
from art_atmc_boosting.pairs import PairWeights, rounds_needed
from art_atmc_boosting.rules import Average, Pairs, Rule, Sum
from art_atmc_boosting.sizes import MemberSize, member_sizes
from art_atmc_boosting.trainer import BoostedTrainer

__all__ = [
    "Average",
    "BoostedTrainer",
    "EarlyAnswers",
    "Ensemble",
    "EnsembleClassifier",
    "MemberSize",
    "PairWeights",
    "Pairs",
    "Rule",
    "SoftCapped",
    "StageResult",
    "Sum",
    "margin_cross_entropy",
    "member_sizes",
    "rounds_needed",
]
__version__ = "0.1.0"
