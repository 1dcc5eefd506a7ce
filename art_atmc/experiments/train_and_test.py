"""One network from its settings to its files and figures: trained, saved, tested once, and all of it only once."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from pydantic import JsonValue
from torch import nn

from art_atmc.compression.constraints import Quantization, Sparsity
from art_atmc.compression.paper_size import paper_bits
from art_atmc.compression.weights import compressible
from art_atmc.data import Dataset, split_validation
from art_atmc.evaluation.evaluate import evaluate
from art_atmc.evaluation.result import Evaluation, Severity
from art_atmc.experiments.curve import accuracies, security_curve
from art_atmc.experiments.doubts import doubts
from art_atmc.experiments.low_rank import low_rank_
from art_atmc.experiments.point import Accuracy, Point
from art_atmc.experiments.settings import PRECISIONS, Settings
from art_atmc.experiments.suite import suite
from art_atmc.experiments.training import OPTIMIZERS
from art_atmc.files.model import CompressedModel
from art_atmc.networks.by_name import build
from art_atmc.support.reading import readable, validated
from art_atmc.support.versions import versions
from art_atmc.trainer import ATMCTrainer
from art_atmc.training.augmentation import crop_and_flip
from art_atmc.training.averaging import AveragedWeights
from art_atmc.training.callbacks import Callback
from art_atmc.training.logs import JSONLines
from art_atmc.training.objective_trainer import ObjectiveTrainer

__all__ = ["Start", "fit", "new_trainer", "split", "train", "train_and_test"]

logger = logging.getLogger(__name__)

MODEL: Final = "model.atmc"
CHECKPOINTS: Final = "checkpoints"
HISTORY: Final = "history.jsonl"
EVALUATION: Final = "evaluation.json"
POINT: Final = "point.json"

AnyTrainer: TypeAlias = ObjectiveTrainer | ATMCTrainer
Split: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@final
@dataclasses.dataclass(frozen=True)
class Start:
    """The trained network that another one starts from.

    :param folder: where :func:`train` wrote it.
    :param stages: what it was trained as, one after the other, with the epochs of each.
    """

    folder: Path
    stages: tuple[tuple[str, int], ...]


def train_and_test(
    settings: Settings,
    folder: Path,
    dataset: Dataset,
    *,
    start: Start | None = None,
    schedule: str = "matched",
    curve: bool = False,
    verbose: bool = True,
) -> Point:
    """Train and test one network; what an earlier call finished is not done again.

    :param folder: of its files: the network ``model.atmc``, ``history.jsonl`` with a line an epoch,
        ``evaluation.json``, and at the end ``point.json``, which says that the others are complete.
    :param start: the network that this one starts from; by default a fresh one.
    :param schedule: what the point says of how its stages were put into epochs.
    :param curve: whether to measure a security curve and to keep adversarial examples.
    :param verbose: show progress bars.
    """
    if finished(folder):
        return Point.load(folder)
    train(settings, folder, dataset, start=start, verbose=verbose)
    model = CompressedModel.load(folder / MODEL)
    classifier = restored(model, settings, dataset)
    evaluation = evaluate(
        classifier,
        dataset.x_test,
        dataset.y_test,
        suite=suite(settings),
        seed=settings.seed,
        checkpoint=folder / EVALUATION,
        verbose=verbose,
    )
    point = _point(settings, folder, dataset, model, classifier, evaluation)
    stages = (*(start.stages if start else ()), (settings.recipe, settings.epochs))
    point = dataclasses.replace(
        point,
        schedule=schedule,
        stages=stages,
        epochs=sum(epochs for _, epochs in stages),
        curve=security_curve(settings, classifier, dataset, folder) if curve else None,
    )
    point.save(folder)
    return point


def finished(folder: Path) -> bool:
    """Whether :func:`train_and_test` has nothing left to do there."""
    return (folder / POINT).exists() and (folder / MODEL).exists()


def train(
    settings: Settings, folder: Path, dataset: Dataset, *, start: Start | None = None, verbose: bool = True
) -> None:
    """Train one network and write ``history.jsonl`` and ``model.atmc``; nothing where the latter is there."""
    if (folder / MODEL).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("%s, %d epochs: %s", settings.recipe, settings.epochs, folder)
    trainer = new_trainer(settings, dataset, start, folder=folder, verbose=verbose)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no weight is left|the loss never left")  # a point says so for good
        fit(trainer, settings, split(settings, dataset))
    for later in (EVALUATION, POINT):  # of a network that is no longer there
        (folder / later).unlink(missing_ok=True)
    compressed(trainer, settings).save(folder / MODEL)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def new_model(settings: Settings, dataset: Dataset) -> nn.Module:
    """The network as it is before training; the same for the same seed."""
    torch.manual_seed(settings.seed)
    return build(settings.network, dataset.nb_classes)


def new_classifier(settings: Settings, dataset: Dataset, model: nn.Module) -> PyTorchClassifier:
    """An ART classifier around ``model`` with an optimizer over its parameters, on a GPU where there is one."""
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        dataset.x_train.shape[1:],
        dataset.nb_classes,
        optimizer=OPTIMIZERS[settings.optimizer](model.parameters(), settings.lr),
        clip_values=dataset.clip_values,
        preprocessing=None,
    )


def new_trainer(
    settings: Settings,
    dataset: Dataset,
    start: Start | None = None,
    *,
    folder: Path | None = None,
    verbose: bool = True,
) -> AnyTrainer:
    """What trains the network that the settings ask for.

    :param folder: of checkpoints, from which an interrupted fit goes on, and of the history; None to write nothing.
    """
    model = new_model(settings, dataset)
    if start is not None:
        CompressedModel.load(start.folder / MODEL).restore(model)
    if settings.low_rank:
        low_rank_(model, settings.density, settings.ignore)
    classifier = new_classifier(settings, dataset, model)
    dense = ObjectiveTrainer(
        classifier,
        settings.objective,
        seed=settings.seed,
        precision=PRECISIONS[settings.precision],
        callbacks=_callbacks(settings, folder),
        checkpoint=None if folder is None else folder / CHECKPOINTS,
        verbose=verbose,
    )
    if not settings.constraints:
        return dense
    return ATMCTrainer(
        classifier,
        constraints=settings.constraints,
        trainer=dense,
        schedule=settings.tightening,
        ignore=settings.ignore,
        factored=settings.factored,
        solver=settings.solver,
    )


def _callbacks(settings: Settings, folder: Path | None) -> list[Callback]:
    """Averaging comes first, so that a line of the history has the averages' accuracies."""
    averaged = [] if settings.average is None else [AveragedWeights(settings.average)]
    return [*averaged, *([] if folder is None else [JSONLines(folder / HISTORY, stage=settings.recipe)])]


