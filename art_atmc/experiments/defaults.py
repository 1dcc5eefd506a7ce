"""What the user chose of an experiment's settings, and what suits the data for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from art_atmc.compression.constraints import Constraint, Quantization, Sparsity
from art_atmc.data.sources import require_known
from art_atmc.experiments.training import training as named_training
from art_atmc.networks.by_name import import_network, is_ours
from art_atmc.plugins import parse

__all__ = ["NOTHING", "resolved"]

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
# What suits a data set where the user says nothing: network, radius (of the paper, for MNIST), and how to train. Kept
# perturbations need some hundred steps an epoch to be worth it (decision 0022).
SUITED: Final[Mapping[str, tuple[str, float, str]]] = MappingProxyType(
    {
        "digits": ("digits-cnn", 0.1, "paper"),
        "mnist": ("lenet", 76 / 255, "fast"),
        "cifar10": ("resnet18", 8 / 255, "paper"),
    }
)
COMMON: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "data_dir": None, "max_iter": 7, "norm": "inf", "clean_share": 0.0, "ignore": (), "factored": True,
        "epochs": 30, "batch_size": 64, "lr": 0.05, "validation": 0.1, "seed": 0, "suite": "pgd",
    }
)  # fmt: skip


def resolved(
    data: str,
    preset: Mapping[str, Any],
    training: str | None,
    *,
    density: float | None,
    bits: int | None,
    constraint: Sequence[str | Constraint],
    attack: Sequence[str],
    objective: str | None,
    chosen: Mapping[str, Any],
) -> dict[str, Any]:
    """The values of :meth:`art_atmc.experiments.settings.Settings.resolved`, by field name."""
    require_known(data)
    network, eps, usual = SUITED.get(data, (None, 8 / 255, "paper"))
    way = named_training(training or usual)
    suited = {"network": network, "eps": eps, "augment": data == "cifar10"}
    given = {name: value for name, value in chosen.items() if value is not None}
    if training is not None and (
        against := [
            f"{name}={given[name]!r}"
            for name, value in (("optimizer", way.optimizer), ("recycled", way.recycled))
            if given.get(name, value) != value
        ]
    ):
        raise ValueError(
            f"training={training!r} contradicts {', '.join(against)}: leave one out. Numbers, such as the steps of "
            "the attack or the rate, may be given beside it"
        )
    if attack and "max_iter" in given:
        raise ValueError(
            f"`max_iter`={given['max_iter']} is of the PGD that `attack` replaces: give its steps within `attack`, "
            "as pgd:eps=0.1,eps_step=0.02,max_iter=10, and those of the test as `test_max_iter`"
        )
    own = {"optimizer": way.optimizer, "recycled": way.recycled}
    values: dict[str, Any] = {**COMMON, **suited, **preset, **own, **way.preset, **given}
    own_step = values.get("eps_step")
    if values["network"] is None:
        raise ValueError(f"`network` must be given for {data}; there is none that suits all data")
    if not is_ours(values["network"]):
        import_network(values["network"])  # now, before any data is read
    # A step from a kept perturbation is no attack by itself.
    values.setdefault("test_max_iter", COMMON["max_iter"] if values["recycled"] else values["max_iter"])
    # The test's step reaches the far side of the ball from wherever it starts.
    for step, reach, steps in (("eps_step", way.reach, "max_iter"), ("test_eps_step", 2.5, "test_max_iter")):
        length = reach * values["eps"] / max(values[steps], 1) if own_step is None else own_step
        values.setdefault(step, length)
    values["constraints"] = _constraints(density, bits, constraint)
    values.setdefault("recipe", _method(values["constraints"], values["factored"]))
    values |= {"own_attacks": tuple(attack), "own_objective": objective, "ignore": tuple(values["ignore"])}
    return values


def _constraints(
    density: float | None, bits: int | None, constraint: Sequence[str | Constraint]
) -> tuple[Constraint, ...]:
    if not constraint:
        width = 4 if bits is None else bits
        return Sparsity(0.05 if density is None else density), *(() if width == 32 else (Quantization(width),))
    if not density is bits is None:
        raise ValueError(
            "give either `constraint`, or `density` and `bits`, which stand for the constraints sparsity:density=... "
            "and quantization:bits=..."
        )
    return tuple(parse(given) if isinstance(given, str) else given for given in constraint)


def _method(constraints: Sequence[Constraint], factored: bool) -> str:
    """What tables call a compressed network, by the recipes' names where one of them is meant."""
    kinds = {type(constraint) for constraint in constraints}
    coded = "b" if Quantization in kinds else "32"
    if factored:
        return f"ATMC-{coded}" if kinds <= {Sparsity, Quantization} else "ATMC"
    return "AL0-b" if Quantization in kinds else "AL0"
