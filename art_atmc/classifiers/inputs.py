"""Arrays on their way to a classifier: as tensors, after every check that can be made beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from art.utils import check_and_transform_label_format
from torch import Tensor

from art_atmc.classifiers.network import draws_examples

__all__ = ["arrays", "augmented", "drawing_defences"]


def arrays(classifier: Any, x: np.ndarray, y: np.ndarray, role: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels as tensors, after every check that can be made beforehand.

    :param classifier: the ART classifier that they are for: its input shape, clip values, classes and loss.
    :param role: what the data is, for the error message.
    :returns: x as float32, y as the classifier's loss takes it.
    :raises ValueError: naming all that is wrong with the data.
    """
    x, y = np.asarray(x), np.asarray(y)
    if np.issubdtype(y.dtype, np.bool_):
        y = y.astype(np.int64)
    wrong = list(_wrong_inputs(classifier, x)) + list(_wrong_labels(classifier, y))
    if len(x) != len(y):
        wrong.append(f"x has {len(x)} examples and y has {len(y)}")
    if wrong:
        raise ValueError(f"the {role} data can't be used:\n  " + "\n  ".join(wrong))
    labels = check_and_transform_label_format(y, nb_classes=classifier.nb_classes)
    return torch.from_numpy(x.astype(np.float32)), torch.as_tensor(np.asarray(classifier.reduce_labels(labels)))


def drawing_defences(classifier: Any) -> list[Any]:
    """The defences that draw further examples for training, such as ``GaussianAugmentation``.

    :raises ValueError: when other preprocessing comes before such a defence.
    """
    operations = list(classifier.preprocessing_operations or [])
    drawing = [op for op in operations if draws_examples(op) and op.apply_fit]
    if drawing != operations[: len(drawing)]:
        names = [type(op).__name__ for op in operations]
        raise ValueError(f"the preprocessing {names} draws further examples after it changed them; put that first")
    return drawing


def augmented(classifier: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Training data with the further examples that the classifier's defences draw, as its own ``fit`` would."""
    for defence in drawing_defences(classifier):
        more, labels = defence(x.numpy(), y.numpy())
        x, y = torch.from_numpy(more).to(x.dtype), torch.from_numpy(labels).to(y.dtype)
    return x, y


def _wrong_inputs(classifier: Any, x: np.ndarray) -> Iterator[str]:
    if x.ndim == 0 or len(x) == 0:
        yield "x is empty"
        return
    if tuple(x.shape[1:]) != tuple(classifier.input_shape):
        yield (
            f"x has shape {x.shape}, but the classifier takes {('n', *classifier.input_shape)}; "
            "images are (n, channels, height, width)"
        )
    if not np.issubdtype(x.dtype, np.number) or np.issubdtype(x.dtype, np.complexfloating):
        remedy = "stack its entries: np.stack(list(x))" if x.dtype == object else "give real numbers"
        yield f"x has dtype {x.dtype}; {remedy}"
        return
    low, high = x.min(), x.max()  # NaN and infinities show in the extremes: two passes instead of a mask
    if not (np.isfinite(low) and np.isfinite(high)):
        yield "x holds NaN or infinite values; remove those examples"
    elif classifier.clip_values is not None:
        floor, ceiling = (np.asarray(v, dtype=np.float64) for v in classifier.clip_values)
        if not (_broadcasts(floor, classifier.input_shape) and _broadcasts(ceiling, classifier.input_shape)):
            yield (
                f"the classifier's clip values have shapes {floor.shape} and {ceiling.shape}, which do not broadcast "
                f"with an input, {tuple(classifier.input_shape)}; values for each channel have shape (channels, 1, 1)"
            )
        elif x.dtype == np.uint8 and high > ceiling.max():
            yield (
                f"x holds bytes up to {high}, and the classifier's clip values end at {ceiling.max():.4g}; give "
                "x / 255, or a classifier with clip_values=(0, 255) and preprocessing=(0, 255): its radii are in bytes"
            )
        elif low < floor.min() - 1e-6 or high > ceiling.max() + 1e-6:
            yield (
                f"x lies in [{low:.4g}, {high:.4g}], outside the classifier's clip values "
                f"[{floor.min():.4g}, {ceiling.max():.4g}]; rescale the data or set `clip_values`"
            )


def _broadcasts(limit: np.ndarray, shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(limit.shape, tuple(shape)) == tuple(shape)
    except ValueError:
        return False


def _wrong_labels(classifier: Any, y: np.ndarray) -> Iterator[str]:
    classes = classifier.nb_classes
    if not np.issubdtype(y.dtype, np.number) or np.issubdtype(y.dtype, np.complexfloating):
        yield f"y has dtype {y.dtype}; give class indices, as np.unique(y, return_inverse=True)[1] makes of names"
        return
    if y.ndim == 2 and y.shape[1] == classes:
        if not np.isfinite(y).all() or (y < 0).any() or not np.allclose(y.sum(axis=1), 1, atol=1e-3):
            yield "one-hot y must hold shares in [0, 1] that sum to 1 in every row"
    elif y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1):
        if len(y) and (not np.isfinite(y).all() or (y != np.floor(y)).any() or y.min() < 0 or y.max() >= classes):
            yield (
                f"labels must be whole numbers from 0 to {classes - 1}, got values from {y.min()} to {y.max()}; "
                f"the classifier has nb_classes={classes}"
            )
    else:
        yield f"y has shape {y.shape}; give class indices (n,) or one-hot labels (n, {classes})"
