"""What weights obey, and how they are made to."""

from __future__ import annotations

from art_atmc.compression.codebook import fit_codebook, nearest_code
from art_atmc.compression.constraints import Constraint, Quantization, Sparsity, largest
from art_atmc.compression.enforcement import enforced, finalize, projected
from art_atmc.compression.equalization import equalize
from art_atmc.compression.factors import LowRankPlusSparse, decompose, recompose
from art_atmc.compression.paper_size import TensorSize, paper_bits, tensor_sizes
from art_atmc.compression.projection import project
from art_atmc.compression.schedule import Ramp, Tightening
from art_atmc.compression.solver import Solver, SolverFactory
from art_atmc.compression.solvers import (
    ADMM,
    FixedSupport,
    ProjectedGradient,
    StraightThrough,
    default_solver,
    paper_solver,
)
from art_atmc.compression.weights import Factorization, Weights, compressible

__all__ = [
    "ADMM",
    "Constraint",
    "Factorization",
    "FixedSupport",
    "LowRankPlusSparse",
    "ProjectedGradient",
    "Quantization",
    "Ramp",
    "Solver",
    "SolverFactory",
    "Sparsity",
    "StraightThrough",
    "TensorSize",
    "Tightening",
    "Weights",
    "compressible",
    "decompose",
    "default_solver",
    "enforced",
    "equalize",
    "finalize",
    "fit_codebook",
    "largest",
    "nearest_code",
    "paper_bits",
    "paper_solver",
    "project",
    "projected",
    "recompose",
    "tensor_sizes",
]
