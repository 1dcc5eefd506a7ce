"""Arrays on their way to a classifier: as tensors, after every check that can be made beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from art.utils import check_and_transform_label_format
from torch import Tensor

__all__ = ["arrays"]


def arrays(classifier: Any, x: np.ndarray, y: np.ndarray, role: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels as tensors, after every check that can be made beforehand.

    :param classifier: the ART classifier that they are for: its input shape, clip values, classes and loss.
    :param role: what the data is, for the error message.
    :returns: x as float32, y as the classifier's loss takes it.
    :raises ValueError: naming all that is wrong with the data.
    """
    x, y = np.asarray(x), np.asarray(y)
    wrong = list(_wrong_inputs(classifier, x)) + list(_wrong_labels(classifier, y))
    if len(x) != len(y):
        wrong.append(f"x has {len(x)} examples and y has {len(y)}")
    if wrong:
        raise ValueError(f"the {role} data can't be used:\n  " + "\n  ".join(wrong))
    labels = check_and_transform_label_format(y, nb_classes=classifier.nb_classes)
    return torch.from_numpy(x.astype(np.float32)), torch.as_tensor(np.asarray(classifier.reduce_labels(labels)))


def _wrong_inputs(classifier: Any, x: np.ndarray) -> Iterator[str]:
    if x.ndim == 0 or len(x) == 0:
        yield "x is empty"
        return
    if tuple(x.shape[1:]) != tuple(classifier.input_shape):
        yield (
            f"x has shape {x.shape}, but the classifier takes {('n', *classifier.input_shape)}; "
            "images are (n, channels, height, width)"
        )
    if not np.issubdtype(x.dtype, np.number):
        yield f"x has dtype {x.dtype}; give numbers"
        return
    low, high = x.min(), x.max()  # NaN and infinities show in the extremes: two passes instead of a mask
    if not (np.isfinite(low) and np.isfinite(high)):
        yield "x holds NaN or infinite values; remove those examples"
    elif classifier.clip_values is not None:
        floor, ceiling = (np.asarray(v, dtype=np.float64) for v in classifier.clip_values)
        if low < floor.min() - 1e-6 or high > ceiling.max() + 1e-6:
            yield (
                f"x lies in [{low:.4g}, {high:.4g}], outside the classifier's clip values "
                f"[{floor.min():.4g}, {ceiling.max():.4g}]; rescale the data or set `clip_values`"
            )


def _wrong_labels(classifier: Any, y: np.ndarray) -> Iterator[str]:
    classes = classifier.nb_classes
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
