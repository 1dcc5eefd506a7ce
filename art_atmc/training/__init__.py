"""Objectives, data on its way into training, learning rates, callbacks, and the loop."""

from __future__ import annotations

from art_atmc.training.accuracy import accuracy
from art_atmc.training.augmentation import CropAndFlip, ShiftAndMirror, crop_and_flip
from art_atmc.training.averaging import AveragedWeights
from art_atmc.training.batches import ArrayBatches, Augmentation, Batch, Batches, GeneratedBatches
from art_atmc.training.callbacks import BestEpoch, Callback, LogLines, ProgressBars
from art_atmc.training.checkpoint import Checkpoint
from art_atmc.training.checkpoint_folder import CheckpointFolder, Interrupted, StopSignals
from art_atmc.training.logs import EarlyStopping, JSONLines, TensorBoard
from art_atmc.training.objective_trainer import ObjectiveTrainer
from art_atmc.training.objectives import TRADES, Adversarial, Natural, Objective, Outcome
from art_atmc.training.rates import Constant, Cosine, Hold, OneCycle, PerStep, Rate, Scheduler
from art_atmc.training.run import Run

__all__ = [
    "TRADES",
    "Adversarial",
    "ArrayBatches",
    "Augmentation",
    "AveragedWeights",
    "Batch",
    "Batches",
    "BestEpoch",
    "Callback",
    "Checkpoint",
    "CheckpointFolder",
    "Constant",
    "Cosine",
    "CropAndFlip",
    "EarlyStopping",
    "GeneratedBatches",
    "Hold",
    "Interrupted",
    "JSONLines",
    "LogLines",
    "Natural",
    "Objective",
    "ObjectiveTrainer",
    "OneCycle",
    "Outcome",
    "PerStep",
    "ProgressBars",
    "Rate",
    "Run",
    "Scheduler",
    "ShiftAndMirror",
    "StopSignals",
    "TensorBoard",
    "accuracy",
    "crop_and_flip",
]
