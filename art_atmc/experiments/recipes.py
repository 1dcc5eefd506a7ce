r"""The methods that the ATMC paper compares, each one line of the same parts.

A recipe says what is trained (with or without an attack), under which constraints, by which solver, in which form of
the weights, and from what it starts. Two schedules put recipes into epochs:

* *matched*, the default: every network has had the same number of epochs in all, E. Half of them train the dense
  network that all compressed ones start from, half compress it, with our ramps.
* *reference*, that of the released code: each recipe starts from the finished network of the one before it (dense,
  sparse, factored, quantized), trained for as long itself, at full tightness from its first step and with lower
  learning rates. ATMC-b has then had 3.75 times the epochs of DA.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import hashlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, final

from art_atmc.compression.constraints import Constraint, Quantization, Sparsity
from art_atmc.compression.schedule import Ramp, Tightening
from art_atmc.compression.solver import Solver, SolverFactory
from art_atmc.compression.solvers import FixedSupport, paper_solver
from art_atmc.compression.weights import Weights

__all__ = ["RECIPES", "Recipe", "Schedule", "Stage", "plan"]


class Schedule(enum.Enum):
    """How recipes are put into epochs."""

    MATCHED = "matched"
    REFERENCE = "reference"


def pruned_once(weights: Weights, constraint: Constraint, ramp: Ramp) -> Solver:
    return FixedSupport(weights, constraint)


@final
@dataclasses.dataclass(frozen=True)
class Recipe:
    """One method.

    :param after: the recipe whose network this one starts from in the reference schedule; None for a fresh one.
    :param adversarial: whether it is trained under attack.
    :param sparse: whether a budget of non-zeros holds.
    :param coded: whether a codebook holds.
    :param factored: whether W = (I + U)V + C is trained.
    :param low_rank: whether it starts from the truncated singular value decomposition, as factors.
    :param solver: builds the solver of a constraint.
    :param reference: epochs and learning rate in the reference schedule, as multiples of DA's.
    """

    name: str
    title: str
    after: str | None = None
    _: dataclasses.KW_ONLY
    adversarial: bool = True
    sparse: bool = False
    coded: bool = False
    factored: bool = False
    low_rank: bool = False
    solver: SolverFactory = paper_solver
    reference: tuple[float, float] = (1.0, 1.0)

    def constraints(self, density: float, bits: int) -> list[Constraint]:
        return [*([Sparsity(density)] if self.sparse else []), *([Quantization(bits)] if self.coded else [])]


# fmt: off
RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType({recipe.name: recipe for recipe in (
    Recipe("ND", "naturally trained, dense", adversarial=False),
    Recipe("DA", "adversarially trained, dense"),
    Recipe("NAP", "naturally pruned", "ND", adversarial=False, sparse=True, solver=pruned_once, reference=(1.0, 0.2)),
    Recipe("AP", "adversarially pruned", "DA", sparse=True, solver=pruned_once, reference=(1.0, 0.2)),
    Recipe("AL0", "adversarial, projected on the l0 budget", "DA", sparse=True, reference=(1.0, 0.2)),
    Recipe("ALR", "adversarial, low rank", "DA", sparse=True, factored=True, low_rank=True, solver=pruned_once,
           reference=(1.0, 0.2)),
    Recipe("ATMC-32", "ATMC without a codebook", "AL0", sparse=True, factored=True, reference=(1.0, 0.1)),
    Recipe("ATMC-b", "ATMC", "ATMC-32", sparse=True, coded=True, factored=True, reference=(0.75, 0.1)),
)})
# fmt: on
"""The recipes of the paper (Gui et al. 2019, section 3), and the natural dense network that NAP starts from."""


DEFAULT: Final = Tightening()


@final
@dataclasses.dataclass(frozen=True)
class Stage:
    """One training of one network, and the one that it starts from.

    :param lr: learning rate at its start, as a multiple of the run's.
    :param schedule: how the constraints tighten within it.
    :param own: constraints of the user's in place of the recipe's.
    """

    recipe: Recipe
    density: float
    bits: int
    seed: int
    epochs: int
    lr: float = 1.0
    schedule: Tightening = DEFAULT
    before: Stage | None = None
    own: tuple[Constraint, ...] = ()

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What the weights obey at its end."""
        return self.own or tuple(self.recipe.constraints(self.density, self.bits))

    @property
    def chain(self) -> tuple[Stage, ...]:
        """All stages up to this one, the first one first."""
        return (*(self.before.chain if self.before else ()), self)

    @property
    def name(self) -> str:
        """Of the folder of its network.

        >>> plan("ATMC-b", 0.05, 4, seed=0, epochs=8).name
        'DA-e4.ATMC-b-d0.05-b4-e4-s0'
        """
        return ".".join(stage._part for stage in self.chain) + f"-s{self.seed}"

    @property
    def _part(self) -> str:
        if self.own:
            return f"{self.recipe.name}-{_file_name(self.own)}-e{self.epochs}"
        density = f"-d{self.density:g}" if self.recipe.sparse else ""
        bits = f"-b{self.bits}" if self.recipe.coded else ""
        return f"{self.recipe.name}{density}{bits}-e{self.epochs}"


