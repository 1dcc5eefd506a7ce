"""Attacks on an ensemble outside of training: robust accuracy, the weight of a member, and its votes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from art_atmc import Problem, Recycled
from art_atmc.attacks import Adversary, ARTAttack, adversary, perturb
from art_atmc.classifiers import Network, arrays, misclassified, true_class
from art_atmc_boosting.classifier import EnsembleClassifier

__all__ = ["Robust", "afresh", "attacked", "classes", "line_search", "robust", "unbound", "votes"]

BATCH = 256


class Robust(NamedTuple):
    """Under attack: the share of correct answers, and the mean loss."""

    accuracy: float
    loss: float


def unbound(attack: Any) -> Adversary:
    """An attack that is not made for one classifier.

    :raises TypeError: for any other.
    """
    found = adversary(attack)
    if isinstance(found, ARTAttack):
        raise TypeError(
            f"{type(attack).__name__} is bound to the classifier that it was built with, and every stage has another "
            "one; give PGD(...), or art_atmc.attacks.Built, which builds attacks for what it meets"
        )
    return found


def afresh(attack: Adversary, *, trained: bool) -> Adversary:
    """An attack without memories of other networks; its first visits take ten steps where the network is trained, as
    that unlearns what it has against perturbations that have yet to grow."""
    if not isinstance(attack, Recycled):
        return attack
    return dataclasses.replace(attack, first=attack.first or (attack.without_memory() if trained else None))


def attacked(classifier: EnsembleClassifier, attack: Any, x: Tensor, y: Tensor) -> Tensor:
    """Adversarial examples for what the ensemble answers now; the same random starts every time."""
    if isinstance(attack, Adversary):
        attack = attack.without_memory()
    network = Network(classifier, x[:2].to(classifier.device))
    problem = Problem.of(classifier, network, torch.Generator(classifier.device).manual_seed(0))
    parts = zip(x.to(classifier.device).split(BATCH), y.to(classifier.device).split(BATCH), strict=True)
    return torch.cat([perturb(problem, attack, *part) for part in parts])


def robust(classifier: EnsembleClassifier, attack: Any, x: np.ndarray, y: np.ndarray) -> Robust:
    """What the ensemble answers under attack."""
    inputs, labels = arrays(classifier, x, y, "validation")
    logits = _answers(classifier, inputs if attack is None else attacked(classifier, attack, inputs, labels))
    correct = (~misclassified(logits, labels.to(logits.device))).double().mean()
    return Robust(float(correct), float(classifier.loss(logits, labels.to(logits.device))))


def votes(classifier: EnsembleClassifier, attack: Any, x: np.ndarray, y: np.ndarray, *, alone: bool) -> Tensor:
    """The classes (n,) that the newest member answers on examples that attack the sum, or it ``alone``."""
    inputs, labels = arrays(classifier, x, y, "training")
    ensemble = classifier.model
    last = len(ensemble) - 1
    with ensemble.using(last if alone else slice(None)):
        points = attacked(classifier, attack, inputs, labels)
    with ensemble.using(last):
        return _answers(classifier, points).argmax(dim=1).cpu()


def line_search(
    classifier: EnsembleClassifier, attack: Any, candidates: Sequence[float], x: np.ndarray, y: np.ndarray
) -> float:
    """The weight of the newest member that is most robust on these data; of equal ones the least attacked loss."""
    before = classifier.model.weights.tolist()
    found: dict[float, Robust] = {}
    for weight in candidates:
        classifier.model.reweight([*before[:-1], weight])
        found[weight] = robust(classifier, attack, x, y)
    best = max(found, key=lambda weight: (found[weight].accuracy, -found[weight].loss))
    classifier.model.reweight([*before[:-1], best])
    return best


def classes(y: np.ndarray) -> Tensor:
    return true_class(torch.as_tensor(y)).cpu()


@torch.no_grad()
def _answers(classifier: EnsembleClassifier, x: Tensor) -> Tensor:
    network = Network(classifier, x[:2].to(classifier.device))
    return torch.cat([network.evaluate(part) for part in x.to(classifier.device).split(BATCH)])
