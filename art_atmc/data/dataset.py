r"""Data sets as arrays: images in :math:`[0, 1]`, shaped (N, C, H, W), with labels :math:`0, \dots, C-1`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Dataset", "refuse"]

Array: TypeAlias = NDArray[Any]


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    r"""Labelled images :math:`x \in [0, 1]^{N \times C \times H \times W}`, :math:`y \in \{0, \dots, K-1\}^N`.

    :param name: what to call the data in a report.
    :param x_train: float32 images for training, (N, C, H, W), within ``clip_values``.
    :param y_train: their int64 labels, (N,); every class occurs.
    :param x_test: images of the same shape, kept apart from training.
    :param y_test: their labels.
    :param nb_classes: number of classes K, at least 2.
    :param clip_values: the range of a pixel.
    :raises ValueError: naming at once every array that is not as described.

    >>> x, y = np.zeros((4, 1, 8, 8), np.float32), np.array([0, 1, 2, 0])
    >>> Dataset("blank", x, y, x[:1], y[:1], nb_classes=3).clip_values
    (0.0, 1.0)
    """

    name: str
    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    nb_classes: int
    clip_values: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        problems = [
            _image_problem("x_train", self.x_train, self.clip_values),
            _label_problem("y_train", self.y_train, self.nb_classes) or _gap_problem(self.y_train, self.nb_classes),
            _image_problem("x_test", self.x_test, self.clip_values),
            _label_problem("y_test", self.y_test, self.nb_classes),
            _length_problem("train", self.x_train, self.y_train),
            _length_problem("test", self.x_test, self.y_test),
        ]
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            problems.append(
                f"`x_train` and `x_test` must hold images of one shape, got {self.x_train.shape[1:]} and "
                f"{self.x_test.shape[1:]}"
            )
        refuse(self.name, [p for p in problems if p])


def _image_problem(name: str, x: Array, clip_values: tuple[float, float]) -> str | None:
    low, high = clip_values
    if x.dtype != np.float32 or x.ndim != 4 or 0 in x.shape:
        return (
            f"`{name}` must be float32 images in [{low:g}, {high:g}] shaped (N, C, H, W), got {x.dtype} of shape "
            f"{x.shape}; a file may hold any floating type or uint8, grey images need one channel, x[:, None]"
        )
    if x.shape[3] <= 4 < x.shape[1]:
        return (
            f"`{name}` must be shaped (N, C, H, W), got {x.shape}, which has its channels last; "
            "save x.transpose(0, 3, 1, 2)"
        )
    if bad := int(np.count_nonzero(~np.isfinite(x).all(axis=(1, 2, 3)))):
        return f"`{name}` must be finite, got NaN or infinity in {bad} of {len(x)} images; remove or mend them"
    if x.min() < low or x.max() > high:
        return (
            f"`{name}` must be in [{low:g}, {high:g}], got values from {x.min():g} to {x.max():g}; "
            "scale them, or save pixels of 0..255 as uint8"
        )
    return None


def _label_problem(name: str, y: Array, nb_classes: int) -> str | None:
    if y.dtype != np.int64 or y.ndim != 1 or y.size == 0:
        return (
            f"`{name}` must be int64 labels from 0 shaped (N,), got {y.dtype} of shape {y.shape} starting with "
            f"{y.reshape(-1)[:3].tolist()}; a file may hold any whole numbers, or one-hot rows (N, K)"
        )
    if y.min() < 0 or 0 < nb_classes <= y.max():
        return (
            f"`{name}` must be labels in 0..K-1 of K = {nb_classes} classes, got {y.min()} to {y.max()}; "
            "number the classes of both parts alike"
        )
    return None


def _gap_problem(y: Array, nb_classes: int) -> str | None:
    present = np.unique(y)
    if nb_classes >= 2 and len(present) == nb_classes:
        return None
    absent = np.setdiff1d(np.arange(min(nb_classes, len(present) + 5)), present)[:5].tolist()
    return (
        f"`y_train` must hold all labels 0..K-1 of at least 2 classes, got none of {absent or [1]}; "
        "renumber the classes from 0 without gaps"
    )


def _length_problem(part: str, x: Array, y: Array) -> str | None:
    if x.shape[:1] == y.shape[:1]:
        return None
    return f"`x_{part}` and `y_{part}` must match, got shapes {x.shape} and {y.shape}; give one label for each image"


def refuse(source: str, problems: Sequence[str]) -> None:
    if problems:
        raise ValueError(f"{source} can't be used:\n  " + "\n  ".join(problems))
