"""The share of examples that a network classifies correctly, with and without an attack."""

from __future__ import annotations

from typing import Any

import torch

from art_atmc.attacks.art import perturb
from art_atmc.attacks.base import Problem
from art_atmc.classifiers.labels import misclassified
from art_atmc.training.batches import Batches
from art_atmc.training.devices import World

__all__ = ["accuracy", "counted"]


def accuracy(problem: Problem, batches: Batches, attack: Any = None) -> float:
    """Share of the examples that the network classifies correctly, under ``attack`` where one is given."""
    correct, seen = counted(problem, batches, attack, World())
    return correct / seen


def counted(problem: Problem, batches: Batches, attack: Any, world: World) -> tuple[int, int]:
    """Examples that are classified correctly, and all of them, over all processes."""
    counts = torch.zeros(2, dtype=torch.float64)
    for batch in batches.epoch(None):
        x, y = batch.x.to(problem.classifier.device), batch.y.to(problem.classifier.device)
        if attack is not None:
            x = perturb(problem, attack, x, y)
        counts += torch.tensor([int((~misclassified(problem.answers(x), y)).sum()), len(x)])
    correct, seen = world.summed(counts).tolist()
    return int(correct), int(seen)
