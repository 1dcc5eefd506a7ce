"""What ``art-atmc train --target NAME=VALUE`` runs: the entry points ``art_atmc.targets``."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from art_atmc.classifiers import Network, arrays
from art_atmc.data import load
from art_atmc.experiments.settings import Settings
from art_atmc.experiments.train_and_test import new_trainer, split
from art_atmc.training import JSONLines, crop_and_flip
from art_atmc_distortion.control import measured
from art_atmc_distortion.targets import Fits, Smallest, Target
from art_atmc_distortion.trainer import TargetTrainer

__all__ = ["serve"]

logger = logging.getLogger("art_atmc_distortion")
MODEL, METRICS, HISTORY, CHECKPOINTS = "compressed.atmc", "metrics.json", "history.jsonl", "checkpoints"


def serve(targets: Mapping[str, float], settings: Settings, output: Path, verbose: bool) -> dict[str, Any]:
    """Train one network to its targets, test it once, and write it.

    :param targets: values by the names of the entry points, such as ``{"robust-accuracy": 0.85}``.
    :param settings: all else; what they say of sparsity is replaced.
    :param output: folder of ``compressed.atmc``, ``history.jsonl`` and ``metrics.json``; a run that was
        interrupted goes on there.
    :returns: the content of ``metrics.json``.
    :raises ValueError: for targets that contradict one another, and as :class:`~art_atmc_distortion.TargetTrainer`.
    """
    target = _target(targets)
    if (output / METRICS).exists():
        raise FileExistsError(f"{output} holds the results of another run; choose another `output`")
    torch.manual_seed(settings.seed)
    dataset = load(settings.data, settings.data_dir)
    classifier = new_trainer(settings.dense(), dataset, verbose=False).get_classifier()
    output.mkdir(parents=True, exist_ok=True)
    trainer = TargetTrainer(
        classifier,
        settings.objective,
        dataclasses.replace(target, attack=settings.test_attack),
        [constraint for constraint in settings.constraints if constraint.coded],
        network=settings.network_name,
        ignore=settings.ignore,
        factored=settings.factored,
        callbacks=[JSONLines(output / HISTORY)],
        checkpoint=output / CHECKPOINTS,
        precision=None if settings.precision == "float32" else "bf16",
        seed=settings.seed,
        verbose=verbose,
    )
    x_train, y_train, x_val, y_val = split(settings, dataset)
    trainer.fit(
        x_train,
        y_train,
        validation_data=(x_val, y_val),
        nb_epochs=settings.epochs,
        batch_size=settings.batch_size,
        scheduler=settings.rate,
        augmentation=crop_and_flip if settings.augment else None,
    )
    metrics = _tested(trainer, settings, dataset, targets)
    metrics["file_bytes"] = trainer.compress().save(output / MODEL)  # without figures, which would take bytes
    (output / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def _target(targets: Mapping[str, float]) -> Target:
    named = {name.replace("-", "_"): value for name, value in targets.items()}
    if "file_bytes" not in named:
        return Smallest(**named)
    if len(named) > 1:
        raise ValueError(
            f"the targets {sorted(targets)} contradict one another: with file-bytes the accuracy follows, with a bound "
            "on loss or accuracy the size does; give one or the other"
        )
    return Fits(file_bytes=int(named["file_bytes"]))


def _tested(trainer: TargetTrainer, settings: Settings, dataset: Any, targets: Mapping[str, float]) -> dict[str, Any]:
    """The figures of the network on test data, which are used here once, and of the epoch that it is from."""
    classifier = trainer.get_classifier()
    x, y = arrays(classifier, dataset.x_test, dataset.y_test, "test")
    figures = measured(classifier, Network(classifier, x[:2].to(classifier.device)), x, y, settings.test_attack)
    sparsity = trainer.constraints[0]
    rows = [row for row in trainer.history if round(row["density"], 9) == round(sparsity.density, 9)]  # type: ignore[attr-defined]
    return {
        "target": dict(targets),
        "constraints": [repr(constraint) for constraint in trainer.constraints],
        "density": sparsity.density,  # type: ignore[attr-defined]
        "validation": rows[-1] if rows else {},
        **figures,
        "attack": repr(settings.test_attack),
        "seconds": round(sum(row["seconds"] for row in trainer.history), 1),
        "settings": settings.plain(),
    }
