"""Train networks that are small and robust: ATMC for the Adversarial Robustness Toolbox."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are loaded when they are first used: torch takes two seconds to import and ART three, which
# `art-atmc --help` and a listing of plug-ins must not pay.
_HOMES = {
    "ADMM": "solvers",
    "ATMCTrainer": "trainer",
    "Adversarial": "objectives",
    "CompressedClassifier": "classifier",
    "CompressedModel": "artefact.model",
    "Constraint": "constraints",
    "FixedSupport": "solvers",
    "Natural": "objectives",
    "ObjectiveTrainer": "training",
    "PGD": "adversaries",
    "ProjectedGradient": "solvers",
    "Quantization": "constraints",
    "Ramp": "solvers",
    "Solver": "solvers",
    "Sparsity": "constraints",
    "TRADES": "objectives",
    "Tightening": "trainer",
    "Weights": "weights",
    "compressible": "weights",
    "decompose": "decomposition",
    "enforced": "enforcement",
    "recompose": "decomposition",
}

__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from art_atmc.adversaries import PGD as PGD
    from art_atmc.artefact.model import CompressedModel as CompressedModel
    from art_atmc.classifier import CompressedClassifier as CompressedClassifier
    from art_atmc.constraints import Constraint as Constraint
    from art_atmc.constraints import Quantization as Quantization
    from art_atmc.constraints import Sparsity as Sparsity
    from art_atmc.decomposition import decompose as decompose
    from art_atmc.decomposition import recompose as recompose
    from art_atmc.enforcement import enforced as enforced
    from art_atmc.objectives import TRADES as TRADES
    from art_atmc.objectives import Adversarial as Adversarial
    from art_atmc.objectives import Natural as Natural
    from art_atmc.solvers import ADMM as ADMM
    from art_atmc.solvers import FixedSupport as FixedSupport
    from art_atmc.solvers import ProjectedGradient as ProjectedGradient
    from art_atmc.solvers import Ramp as Ramp
    from art_atmc.solvers import Solver as Solver
    from art_atmc.trainer import ATMCTrainer as ATMCTrainer
    from art_atmc.trainer import Tightening as Tightening
    from art_atmc.training import ObjectiveTrainer as ObjectiveTrainer
    from art_atmc.weights import Weights as Weights
    from art_atmc.weights import compressible as compressible


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
