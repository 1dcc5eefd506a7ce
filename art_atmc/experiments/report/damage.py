"""The files of a point, each read whole or refused: a damaged point is left out, and spoils no page."""

from __future__ import annotations

import dataclasses
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from art_atmc.evaluation.result import Evaluation
from art_atmc.experiments.point import Accuracy, Examples, Point
from art_atmc.support.reading import validated

__all__ = ["Epoch", "check", "examples", "history"]

LARGEST: Final = 1e15  # no count and no loss of a training is larger; pictures of larger numbers overflow


@final
@dataclasses.dataclass(frozen=True)
class Epoch:
    """A row of ``history.jsonl``; the accuracies but the first are on validation data.

    ``weights`` are those of an objective over several attacks, which write them as ``weight_NAME``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    epoch: int
    loss: float
    train_robust_accuracy: float
    clean_accuracy: float
    robust_accuracy: float
    learning_rate: float
    seconds: float
    stage: str
    violation: float | None = None
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)


def history(folder: Path) -> tuple[Epoch, ...]:
    """The epochs of ``history.jsonl``. A loss that is not finite is one of a training that diverged, and is kept.

    :raises OSError: when it can't be read.
    :raises ValueError: when it is damaged.
    """
    rows = (folder / "history.jsonl").read_bytes().splitlines()
    try:
        made = tuple(
            dataclasses.replace(validated(Epoch, row), weights=_weights(validated(dict[str, Any], row))) for row in rows
        )
    except ValueError as error:
        raise ValueError(f"history.jsonl is damaged: {error}") from None
    if not made:
        raise ValueError("history.jsonl is empty")
    for row in made:
        shares = {"clean_accuracy": row.clean_accuracy, "robust_accuracy": row.robust_accuracy}
        numbers = {"loss": row.loss, "violation": row.violation or 0.0}
        wrong = {name: share for name, share in shares.items() if not 0 <= share <= 1}
        wrong |= {f"weight_{name}": share for name, share in row.weights.items() if not -1e-6 <= share <= 1 + 1e-6}
        wrong |= {name: number for name, number in numbers.items() if LARGEST < abs(number) < math.inf}
        if wrong:
            named = "; ".join(f"{name} is {value}" for name, value in wrong.items())
            raise ValueError(f"history.jsonl is damaged: in epoch {row.epoch} {named}")
    return made


def _weights(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name.removeprefix("weight_"): float(value)
        for name, value in row.items()
        if name.startswith("weight_") and isinstance(value, int | float)
    }


def examples(folder: Path) -> Examples | None:
    """The arrays of ``examples.npz``; None where there is no such file.

    :raises OSError: when it can't be read.
    :raises ValueError: when it is damaged.
    """
    path = folder / "examples.npz"
    if not path.exists():
        return None
    if not zipfile.is_zipfile(path):
        raise ValueError("examples.npz is damaged: it is no archive")
    try:
        made = Examples.load(folder)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"examples.npz is damaged: {error}") from None
    arrays: dict[str, NDArray[Any]] = vars(made)
    images, labels = (made.x, made.x_adv), (made.y, made.predicted, made.predicted_adv)
    fits = (
        made.x.ndim == 4
        and made.x.size > 0
        and made.x_adv.shape == made.x.shape
        and all(label.shape == made.x.shape[:1] for label in labels)
        and all(np.issubdtype(image.dtype, np.floating) and np.isfinite(image).all() for image in images)
        and all(np.issubdtype(label.dtype, np.integer) for label in labels)
    )
    if not fits:
        held = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"examples.npz is damaged: it needs finite images and a label for each, and holds {held}")
    return made


def check(folder: Path, point: Point, rows: Sequence[Epoch], evaluation: Evaluation) -> None:
    """Refuse figures that are none, and files of several trainings, which may lie in one folder when one of them was
    copied or cut short.

    :raises ValueError: naming all that is wrong.
    """
    if wrong := [f"{name} is {value}" for name, value, holds in _figures(point, rows) if not holds]:
        raise ValueError(f"point.json is damaged: {'; '.join(wrong)}")
    found = {
        "bytes of model.atmc": (point.file_bytes, (folder / "model.atmc").stat().st_size),
        "clean examples": ((point.clean.correct, point.clean.n), _counts(evaluation.clean)),
        "robust examples": ((point.robust.correct, point.robust.n), _counts(evaluation.worst_case)),
    }
    if other := [f"{what}: {stated}, not {held}" for what, (stated, held) in found.items() if stated != held]:
        raise ValueError(f"point.json and the files beside it disagree ({'; '.join(other)}); run this point again")


def _figures(point: Point, rows: Sequence[Epoch]) -> Iterator[tuple[str, object, bool]]:
    """Name, value, and whether it can be: the numbers of a point that a page shows or computes with."""
    yield "density", point.density, 0 < point.density <= 1
    yield "bits", point.bits, 1 <= point.bits <= 32
    yield "eps", point.eps, 0 <= point.eps <= LARGEST
    yield "epochs", point.epochs, len(rows) <= point.epochs <= 1e6
    yield "seed", point.seed, abs(point.seed) < 2**64
    for name in ("dense_size", "dense_bytes", "file_bytes"):
        yield name, getattr(point, name), 1 <= getattr(point, name) <= LARGEST
    yield "nnz", point.nnz, 0 <= point.nnz <= point.dense_size
    for name in ("train_examples", "validation_examples"):
        yield name, getattr(point, name), 0 <= getattr(point, name) <= LARGEST
    yield "paper_ratio", point.paper_ratio, 1 / LARGEST <= point.paper_ratio <= LARGEST
    for name, accuracy in {"clean": point.clean, "robust": point.robust, **point.attacks}.items():
        yield name, accuracy, _is_share(accuracy)
    if (curve := point.curve) is not None:
        rising = len(curve.eps) == len(curve.correct) > 0 and list(curve.eps) == sorted(curve.eps)
        bounded = all(0 <= eps <= LARGEST for eps in curve.eps)
        yield "curve", curve, rising and bounded and all(_is_share(Accuracy(c, curve.n)) for c in curve.correct)


def _is_share(accuracy: Accuracy) -> bool:
    return 0 <= accuracy.correct <= accuracy.n <= LARGEST and accuracy.n > 0


def _counts(correct: NDArray[np.bool_]) -> tuple[int, int]:
    return int(correct.sum()), len(correct)