def split(settings: Settings, dataset: Dataset) -> Split:
    """Training and validation data."""
    return split_validation(dataset.x_train, dataset.y_train, settings.validation, settings.seed)


def fit(trainer: AnyTrainer, settings: Settings, data: Split) -> None:
    """Train on the first two arrays of ``data``, and choose the epoch on the others."""
    x_train, y_train, x_val, y_val = data
    trainer.fit(
        x_train,
        y_train,
        validation_data=(x_val, y_val),
        nb_epochs=settings.epochs,
        batch_size=settings.batch_size,
        scheduler=settings.rate,
        augmentation=crop_and_flip if settings.augment else None,
    )


def compressed(trainer: AnyTrainer, settings: Settings) -> CompressedModel:
    """The trained network as a file; a dense one too, which no constraint holds for."""
    return CompressedModel.of(
        trainer.get_classifier(), settings.constraints, ignore=settings.ignore, network=settings.network_name
    )


def restored(model: CompressedModel, settings: Settings, dataset: Dataset) -> PyTorchClassifier:
    """The classifier of a file, around a module of the user's where the file names none."""
    return model.classifier(None if model.manifest.network else new_model(settings, dataset))


def _point(
    settings: Settings,
    folder: Path,
    dataset: Dataset,
    model: CompressedModel,
    classifier: PyTorchClassifier,
    evaluation: Evaluation,
) -> Point:
    """The figures of a network that starts from a fresh one; the file gets the accuracies too."""
    clean, robust = (Accuracy(int(c.sum()), len(c)) for c in (evaluation.clean, evaluation.worst_case))
    metrics: dict[str, JsonValue] = {"clean_accuracy": clean.share, "robust_accuracy": robust.share}
    model = dataclasses.replace(model, manifest=model.manifest.model_copy(update={"metrics": metrics}))
    x_train, _, x_val, y_val = split(settings, dataset)
    rows = read_history(folder)
    weights = compressible(classifier.model, settings.ignore)
    return Point(
        recipe=settings.recipe,
        density=settings.density,
        bits=settings.bits,
        constraints=own_constraints(settings),
        seed=settings.seed,
        schedule="matched",
        stages=((settings.recipe, settings.epochs),),
        epochs=settings.epochs,
        data=dataset.name,
        train_examples=len(x_train),
        validation_examples=len(x_val),
        network=settings.network,
        eps=float(settings.eps),
        norm=settings.norm,
        attack=repr(settings.objective),
        validation=accuracies(classifier, x_val, y_val, settings.attack.without_memory()),
        clean=clean,
        robust=robust,
        attacks={a.name: Accuracy(int(a.correct.sum()), len(a.correct)) for a in evaluation.attacks},
        nnz=weights.nnz(),
        dense_size=weights.dense_size,
        paper_ratio=paper_bits(weights) / (32 * weights.dense_size),
        file_bytes=model.save(folder / MODEL),
        dense_bytes=model.dense_bytes,
        seconds=round(sum(row["seconds"] for row in rows), 1),
        curve=None,
        versions=versions(),
        doubts=(*doubts(model, classifier, rows, x_val), *_failed(evaluation)),
    )


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``history.jsonl``, one an epoch."""
    text = (folder / HISTORY).read_text(encoding="utf-8")
    with readable(folder / HISTORY, "a history of epochs", "delete its folder and train again"):
        return [validated(dict[str, Any], row) for row in text.splitlines()]


def _failed(evaluation: Evaluation) -> list[str]:
    failed = (finding for finding in evaluation.findings if finding.severity is Severity.FAILED)
    return [f"self-check failed, {finding.check}: {finding.sentence}" for finding in failed]


def own_constraints(settings: Settings) -> tuple[str, ...]:
    """The constraints where density and bits do not say all of them."""
    if all(isinstance(constraint, Sparsity | Quantization) for constraint in settings.constraints):
        return ()
    return tuple(map(repr, settings.constraints))
