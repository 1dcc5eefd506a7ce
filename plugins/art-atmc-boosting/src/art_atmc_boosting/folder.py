"""Finished stages on disk, so that an interrupted fit goes on after them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from art_atmc import ATMCTrainer, CompressedModel

__all__ = ["StageResult", "StagesFolder", "Task"]


@final
@dataclasses.dataclass(frozen=True)
class StageResult:
    """What is known of a finished stage.

    :param stage: its number, from 1.
    :param weights: of all members after it.
    :param edge: of its member over guessing, on weighted pairs under attack, in [-1, 1]: those of the training data, or
        of the validation data where a loader was fitted.
    :param nonzeros: of the constrained weights of its member.
    :param seconds: of the processor for its training.
    :param clean_accuracy: of the sum on validation data; None without any.
    :param robust_accuracy: the same under the attack.
    """

    stage: int
    weights: tuple[float, ...]
    edge: float
    nonzeros: int
    seconds: float
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None


@final
class StagesFolder:
    """One file a member, the votes of each, and ``stages.json`` with the rest.

    :param path: made where it is missing.
    :param conditions: all that must be the same for a fit to go on, in words.
    :raises ValueError: for the stages of a fit under other conditions, naming what differs.
    """

    def __init__(self, path: Path, conditions: Mapping[str, str]) -> None:
        self.path, self.conditions = path, dict(conditions)
        path.mkdir(parents=True, exist_ok=True)
        self.results: list[StageResult] = []
        self.history: list[dict[str, float]] = []
        if (record := path / "stages.json").exists():
            held = json.loads(record.read_text())
            if differing := [
                k for k in {**held["conditions"], **conditions} if held["conditions"].get(k) != conditions.get(k)
            ]:
                before = {k: held["conditions"].get(k) for k in differing}
                raise ValueError(
                    f"{path} holds stages of another fit, which had {before}; go on under these, or give another folder"
                )
            self.results = [StageResult(**{**row, "weights": tuple(row["weights"])}) for row in held["stages"]]
            self.history = held["history"]

    def member(self, stage: int) -> CompressedModel:
        return CompressedModel.load(self.path / f"stage-{stage}.atmc")

    def votes(self, stage: int) -> np.ndarray:
        votes: np.ndarray = np.load(self.path / f"stage-{stage}.npy", allow_pickle=False)
        return votes

    def keep(
        self, result: StageResult, member: CompressedModel, votes: np.ndarray, history: list[dict[str, float]]
    ) -> None:
        """A stage counts from the moment on that ``stages.json`` names it."""
        member.save(self.path / f"stage-{result.stage}.atmc")
        np.save(self.path / f"stage-{result.stage}.npy", votes)
        self.results.append(result)
        self.history = list(history)
        record = {
            "conditions": self.conditions,
            "stages": [dataclasses.asdict(row) for row in self.results],
            "history": self.history,
        }
        written = self.path / "stages.json.new"
        written.write_text(json.dumps(record))
        os.replace(written, self.path / "stages.json")


@final
@dataclasses.dataclass(frozen=True)
class Task:
    """The arguments of a fit, for each of its stages.

    :param measured: (x, y) on which edges are measured: the training data, or with a loader the validation data.
    :param validation: (x, y), or None.
    :param options: further arguments of the trainer's fit.
    :param loader: of the training batches; None where they are made of ``measured``.
    """

    measured: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray] | None
    nb_epochs: int
    options: Mapping[str, Any]
    loader: Any = None

    def train(self, trainer: ATMCTrainer) -> None:
        """A stage."""
        options = {**self.options, "nb_epochs": self.nb_epochs, "validation_data": self.validation}
        if self.loader is None:
            trainer.fit(*self.measured, **options)
        else:
            trainer.fit_generator(self.loader, **options)

    def conditions(self) -> dict[str, str]:
        named = "data" if self.loader is None else "data of the edges"
        return {
            named: fingerprint(*self.measured),
            "validation data": "none" if self.validation is None else fingerprint(*self.validation),
            "batch_size": str(self.options.get("batch_size", "the loader's")),
            "nb_epochs": str(self.nb_epochs),
        }


def fingerprint(*arrays: Any) -> str:
    """SHA-256 of arrays, shortened."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
