"""The settings of one network's training and test: what the user chose, and what suits the data for the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

import torch

from art_atmc.attacks.base import Adversary
from art_atmc.attacks.pgd import PGD
from art_atmc.attacks.recycled import Recycled
from art_atmc.compression.constraints import Constraint, Quantization, Sparsity
from art_atmc.compression.schedule import Tightening
from art_atmc.compression.solver import SolverFactory
from art_atmc.compression.solvers import default_solver
from art_atmc.evaluation.suites import SUITES
from art_atmc.experiments.defaults import NOTHING, resolved
from art_atmc.experiments.training import OPTIMIZERS
from art_atmc.networks.by_name import is_ours
from art_atmc.plugins import load, parse
from art_atmc.training.objectives import Adversarial, Natural, Objective
from art_atmc.training.rates import Hold, Rate

__all__ = ["Settings"]

TESTS: Final = ("pgd", "test", *SUITES)
"""What a network can be tested with: one PGD, three short attacks of several kinds, or a suite by its name."""

PRECISIONS: Final[Mapping[str, torch.dtype | None]] = MappingProxyType({"float32": None, "bfloat16": torch.bfloat16})


@final
@dataclasses.dataclass(frozen=True)
class Settings:
    r"""All that decides what a network becomes and how it is tested; nothing is left open.

    Made by :meth:`resolved`, and varied by ``dataclasses.replace``.

    :param data: name of the data, see :func:`art_atmc.data.load`.
    :param data_dir: folder of its files; None where it needs none.
    :param network: a name in :data:`art_atmc.networks.NETWORKS`, or ``package.module:function``.
    :param eps: radius of the attack, in units of [0, 1].
    :param eps_step: its step in training; ``test_eps_step`` in the test.
    :param max_iter: its steps in training; ``test_max_iter`` in the test.
    :param norm: ``"inf"``, ``"2"`` or ``"1"``.
    :param clean_share: share of the clean loss, in [0, 1).
    :param constraints: what the weights must obey; none for a dense network.
    :param ignore: patterns of layers that stay dense, and are not counted.
    :param factored: train W = (I + U)V + C, or the weights themselves.
    :param epochs: passes over the training data.
    :param batch_size: examples a step.
    :param lr: highest learning rate.
    :param validation: share of the training data on which the best epoch is chosen, in (0, 1).
    :param augment: shift and mirror training images at random.
    :param seed: of everything random.
    :param suite: what the network is tested with, ``pgd``, ``test``, or a name in
        :data:`art_atmc.evaluation.SUITES`.
    :param recipe: what tables call the method, such as ``ATMC-b``.
    :param adversarial: whether it is trained under the attack.
    :param low_rank: whether it starts from truncated singular value decompositions.
    :param solver: builds the solver of a constraint.
    :param tightening: when the constraints act.
    :param rate: the shape of the learning rate over the run.
    :param optimizer: a name in :data:`art_atmc.experiments.training.OPTIMIZERS`.
    :param recycled: whether the attack goes on from each example's last perturbation.
    :param first_iter: steps of an example's first visit, where the attack is recycled, which begins at the example
        itself, or at random where another objective may need that; None for as many as later.
    :param fresh: share of the batches that begin again like that.
    :param average: decay of the averaged weights, which are validated beside those of the last step; None for none.
    :param precision: ``"bfloat16"`` to train in it, or ``"float32"``.
    :param own_attacks: in place of PGD within the ball of ``eps``, attacks by name, as ``"pgd:eps=0.1,eps_step=..."``.
    :param own_objective: in place of adversarial training, an objective by name that takes these attacks.
    :raises ValueError: naming every setting that is out of range.
    """

    data: str
    data_dir: Path | None
    network: str
    eps: float
    eps_step: float
    test_eps_step: float
    max_iter: int
    test_max_iter: int
    norm: str
    clean_share: float
    constraints: tuple[Constraint, ...]
    ignore: tuple[str, ...]
    factored: bool
    epochs: int
    batch_size: int
    lr: float
    validation: float
    augment: bool
    seed: int
    suite: str
    recipe: str
    adversarial: bool = True
    low_rank: bool = False
    solver: SolverFactory = default_solver
    tightening: Tightening = dataclasses.field(default_factory=Tightening)
    rate: Rate = dataclasses.field(default_factory=Hold)
    optimizer: str = "sgd"
    recycled: bool = False
    first_iter: int | None = None
    fresh: float = 0.0
    average: float | None = None
    precision: str = "float32"
    own_attacks: tuple[str, ...] = ()
    own_objective: str | None = None

    @classmethod
    def resolved(
        cls,
        data: str,
        *,
        preset: Mapping[str, Any] = NOTHING,
        training: str | None = None,
        density: float | None = None,
        bits: int | None = None,
        constraint: Sequence[str | Constraint] = (),
        attack: Sequence[str] = (),
        objective: str | None = None,
        **chosen: Any,
    ) -> Settings:
        """The settings where the user chose some of them: what is left out or None has the preset's value, else what
        suits the data, else the common default.

        :param preset: values by field name, such as those of a panel of the paper.
        :param training: how to train, a name in :data:`art_atmc.experiments.training.TRAININGS`; what it brings along
            goes before the preset. By default ``"fast"`` for mnist and ``"paper"`` for all other data.
        :param density: share of the weights that is kept; by default 0.05.
        :param bits: of each codebook, 1 to 16; 32 for none; by default 4.
        :param constraint: in place of these two, constraints or their names, as ``"sparsity:density=0.1"``.
        :param attack: attacks of the training by name; the test keeps the PGD of ``eps``.
        :param objective: an objective by name.
        :param chosen: fields of this class. ``eps_step`` is that of the test too.
        :raises ValueError: for settings out of range and unknown names, before any data is read.

        >>> Settings.resolved("digits", bits=32, max_iter=5).constraints
        (Sparsity(density=0.05),)
        """
        values = resolved(
            data,
            preset,
            training,
            density=density,
            bits=bits,
            constraint=constraint,
            attack=attack,
            objective=objective,
            chosen=chosen,
        )
        return cls(data=data, **values)

    def __post_init__(self) -> None:
        faults = [
            f"`{name}` must be {what}, got {getattr(self, name)!r}"
            for name, holds, what in (
                ("norm", self.norm in ("inf", "2", "1"), "inf, 2 or 1"),
                ("epochs", self.epochs >= 1, "at least 1"),
                ("batch_size", self.batch_size >= 1, "at least 1"),
                ("lr", self.lr > 0, "positive"),
                ("validation", 0 < self.validation < 1, "in (0, 1)"),
                ("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
                ("average", self.average is None or 0 < self.average < 1, "in (0, 1); 0.998 averages 500 steps"),
                ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
                ("suite", self.suite in TESTS, f"one of {', '.join(TESTS)}"),
                ("first_iter", self.recycled or self.first_iter is None, "left out where no perturbation is kept"),
                ("fresh", self.recycled or not self.fresh, "left out where no perturbation is kept"),
            )
            if not holds
        ]
        if faults:
            raise ValueError("; ".join(faults))
        if self.own_objective is not None and self.clean_share:
            raise ValueError("give `clean_share` to the objective, as adversarial:clean_share=0.5")
        _ = self.objective, self.test_attack  # they refuse what is out of range for an attack

    def dense(self) -> Settings:
        """The same without compression."""
        return dataclasses.replace(self, constraints=(), factored=False, recipe="DA")

    @property
    def attacks(self) -> tuple[Adversary, ...]:
        """Of the training: those by name, or PGD from a random start or from each example's last perturbation."""
        if self.own_attacks:
            return tuple(parse(text, "attack") for text in self.own_attacks)
        pgd = PGD(self.eps, self.eps_step, self.max_iter, float(self.norm))
        if not self.recycled:
            return (pgd,)
        first = None
        if self.first_iter is not None:
            step, start = 1.25 * self.eps / self.first_iter, self.own_objective is not None
            first = dataclasses.replace(pgd, eps_step=step, max_iter=self.first_iter, random_start=start)
        return (Recycled(pgd, first=first, fresh=self.fresh),)

    @property
    def attack(self) -> Adversary:
        """Under which the epoch is chosen: the objective's own, else the first."""
        own = self.objective.attack
        return own if isinstance(own, Adversary) else self.attacks[0]

    @property
    def test_attack(self) -> PGD:
        return PGD(self.eps, self.test_eps_step, self.test_max_iter, float(self.norm))

    @property
    def objective(self) -> Objective:
        if not self.adversarial:
            return Natural()
        if self.own_objective is not None:
            return _objective(self.own_objective, self.attacks)
        if len(self.attacks) > 1:
            raise ValueError(f"`attack` is given {len(self.attacks)} times; give an `objective` of several attacks too")
        return Adversarial(self.attacks[0], self.clean_share)

    @property
    def density(self) -> float:
        """Of the global budget; 1 where none holds."""
        return next((c.density for c in self.constraints if isinstance(c, Sparsity)), 1.0)

    @property
    def bits(self) -> int:
        """Of the codebooks; 32 where there are none."""
        return next((c.bits for c in self.constraints if isinstance(c, Quantization)), 32)

    @property
    def network_name(self) -> str | None:
        """What files may name: None for a network of the user's, since reading a file never imports code."""
        return self.network if is_ours(self.network) else None

    def plain(self) -> dict[str, Any]:
        """As JSON has it; constraints and schedules by their ``repr``, the solver by its name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        named = {name: values.pop(name) for name in ("own_attacks", "own_objective")}
        return (
            values
            | {name: list(value) if isinstance(value, tuple) else value for name, value in named.items() if value}
            | {
                "data_dir": None if self.data_dir is None else str(self.data_dir),
                "constraints": [repr(constraint) for constraint in self.constraints],
                "ignore": list(self.ignore),
                "solver": getattr(self.solver, "__name__", repr(self.solver)),
                "tightening": repr(self.tightening),
                "rate": repr(self.rate),
            }
        )


def _objective(text: str, attacks: tuple[Adversary, ...]) -> Objective:
    """An objective by name, with the attacks that it takes."""
    kind = load(text.partition(":")[0].strip(), "objective")
    taken = {field.name for field in dataclasses.fields(kind) if field.init} & {"attack", "attacks"}
    if "attacks" in taken:
        return parse(text, "objective", attacks=attacks)  # type: ignore[no-any-return]
    if len(attacks) > 1:
        raise ValueError(f"`objective`={text!r} takes one `attack`, got {len(attacks)}")
    return parse(text, "objective", **({"attack": attacks[0]} if taken else {}))  # type: ignore[no-any-return]
