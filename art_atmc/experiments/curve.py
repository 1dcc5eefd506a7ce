"""Accuracies of a network on some examples: without an attack, under one, and at rising radii."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_atmc.attacks import Problem, perturb
from art_atmc.attacks.base import Adversary
from art_atmc.attacks.pgd import PGD
from art_atmc.classifiers.inputs import arrays
from art_atmc.classifiers.labels import predicted
from art_atmc.classifiers.network import Network
from art_atmc.data import Dataset
from art_atmc.experiments.point import Curve, Examples
from art_atmc.experiments.settings import Settings
from art_atmc.training.accuracy import accuracy
from art_atmc.training.batches import ArrayBatches

__all__ = ["accuracies", "security_curve"]

EXAMPLES: Final = 500
STEPS: Final = 20
RADII: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # multiples of eps
SHOWN: Final = 8


def accuracies(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray, attack: Adversary) -> tuple[float, float]:
    """Clean accuracy, and accuracy under ``attack``."""
    problem, batches = _problem(classifier, x, y)
    return accuracy(problem, batches), accuracy(problem, batches, attack)


def security_curve(settings: Settings, classifier: PyTorchClassifier, dataset: Dataset, folder: Path) -> Curve:
    """Accuracies of some test examples at rising radii; a few of them are kept in ``folder`` to look at."""
    x, y = dataset.x_test[:EXAMPLES], dataset.y_test[:EXAMPLES]
    problem, batches = _problem(classifier, x, y)
    radii = [multiple * settings.eps for multiple in RADII]

    def attack(eps: float) -> PGD:
        return PGD(eps, 2.5 * eps / STEPS, STEPS, float(settings.norm))

    correct = tuple(round(accuracy(problem, batches, attack(eps) if eps else None) * len(x)) for eps in radii)
    batch = next(batches.epoch(None))
    shown, labels = (part[:SHOWN].to(classifier.device) for part in (batch.x, batch.y))
    perturbed = perturb(problem, attack(settings.eps), shown, labels)
    answers = [predicted(problem.answers(images)).cpu().numpy() for images in (shown, perturbed)]
    Examples(shown.cpu().numpy(), perturbed.cpu().numpy(), y[:SHOWN], *answers).save(folder)
    return Curve(f"PGD-{STEPS}", tuple(radii), correct, len(x))


def _problem(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray) -> tuple[Problem, ArrayBatches]:
    batches = ArrayBatches(*arrays(classifier, x, y, "test"), 250)
    network = Network(classifier, batches.sample().to(classifier.device))
    return Problem.of(classifier, network, torch.Generator(classifier.device).manual_seed(0)), batches
