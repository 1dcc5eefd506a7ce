"""What training refuses or doubts before it begins."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

__all__ = ["check_classifier", "check_radius", "refuse_unknown"]


def check_classifier(classifier: Any) -> None:
    """Refuse what can't be trained here.

    :raises TypeError: unless ``classifier`` is an ART ``PyTorchClassifier``.
    :raises ValueError: when it has no optimizer, or one that needs a closure.
    """
    if not isinstance(classifier, PyTorchClassifier):
        raise TypeError(
            f"`classifier` must be an ART PyTorchClassifier, got {type(classifier).__name__}; wrap the torch "
            "module as PyTorchClassifier(model, loss, input_shape, nb_classes, optimizer=optimizer)"
        )
    if type(classifier.model).__module__.startswith("art.estimators.certification"):
        raise ValueError(
            f"{type(classifier).__name__} has turned the network into bounds of itself, which have no weights to train "
            "here; train a PyTorchClassifier of the network, and hand its model over afterwards"
        )
    if classifier.optimizer is None:
        raise ValueError(
            "the classifier has no optimizer, which training needs; build it with "
            "PyTorchClassifier(..., optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))"
        )
    closure = inspect.signature(type(classifier.optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{type(classifier.optimizer).__name__} evaluates the loss several times a step, which adversarial "
            "training does not offer; use SGD or Adam"
        )


def refuse_unknown(arguments: Mapping[str, Any]) -> None:
    if arguments:
        raise TypeError(
            f"fit() got the unknown arguments {sorted(arguments)}; ART's trainers would ignore them silently"
        )


def check_radius(attack: Any, sample: Tensor, clip_values: Any) -> None:
    """Say when radius and data can hardly have one scale."""
    eps = getattr(attack, "eps", None)
    if clip_values is None or not isinstance(eps, int | float | np.number):
        return
    span = float(np.max(clip_values[1])) - float(np.min(clip_values[0]))
    if eps >= span or eps < span / 2000:
        warnings.warn(
            f"the attack's radius {eps:.4g} is {'at least the whole' if eps >= span else 'less than 1/2000 of the'} "
            f"range of the inputs, {span:.4g}; are both in the same units, [0, 1] or [0, 255]?",
            stacklevel=5,
        )
