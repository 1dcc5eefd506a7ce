"""How robust a classifier is: suites of attacks, the worst case over them, and checks of whether to believe it."""

from __future__ import annotations

from art_atmc.attacks.apgd import APGD, DLR, CrossEntropy
from art_atmc.attacks.built import Built
from art_atmc.attacks.square import Square
from art_atmc.attacks.straight_through import StraightThrough
from art_atmc.attacks.wrm import WRM
from art_atmc.evaluation.certificates import Certificate, CertificateResult, Certified, Smoothing
from art_atmc.evaluation.evaluate import evaluate
from art_atmc.evaluation.result import AttackResult, Evaluation, Finding, Severity
from art_atmc.evaluation.suites import SUITES, Access, Attack, Suite, paper, quick, standard, thorough
from art_atmc.support.statistics import Spread, wilson

__all__ = [
    "APGD",
    "DLR",
    "SUITES",
    "WRM",
    "Access",
    "Attack",
    "AttackResult",
    "Built",
    "Certificate",
    "CertificateResult",
    "Certified",
    "CrossEntropy",
    "Evaluation",
    "Finding",
    "Severity",
    "Smoothing",
    "Spread",
    "Square",
    "StraightThrough",
    "Suite",
    "evaluate",
    "paper",
    "quick",
    "standard",
    "thorough",
    "wilson",
]
