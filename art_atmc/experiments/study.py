"""A study: networks trained by recipes under the same conditions, tested once each, their files in one folder."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

from filelock import FileLock

from art_atmc.compression.constraints import Constraint
from art_atmc.compression.weights import Weights, compressible
from art_atmc.data import Dataset, load
from art_atmc.experiments.folder import STUDY, check_conditions, claim, lock
from art_atmc.experiments.low_rank import require_rank_one
from art_atmc.experiments.point import Point
from art_atmc.experiments.recipes import Schedule, Stage, plan
from art_atmc.experiments.rehearsal import rehearse
from art_atmc.experiments.settings import Settings
from art_atmc.experiments.train_and_test import MODEL, Start, finished, new_model, train, train_and_test
from art_atmc.networks.by_name import require_fit

__all__ = ["Study"]

SHARED: Final = (
    "data", "network", "eps", "eps_step", "test_eps_step", "max_iter", "test_max_iter", "norm", "clean_share",
    "ignore", "batch_size", "lr", "rate", "optimizer", "recycled", "average", "precision", "validation",
    "augment", "epochs", "suite", "own_attacks", "own_objective",
)  # fmt: skip
"""The settings that all networks of a study have in common; the others are those of a stage."""


@final
@dataclasses.dataclass(frozen=True)
class Study:
    """Conditions that all networks of a folder share.

    :param settings: data, network, attack, optimization and test; size, seed, method and epochs are set by each stage.
    :param output: folder of the networks, one subfolder each.
    :param schedule: how recipes are put into the settings' epochs.
    :param curves: whether to measure a security curve and to keep adversarial examples.
    :param verbose: show progress bars.
    """

    settings: Settings
    output: Path
    schedule: Schedule = Schedule.MATCHED
    curves: bool = True
    verbose: bool = True

    @cached_property
    def dataset(self) -> Dataset:
        dataset = load(self.settings.data, self.settings.data_dir)
        require_fit(self.settings.network, dataset.x_train.shape[1:], dataset.nb_classes, dataset.name)
        return dataset

    def stage(
        self, recipe: str, density: float, bits: int, seed: int, constraints: tuple[Constraint, ...] = ()
    ) -> Stage:
        """The last stage of a recipe at a size, see :func:`~art_atmc.experiments.recipes.plan`."""
        return plan(recipe, density, bits, seed, self.settings.epochs, self.schedule, constraints)

    def grid(
        self,
        recipes: Sequence[str],
        densities: Sequence[float],
        bits: Sequence[int],
        seeds: Sequence[int],
        constraints: tuple[Constraint, ...] = (),
    ) -> list[Stage]:
        """Every recipe at every size that it has, each network once; seed by seed.

        :param constraints: what the compressing recipes obey in place of all densities and bits.
        """
        stages = (
            self.stage(recipe, density, width, seed, constraints)
            for seed, recipe, density, width in itertools.product(seeds, recipes, densities, bits)
        )
        return list({stage.name: stage for stage in stages}.values())

    def impossible(self, stage: Stage) -> str | None:
        """Why no network has the size of ``stage``, such as more layers than its budget has entries."""
        try:
            for constraint in stage.constraints:
                constraint.check(self._weights)
            if stage.recipe.low_rank:
                require_rank_one(self._weights, stage.density)
        except ValueError as error:
            return str(error)
        return None

    @cached_property
    def _weights(self) -> Weights:
        return compressible(new_model(self.settings, self.dataset), self.settings.ignore).detach()

    def prepare(self, stages: Iterable[Stage]) -> None:
        """Try each recipe that is not trained yet in a dry run, and say in ``study.json`` under which conditions the
        folder is filled.

        :raises ValueError: when it holds networks that were trained under others, and when a dry run fails.
        """
        plain = self.settings.plain()
        conditions: dict[str, Any] = {name: plain.get(name) for name in SHARED} | {"schedule": self.schedule.value}
        check_conditions(self.output / STUDY, conditions)
        untried = {stage.recipe.name: stage for stage in stages if not self.finished(stage)}
        for stage in untried.values():
            rehearse(self.settings_of(stage), self.dataset, self.output)
        claim(self.output / STUDY, conditions, {"data_dir": plain["data_dir"]})

    def folder(self, stage: Stage) -> Path:
        return self.output / stage.name

    def lock(self, stage: Stage) -> FileLock:
        """Of the stage's folder, which is made; whoever trains the stage holds it."""
        return lock(self.folder(stage))

    def finished(self, stage: Stage) -> bool:
        return finished(self.folder(stage))

    def point(self, stage: Stage) -> Point:
        """Train what is not trained yet, test it, and write ``point.json``; a finished point is read.

        The caller holds :meth:`lock`.
        """
        if not (self.folder(stage) / MODEL).exists():
            self._train_before(stage)
        return train_and_test(
            self.settings_of(stage),
            self.folder(stage),
            self.dataset,
            start=self._start(stage),
            schedule=self.schedule.value,
            curve=self.curves,
            verbose=self.verbose,
        )

    def settings_of(self, stage: Stage) -> Settings:
        """Those of the study with what the stage decides."""
        recipe = stage.recipe
        return dataclasses.replace(
            self.settings,
            recipe=recipe.name,
            constraints=stage.constraints,
            factored=recipe.factored,
            adversarial=recipe.adversarial,
            low_rank=recipe.low_rank,
            solver=recipe.solver,
            tightening=stage.schedule,
            seed=stage.seed,
            epochs=stage.epochs,
            lr=self.settings.lr * stage.lr,
        )

    def _start(self, stage: Stage) -> Start | None:
        if stage.before is None:
            return None
        return Start(self.folder(stage.before), tuple((s.recipe.name, s.epochs) for s in stage.before.chain))

    def _train_before(self, stage: Stage) -> None:
        """The networks that a stage starts from, first one first; another process may be at them."""
        for before in stage.chain[:-1]:
            with self.lock(before):
                train(
                    self.settings_of(before),
                    self.folder(before),
                    self.dataset,
                    start=self._start(before),
                    verbose=self.verbose,
                )
