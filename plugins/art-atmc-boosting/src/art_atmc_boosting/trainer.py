"""BoostedTrainer: a sum of networks, grown stage by stage, each stage an ATMC training."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from sklearn.exceptions import NotFittedError
from torch import nn

from art_atmc import ATMCTrainer, CompressedModel, Constraint, Tightening, compressible, recompose
from art_atmc.classifiers import frozen
from art_atmc.compression import SolverFactory, default_solver
from art_atmc.plugins import parse
from art_atmc.support.numbers import Whole
from art_atmc_boosting.attacked import afresh, classes, line_search, robust, unbound, votes
from art_atmc_boosting.classifier import EnsembleClassifier, ensemble_of
from art_atmc_boosting.ensemble import Ensemble
from art_atmc_boosting.folder import StageResult, StagesFolder, Task
from art_atmc_boosting.pairs import PairWeights
from art_atmc_boosting.rules import Average, Pairs, Rule

__all__ = ["BoostedTrainer"]

ROUNDING = 1e-9  # of an edge


@final
class BoostedTrainer(Trainer):  # type: ignore[misc]
    r"""Boosting against attacks (Abernethy, Awasthi & Kale 2021, https://arxiv.org/abs/2103.01276), each member
    compressed by ATMC.

    .. math:: F_t = \sum_{s \le t} w_s f_s, \qquad f_t \text{ trained against attacks on } F_t
              \text{ with } f_1, \dots, f_{t-1} \text{ frozen, under every constraint}

    A stage is a fit of :class:`art_atmc.ATMCTrainer`; with one stage the trainer is that, bit for bit. The constraints
    hold for each member alone, so a density holds for the sum too. An attack on stage t asks t networks, so T stages
    cost about T (T + 1) / 2 times one.

    :param make_classifier: builds an ART ``PyTorchClassifier`` with an optimizer around a new network, the same
        architecture each time; called once a stage, under a seed of that stage.
    :param attack: one of our adversaries, or a gradient attack of ART that is one (PGD, BIM, MIM, FGM). One of
        :class:`~art_atmc.Recycled` perturbations starts afresh at each stage.
    :param constraints: what the weights of every member must obey; none for dense members.
    :param stages: T, the number of members, at least 1. It may be raised after a fit, which then goes on.
    :param rule: ``Average()``, the default, ``Sum()`` or ``Pairs()``.
    :param warm_start: begin each member at the weights of the one before it, factors folded.
    :param checkpoint: folder of finished stages and of the present one's checkpoints, from which a fit goes on.
    :param seed: stage t has ``seed + t - 1`` for its weights, order of data and random starts.
    :param schedule: as for :class:`~art_atmc.ATMCTrainer`; so are ``ignore``, ``factored``, ``solver``, ``verbose``.
    :raises TypeError: for an attack of ART that is bound to another classifier, and whatever is of the wrong kind.
    :raises ValueError: for a ``make_classifier`` that returns the same network twice or members that do not fit, and
        as :class:`~art_atmc.ATMCTrainer` does, before anything is trained.

    ``history`` has the rows of :class:`~art_atmc.ObjectiveTrainer` with ``stage``; ``results`` one
    :class:`~art_atmc_boosting.StageResult` a stage; ``stopped`` says why there are fewer members than stages.
    """

    def __init__(
        self,
        make_classifier: Callable[[], PyTorchClassifier],
        attack: Any,
        constraints: Sequence[Constraint | str] = (),
        *,
        stages: int = 4,
        rule: Rule | None = None,
        warm_start: bool = True,
        schedule: Tightening | None = None,
        ignore: Sequence[str] = (),
        factored: bool = True,
        solver: SolverFactory = default_solver,
        checkpoint: str | Path | None = None,
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        self.stages = Whole(1, None, "it counts members").plain("stages", stages)
        self.rule = Average() if rule is None else rule
        if not isinstance(self.rule, Rule):
            raise TypeError(f"`rule` must be a Rule such as Average(), got {self.rule!r}")
        self.attack = unbound(attack)
        self.make_classifier = make_classifier
        self.constraints = [parse(c) if isinstance(c, str) else c for c in constraints]
        self.warm_start, self.schedule, self.ignore, self.factored = warm_start, schedule, tuple(ignore), factored
        self.solver, self.seed, self.verbose = solver, seed, verbose
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.history: list[dict[str, float]] = []
        self.results: list[StageResult] = []
        self.stopped: str | None = None
        self._members: list[nn.Module] = []
        self._votes: list[np.ndarray] = []
        first = self._made(1)
        super().__init__(first)
        self._members.append(first.model)
        with frozen(first.model):
            self._stage(self._made(2), torch.zeros(0))  # refuses what two stages would
        self._members.clear()

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        **kwargs: Any,
    ) -> None:
        """Train all stages that are left.

        :param x: inputs, shape (n, \\*input_shape), within the classifier's clip values.
        :param y: labels, indices (n,) or one-hot (n, classes).
        :param validation_data: (x, y) on which each stage chooses its epoch, and ``Sum`` the weight of its member.
        :param batch_size: examples a step.
        :param nb_epochs: passes over the data in each stage.
        :param kwargs: further arguments of :meth:`art_atmc.ObjectiveTrainer.fit`, such as ``scheduler``.
        :raises RuntimeError: when all stages are fitted, and when the first member is no better than guessing.
        """
        self._boost(Task((x, y), validation_data, nb_epochs, {"batch_size": batch_size, **kwargs}))

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int = 20,
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        **kwargs: Any,
    ) -> None:
        """Train all stages that are left on a torch ``DataLoader`` or an ART ``DataGenerator``; see :meth:`fit`.

        A loader does not say which examples its batches hold, and an edge is measured on the same examples at every
        stage. So edges are measured on the validation data, and ``Pairs``, which weighs training examples, is refused.

        :param validation_data: (x, y), arrays; needed.
        :param kwargs: further arguments of :meth:`art_atmc.ObjectiveTrainer.fit_generator`, such as
            ``steps_per_epoch``.
        :raises ValueError: without validation data, and for ``Pairs``.
        """
        if validation_data is None:
            raise ValueError(
                "`validation_data` must be given with a loader: the edge of each stage is measured on it; or give "
                "arrays to fit(), and what changes them at random as augmentation="
            )
        if isinstance(self.rule, Pairs):
            raise ValueError("Pairs() keeps a weight for every training example, and a loader names none; use fit()")
        self._boost(Task(validation_data, validation_data, nb_epochs, kwargs, generator))

    def get_classifier(self) -> PyTorchClassifier:
        """The sum of the members so far, an :class:`~art_atmc_boosting.EnsembleClassifier`."""
        if not self._members:
            return self._classifier
        return ensemble_of(self._classifier, Ensemble(self._members, self.results[-1].weights).eval())

    def predict(self, x: np.ndarray, **kwargs: Any) -> np.ndarray:
        """The outputs of :meth:`get_classifier`, shape (n, classes)."""
        return self.get_classifier().predict(x, **kwargs)  # type: ignore[no-any-return]

    def compress(
        self, *, metrics: Mapping[str, Any] | None = None, mantissa_bits: int | None = None
    ) -> CompressedModel:
        """All members and their weights as one file to be; the constraints hold for each member, exactly.

        :param metrics: as for :meth:`art_atmc.CompressedModel.of`; so is ``mantissa_bits``.
        :raises NotFittedError: before the first stage is finished.
        """
        if not self._members:
            raise NotFittedError("there is no member yet; call fit() first")
        members = {f"members.{i}": self._compressed(m, mantissa_bits) for i, m in enumerate(self._members)}
        return CompressedModel.of(self.get_classifier(), members=members, metrics=metrics, mantissa_bits=mantissa_bits)

    def _boost(self, task: Task) -> None:
        if len(self._members) >= self.stages:
            raise RuntimeError(f"all {self.stages} stages are fitted; raise `stages` for more members")
        folder = None if self.checkpoint is None else self._resumed(self.checkpoint, task)
        pairs = PairWeights(classes(task.measured[1]), self._classifier.nb_classes)
        for former in self._votes:
            pairs.update(torch.from_numpy(former))
        self.stopped = None
        while len(self._members) < self.stages:
            number, started = len(self._members) + 1, time.process_time()
            classifier, rows = self._fit_stage(number, pairs, task)
            answers = votes(classifier, self.attack, *task.measured, alone=self.rule.alone)
            edge = pairs.edge(answers)
            if edge <= pairs.guess() + ROUNDING:
                self._stop(number, edge)
                return
            pairs.update(answers)
            self.history += [{"stage": number, **row} for row in rows]
            result = self._result(classifier, edge, started, task)
            member = classifier.model.members[-1]
            if folder is not None:
                folder.keep(result, self._compressed(member), answers.numpy(), self.history)
            self._members.append(member)
            self._votes.append(answers.numpy())
            self.results.append(result)

    def _made(self, number: int) -> PyTorchClassifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + number - 1)
            return self.make_classifier()

    def _stage(self, fresh: PyTorchClassifier, pairs: torch.Tensor) -> ATMCTrainer:
        """The trainer of a stage: the sum, of which all members but the newest are frozen by then."""
        number = len(self._members) + 1
        before = list(self.results[-1].weights) if self.results else [1.0] * len(self._members)
        ensemble = Ensemble([*self._members, fresh.model], self.rule.weights(before))
        classifier = ensemble_of(fresh, ensemble.train(), fresh.optimizer)
        return ATMCTrainer(
            classifier,
            self.rule.objective(afresh(self.attack, trained=number > 1), pairs),
            self.constraints,
            schedule=self.schedule,
            ignore=[f"members.{i}" for i in range(number - 1)] + [f"members.{number - 1}.{p}" for p in self.ignore],
            factored=self.factored and bool(self.constraints),
            solver=self.solver,
            checkpoint=None if self.checkpoint is None else self.checkpoint / f"stage-{number}",
            seed=self.seed + number - 1,
            verbose=self.verbose,
        )

    def _fit_stage(
        self, number: int, pairs: PairWeights, task: Task
    ) -> tuple[EnsembleClassifier, list[dict[str, float]]]:
        """The sum with one more member, and the history of its training."""
        fresh = self._made(number)
        if self._members and self.warm_start:
            fresh.model.load_state_dict(recompose(copy.deepcopy(self._members[-1])).state_dict())
        with frozen(*self._members):
            trainer = self._stage(fresh, pairs.values)
            task.train(trainer)
        classifier: EnsembleClassifier = trainer.get_classifier()
        candidates = self.rule.candidates()
        if self._members and candidates and task.validation is not None:
            line_search(classifier, self.attack, candidates, *task.validation)
        return classifier, trainer.history

    def _result(self, classifier: EnsembleClassifier, edge: float, started: float, task: Task) -> StageResult:
        ensemble = classifier.model
        if not self.rule.candidates():
            ensemble.reweight(self.rule.weights(ensemble.weights.tolist()[:-1], edge))
        seconds, clean, under_attack = time.process_time() - started, None, None
        if task.validation is not None:
            clean = robust(classifier, None, *task.validation).accuracy
            under_attack = robust(classifier, self.attack, *task.validation).accuracy
        nonzeros = compressible(ensemble.members[-1], self.ignore).nnz()
        weights = tuple(ensemble.weights.tolist())
        return StageResult(len(ensemble), weights, edge, nonzeros, seconds, clean, under_attack)

    def _stop(self, number: int, edge: float) -> None:
        self.stopped = (
            f"the member of stage {number} is no better than guessing where the former ones fail: its edge of "
            f"{edge:.3g} is what always answering one class has"
        )
        if not self._members:
            raise RuntimeError(f"{self.stopped}; train for longer, with another learning rate or a weaker attack")
        warnings.warn(f"{self.stopped}, so the sum keeps its {number - 1} members", stacklevel=3)

    def _compressed(self, member: nn.Module, mantissa_bits: int | None = None) -> CompressedModel:
        return CompressedModel.of(member, self.constraints, ignore=self.ignore, mantissa_bits=mantissa_bits)

    def _resumed(self, path: Path, task: Task) -> StagesFolder:
        """The folder, with its finished stages taken over."""
        conditions = {name: repr(getattr(self, name)) for name in ("attack", "factored", "rule", "seed", "warm_start")}
        folder = StagesFolder(path, {**conditions, "constraints": str(self.constraints), **task.conditions()})
        for result in folder.results[len(self._members) : self.stages]:
            self._members.append(folder.member(result.stage).restore(self._made(result.stage).model))
            self._votes.append(folder.votes(result.stage))
            self.results.append(result)
        self.history = [dict(row) for row in folder.history]
        return folder
