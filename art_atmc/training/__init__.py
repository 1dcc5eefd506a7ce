"""Objectives, data on its way into training, and the loop."""

from __future__ import annotations

from art_atmc.training.augmentation import crop_and_flip
from art_atmc.training.batches import ArrayBatches, Augmentation, Batches, GeneratedBatches
from art_atmc.training.loop import ObjectiveTrainer, Scheduler, accuracy
from art_atmc.training.objectives import TRADES, Adversarial, Natural, Objective, Outcome

__all__ = [
    "TRADES",
    "Adversarial",
    "ArrayBatches",
    "Augmentation",
    "Batches",
    "GeneratedBatches",
    "Natural",
    "Objective",
    "ObjectiveTrainer",
    "Outcome",
    "Scheduler",
    "accuracy",
    "crop_and_flip",
]
