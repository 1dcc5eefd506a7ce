"""A study: networks trained by recipes under the same conditions, tested once each, their files in one folder."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from filelock import FileLock
from rich.console import Console

from art_atmc.attacks import Problem, perturb
from art_atmc.attacks.pgd import PGD
from art_atmc.attacks.square import Square
from art_atmc.classifiers.inputs import arrays
from art_atmc.classifiers.network import Network
from art_atmc.compression.paper_size import paper_bits
from art_atmc.compression.weights import Weights, compressible
from art_atmc.data import Dataset, load, split_validation
from art_atmc.evaluation.evaluate import evaluate
from art_atmc.evaluation.suites import SUITES, Access, Attack, Suite, paper
from art_atmc.experiments.experiment import Experiment
from art_atmc.experiments.low_rank import low_rank_, require_rank_one
from art_atmc.experiments.point import Accuracy, Curve, Examples, Point
from art_atmc.experiments.recipes import Schedule, Stage, plan
from art_atmc.files.model import CompressedModel
from art_atmc.support.versions import versions
from art_atmc.trainer import ATMCTrainer
from art_atmc.training.batches import ArrayBatches
from art_atmc.training.loop import ObjectiveTrainer, accuracy
from art_atmc.training.objectives import Natural

__all__ = ["Study"]

QUERIES = 100  # of Square in the default test: enough to show gradients that mislead
CURVE_EXAMPLES = 500
CURVE_STEPS = 20
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of the security curve, as multiples of eps
SHOWN = 8


@final
@dataclasses.dataclass(frozen=True)
class Study:
    """Conditions that all networks of a folder share.

    :param experiment: data, network, attack and optimization; its size, seed and epochs are set by each stage.
    :param output: folder of the networks, one subfolder each.
    :param schedule: how recipes are put into the experiment's epochs.
    :param suite: what a network is tested with: ``test`` for PGD with a random start, the paper's attack and a short
        Square, or a name in :data:`art_atmc.evaluation.SUITES`.
    :param curves: whether to measure a security curve and to keep adversarial examples.
    :param verbose: show progress.
    """

    experiment: Experiment
    output: Path
    schedule: Schedule = Schedule.MATCHED
    suite: str = "test"
    curves: bool = True
    verbose: bool = True

    def __post_init__(self) -> None:
        if self.suite != "test" and self.suite not in SUITES:
            raise ValueError(f"`suite` must be test, {', '.join(SUITES)}, got {self.suite!r}")

    @cached_property
    def dataset(self) -> Dataset:
        dataset = load(self.experiment.data, self.experiment.data_dir)
        self.experiment.check_fit(dataset)
        return dataset

    def stage(self, recipe: str, density: float, bits: int, seed: int) -> Stage:
        """The last stage of a recipe at a size, see :func:`~art_atmc.experiments.recipes.plan`."""
        return plan(recipe, density, bits, seed, self.experiment.epochs, self.schedule)

    def grid(
        self, recipes: Sequence[str], densities: Sequence[float], bits: Sequence[int], seeds: Sequence[int]
    ) -> list[Stage]:
        """Every recipe at every size that it has, each network once; seed by seed."""
        stages = (
            self.stage(recipe, density, width, seed)
            for seed, recipe, density, width in itertools.product(seeds, recipes, densities, bits)
        )
        return list({stage.name: stage for stage in stages}.values())

    def impossible(self, stage: Stage) -> str | None:
        """Why no network has the size of ``stage``, such as more layers than its budget has entries."""
        try:
            for constraint in stage.recipe.constraints(stage.density, stage.bits):
                constraint.check(self._weights)
            if stage.recipe.low_rank:
                require_rank_one(self._weights, stage.density)
        except ValueError as error:
            return str(error)
        return None

    @cached_property
    def _weights(self) -> Weights:
        return compressible(self.experiment.model(self.dataset)).detach()

    def prepare(self) -> None:
        """Make the folder and say in ``study.json`` under which conditions it is filled.

        :raises ValueError: when it holds networks that were trained under others.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        conditions = self._conditions()
        with FileLock(self.output / ".lock"):
            path = self.output / "study.json"
            if path.exists():
                before = json.loads(path.read_text())
                if other := [f"{k}={before.get(k)!r}, not {v!r}" for k, v in conditions.items() if before.get(k) != v]:
                    raise ValueError(f"{self.output} holds networks with {'; '.join(other)}; choose another --output")
            path.write_text(json.dumps(conditions, indent=2) + "\n")

    def lock(self, stage: Stage) -> FileLock:
        """Held by the process that trains ``stage``; given up when that process ends, however it ends."""
        folder = self.output / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".lock")

    def finished(self, stage: Stage) -> bool:
        return (self.output / stage.name / "point.json").exists()

    def point(self, stage: Stage) -> Point:
        """Train what is not trained yet, test it, and write ``point.json``; a finished point is read.

        The caller holds :meth:`lock`.
        """
        folder = self.output / stage.name
        if self.finished(stage):
            return Point.load(folder)
        self._train(stage)
        point = self._tested(stage, folder)
        point.save(folder)
        return point

    def _train(self, stage: Stage) -> None:
        folder = self.output / stage.name
        if (folder / "model.atmc").exists():
            return
        if stage.before is not None:
            with self.lock(stage.before):
                self._train(stage.before)
        if self.verbose:
            Console(stderr=True).print(f"[bold]{stage.recipe.title}[/bold], {stage.epochs} epochs: {stage.name}")
        experiment = self._experiment(stage)
        model = experiment.model(self.dataset)
        if stage.before is not None:
            CompressedModel.load(self.output / stage.before.name / "model.atmc").restore(model)
        if stage.recipe.low_rank:
            low_rank_(model, stage.density)
        trainer = self._trainer(stage, experiment, experiment.classifier(self.dataset, model))
        seconds = experiment.fit(trainer, self._split(experiment))
        rows = [{"stage": stage.recipe.name, **row} for row in trainer.history]
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "seconds.json").write_text(json.dumps(seconds))
        constraints = stage.recipe.constraints(stage.density, stage.bits)
        CompressedModel.of(trainer.get_classifier(), constraints, network=experiment.network_name).save(
            folder / "model.atmc"
        )

    def _trainer(
        self, stage: Stage, experiment: Experiment, classifier: PyTorchClassifier
    ) -> ObjectiveTrainer | ATMCTrainer:
        recipe = stage.recipe
        objective = experiment.objective() if recipe.adversarial else Natural()
        if not recipe.sparse:
            return ObjectiveTrainer(classifier, objective, seed=stage.seed, verbose=self.verbose)
        return ATMCTrainer(
            classifier,
            objective,
            recipe.constraints(stage.density, stage.bits),
            schedule=stage.schedule,
            factored=recipe.factored,
            solver=recipe.solver,
            seed=stage.seed,
            verbose=self.verbose,
        )

    def _tested(self, stage: Stage, folder: Path) -> Point:
        experiment, dataset = self._experiment(stage), self.dataset
        model = CompressedModel.load(folder / "model.atmc")
        classifier = model.classifier(None if model.manifest.network else experiment.model(dataset))
        evaluation = evaluate(
            classifier,
            dataset.x_test,
            dataset.y_test,
            suite=self._suite(),
            seed=stage.seed,
            checkpoint=folder / "evaluation.json",
            verbose=self.verbose,
        )
        split = self._split(experiment)
        weights = compressible(classifier.model)
        bits = paper_bits(weights) if stage.recipe.coded else 32 * weights.nnz()
        return Point(
            recipe=stage.recipe.name,
            density=stage.density,
            bits=stage.bits,
            seed=stage.seed,
            schedule=self.schedule.value,
            stages=tuple((s.recipe.name, s.epochs) for s in stage.chain),
            epochs=sum(s.epochs for s in stage.chain),
            data=dataset.name,
            train_examples=len(split[0]),
            validation_examples=len(split[2]),
            network=str(experiment.network),
            eps=float(experiment.eps or 0),
            norm=experiment.norm,
            attack=repr(experiment.objective()),
            validation=self._accuracies(classifier, split[2], split[3], experiment.attack()),
            clean=_accuracy(evaluation.clean),
            robust=_accuracy(evaluation.worst_case),
            attacks={attack.name: _accuracy(attack.correct) for attack in evaluation.attacks},
            nnz=weights.nnz(),
            dense_size=weights.dense_size,
            paper_ratio=bits / (32 * weights.dense_size),
            file_bytes=(folder / "model.atmc").stat().st_size,
            dense_bytes=4 * sum(tensor.numel() for tensor in model.state_dict().values()),
            seconds=json.loads((folder / "seconds.json").read_text()),
            curve=self._curve(classifier, folder) if self.curves else None,
            versions=versions(),
        )

    def _suite(self) -> Suite:
        experiment = self.experiment
        eps, norm, steps = float(experiment.eps or 0), float(experiment.norm), int(experiment.test_max_iter or 7)
        if self.suite != "test":
            return SUITES[self.suite](eps, norm, steps)
        attack = experiment.test_attack()
        square = Attack(f"Square-{QUERIES}", Square(eps, norm, QUERIES), Access.OUTPUTS)
        return Suite("test", eps, norm, (Attack(f"PGD-{steps}", attack), paper(eps, norm, steps), square))

    def _curve(self, classifier: PyTorchClassifier, folder: Path) -> Curve:
        """Accuracies of some test examples at rising radii, and a few of them to look at."""
        x, y = self.dataset.x_test[:CURVE_EXAMPLES], self.dataset.y_test[:CURVE_EXAMPLES]
        eps, norm = float(self.experiment.eps or 0), float(self.experiment.norm)
        problem, batches = _problem(classifier, x, y)
        attacks = [PGD(m * eps, 2.5 * m * eps / CURVE_STEPS, CURVE_STEPS, norm) if m else None for m in RADII]
        correct = tuple(round(accuracy(problem, batches, attack) * len(x)) for attack in attacks)
        attack = attacks[RADII.index(1.0)]
        assert attack is not None
        batch = next(batches.epoch(None))
        shown, labels = (part[:SHOWN].to(classifier.device) for part in (batch.x, batch.y))
        perturbed = perturb(problem, attack, shown, labels)
        predicted = [problem.answers(t).argmax(dim=1).cpu().numpy() for t in (shown, perturbed)]
        Examples(shown.cpu().numpy(), perturbed.cpu().numpy(), y[:SHOWN], *predicted).save(folder)
        return Curve(f"PGD-{CURVE_STEPS}", tuple(m * eps for m in RADII), correct, len(x))

    def _accuracies(
        self, classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray, attack: PGD
    ) -> tuple[float, float]:
        problem, batches = _problem(classifier, x, y)
        return accuracy(problem, batches), accuracy(problem, batches, attack)

    def _experiment(self, stage: Stage) -> Experiment:
        return dataclasses.replace(
            self.experiment, seed=stage.seed, epochs=stage.epochs, lr=self.experiment.lr * stage.lr
        )

    def _split(self, experiment: Experiment) -> tuple[np.ndarray, ...]:
        return split_validation(self.dataset.x_train, self.dataset.y_train, experiment.validation, experiment.seed)

    def _conditions(self) -> dict[str, Any]:
        e = self.experiment
        names = ("data", "network", "eps", "eps_step", "max_iter", "test_max_iter", "norm", "clean_share",
                 "batch_size", "lr", "validation", "epochs")  # fmt: skip
        own = {"schedule": self.schedule.value, "suite": self.suite}
        return {name: getattr(e, name) for name in names} | own


def _problem(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray) -> tuple[Problem, ArrayBatches]:
    batches = ArrayBatches(*arrays(classifier, x, y, "test"), 250)
    network = Network(classifier, batches.sample().to(classifier.device))
    return Problem.of(classifier, network, torch.Generator(classifier.device).manual_seed(0)), batches


def _accuracy(correct: np.ndarray) -> Accuracy:
    return Accuracy(int(correct.sum()), len(correct))
