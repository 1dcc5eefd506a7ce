"""Objectives, data on its way into training, and the loop."""

from __future__ import annotations

from art_atmc.training.augmentation import CropAndFlip, ShiftAndMirror, crop_and_flip
from art_atmc.training.batches import ArrayBatches, Augmentation, Batch, Batches, GeneratedBatches
from art_atmc.training.loop import ObjectiveTrainer, Scheduler, accuracy
from art_atmc.training.objectives import TRADES, Adversarial, Natural, Objective, Outcome

__all__ = [
    "TRADES",
    "Adversarial",
    "ArrayBatches",
    "Augmentation",
    "Batch",
    "Batches",
    "CropAndFlip",
    "GeneratedBatches",
    "Natural",
    "Objective",
    "ObjectiveTrainer",
    "Outcome",
    "Scheduler",
    "ShiftAndMirror",
    "accuracy",
    "crop_and_flip",
]
