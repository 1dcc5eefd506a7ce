"""Whether a network is worth its figures: layers without a weight, one answer for all inputs, nothing learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from art.estimators.classification import PyTorchClassifier

from art_atmc.compression.weights import empty_layers
from art_atmc.files.model import CompressedModel

__all__ = ["doubts"]

NEAR: Final = 0.95  # of the loss of a guess
ENOUGH: Final = 3  # epochs, of which one may be expected to have learned something


def doubts(
    model: CompressedModel, classifier: PyTorchClassifier, history: Sequence[Mapping[str, Any]], x: np.ndarray
) -> tuple[str, ...]:
    r"""Sentences about a network that can't have learned, with what to do; none for one that may have.

    A network that answers every input alike, or that ends at the loss of a guess over K classes, :math:`\ln K`, has a
    robust accuracy all the same, of about :math:`1/K`.

    :param history: of its training, one mapping an epoch.
    :param x: inputs to ask it about.
    """
    found = []
    if empty := empty_layers(model.weights()):
        layers = ", ".join(name.removesuffix(".weight") for name in empty)
        found.append(f"no weight is left in {layers}; raise the density, or leave these layers dense")
    if len(np.unique(classifier.predict(x, batch_size=500).argmax(axis=1))) == 1:
        found.append(f"all {len(x)} validation examples get the same answer")
    guess = math.log(max(classifier.nb_classes, 2))
    if len(history) >= ENOUGH and min(row["loss"] for row in history) > NEAR * guess:
        found.append(
            f"the loss never left {guess:.2f}, that of a guess; train for more epochs, at another learning rate, or "
            "with constraints that tighten later"
        )
    return tuple(found)