def plan(
    recipe: str,
    density: float,
    bits: int,
    seed: int,
    epochs: int,
    schedule: Schedule = Schedule.MATCHED,
    constraints: tuple[Constraint, ...] = (),
) -> Stage:
    """The stages that lead to a recipe's network.

    :param recipe: a name in :data:`RECIPES`, or one with its bits, such as ``ATMC-8`` for ATMC-b with 8 bits.
    :param density: share of the weights that is kept; not used by dense recipes.
    :param bits: of the codebook; used by ATMC-b only.
    :param epochs: in all for the matched schedule, those of DA for the reference one.
    :param constraints: what a compressed network obeys in place of density and bits; not used by dense recipes.
    :raises ValueError: for an unknown recipe, sizes out of range, and too few epochs.

    >>> [(stage.recipe.name, stage.epochs) for stage in plan("ATMC-8", 0.1, 4, 0, 4, Schedule.REFERENCE).chain]
    [('DA', 4), ('AL0', 4), ('ATMC-32', 4), ('ATMC-b', 3)]
    """
    made, bits = named(recipe, bits)
    made.constraints(density, bits)  # refuses sizes out of range
    if made.low_rank and constraints:
        raise ValueError(f"`constraint` is nothing that {made.name} can obey, whose rank follows from the density")
    if made.low_rank and density == 1:
        raise ValueError("`density` must be below 1 for ALR; the decomposition of a full matrix saves nothing")
    if epochs < 2:
        raise ValueError(f"`epochs` must be at least 2, half of them for the dense network, got {epochs}")
    stage = Stage(
        made,
        density if made.sparse else 1.0,
        bits if made.coded else 32,
        seed,
        epochs,
        own=constraints if made.sparse else (),
    )
    if schedule is Schedule.REFERENCE:
        before = None
        if made.after is not None:
            before = plan(made.after, density, bits, seed, epochs, schedule, constraints)
        share, lr = made.reference
        full = Tightening((0, 0), 0)
        return dataclasses.replace(stage, epochs=max(1, round(share * epochs)), lr=lr, schedule=full, before=before)
    if made.after is None:
        return stage
    half = epochs // 2
    dense = Stage(RECIPES["DA" if made.adversarial else "ND"], 1.0, 32, seed, half)
    return dataclasses.replace(stage, epochs=epochs - half, before=dense)


def named(recipe: str, bits: int) -> tuple[Recipe, int]:
    """The recipe of a name, and the bits that the name says, else ``bits``.

    :raises ValueError: for an unknown recipe, naming the one that may be meant.

    >>> made, bits = named("ATMC-8", bits=4)
    >>> made.name, bits
    ('ATMC-b', 8)
    """
    stem, _, width = recipe.rpartition("-")
    if recipe not in RECIPES and width.isdecimal() and f"{stem}-b" in RECIPES:
        return RECIPES[f"{stem}-b"], int(width)
    if recipe not in RECIPES:
        near = difflib.get_close_matches(recipe.upper(), [name.upper() for name in RECIPES], n=1)
        meant = next((f"; did you mean {name}?" for name in RECIPES if [name.upper()] == near), "")
        raise ValueError(f"there is no recipe {recipe!r}{meant}; the recipes are {', '.join(RECIPES)}")
    return RECIPES[recipe], bits


def _file_name(constraints: Sequence[Constraint]) -> str:
    """Constraints as part of a folder's name, the same for the same ones."""
    text = "+".join(map(repr, constraints))
    plain = re.sub(r"[^\w.=,+()-]", "", text).replace("(", "-").replace(")", "")
    if len(plain) <= 80:
        return plain
    return f"{plain[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
