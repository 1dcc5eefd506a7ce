"""ObjectiveTrainer: our loop as one of ART's trainers."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import numpy as np
import torch
from art.defences.trainer import Trainer

from art_atmc.attacks.base import Problem, weighted
from art_atmc.classifiers.inputs import arrays, augmented, drawing_defences
from art_atmc.classifiers.modes import kept_in_evaluation
from art_atmc.classifiers.network import Network
from art_atmc.support.numbers import Whole
from art_atmc.support.precision import bfloat16_slowdown
from art_atmc.support.randomness import draw_seed, isolated_randomness
from art_atmc.training.admission import check_classifier, check_radius, refuse_unknown
from art_atmc.training.batches import ArrayBatches, Augmentation, Batches, GeneratedBatches, Unpack, number_of_batches
from art_atmc.training.callbacks import BestEpoch, Callback, LogLines, ProgressBars
from art_atmc.training.checkpoint import Checkpoint
from art_atmc.training.devices import World, processes
from art_atmc.training.loop import Loop
from art_atmc.training.objectives import Objective, described
from art_atmc.training.rates import AnyRate, Hold, Pace
from art_atmc.training.run import Run

__all__ = ["ObjectiveTrainer"]

Data: TypeAlias = "tuple[np.ndarray, np.ndarray] | Any"
"""(x, y), or a loader of such batches."""

SLOWER: Final = 1.5
"""From how many times the time of float32 on bfloat16 is warned of; without the hardware it is some five times."""


@final
class ObjectiveTrainer(Trainer):  # type: ignore[misc]
    r"""Stochastic gradient descent on an objective, as an ART trainer.

    .. math:: \theta \leftarrow \text{optimizer}\bigl(\nabla_\theta\, \text{objective}(\theta; x, y)\bigr)

    Differs from ART's trainers in that batches stay tensors, native attacks run without numpy, images go
    channels-last, and validation is honest: what is kept is the latest epoch whose *validation* robust accuracy cannot
    be told from the best one (:class:`~art_atmc.training.BestEpoch`), measured on the weights as they would be shipped.

    During the attack the network is in evaluation mode: batch normalisation uses its running statistics and does not
    update them, dropout is off. So the attack finds the weakness of the network that will be deployed, and the running
    statistics are those of the examples that are trained on. The loss is then taken in training mode.

    A second fit goes on from where the first one ended: the weights as they are then are its first candidate.

    :param classifier: an ART ``PyTorchClassifier`` with an optimizer; trained in place.
    :param objective: what to minimise, such as :class:`~art_atmc.Adversarial` or :class:`~art_atmc.TRADES`.
    :param callbacks: what watches the fit or acts at its seams, see :class:`art_atmc.training.Callback`.
    :param checkpoint: folder of this fit's checkpoints, from which an interrupted fit goes on when it is called again
        (:class:`art_atmc.training.Checkpoint`).
    :param checkpoint_every: optimizer steps between two of them; None for one an epoch.
    :param seed: of everything random here: order of the data, random starts, and the global generators (dropout, ART's
        own attacks), which are set aside during a fit and put back afterwards.
    :param precision: ``torch.bfloat16`` for convolutions and products of the training steps in it, by autocast: on
        hardware that knows it a step takes about two thirds of the time, and a processor that does not is warned of.
        Weights, losses and validation stay as they are. None, the default, casts nothing.
    :param accumulate: batches whose gradients are averaged for one step of the optimizer, for large batches in little
        memory.
    :param compile: run the network through ``torch.compile``; on a CPU it was measured to be slower.
    :param verbose: show progress bars, or one line an epoch where there is no terminal.
    :raises ValueError: when the classifier has no optimizer, or one that needs a closure, and for another precision.
    :raises TypeError: when it is no ``PyTorchClassifier``, or the objective is none of ours.

    ``history`` holds one dictionary an epoch: ``epoch, loss, train_robust_accuracy, clean_accuracy, robust_accuracy,
    learning_rate, seconds``, accuracies in [0, 1], the middle two on validation data when there is some.
    """

    def __init__(
        self,
        classifier: Any,
        objective: Objective,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        seed: int = 0,
        precision: torch.dtype | str | None = None,
        accumulate: int = 1,
        compile: bool = False,  # noqa: A002
        verbose: bool = True,
    ) -> None:
        check_classifier(classifier)
        if not isinstance(objective, Objective):
            raise TypeError(
                f"`objective` must be an Objective such as Adversarial(attack), got "
                f"{type(objective).__name__}; wrap an attack as Adversarial(attack)"
            )
        if strangers := [type(c).__name__ for c in callbacks if not isinstance(c, Callback)]:
            raise TypeError(f"`callbacks` must hold objects of art_atmc.training.Callback, got {strangers}")
        precision = torch.bfloat16 if precision == "bf16" else precision
        if precision not in (None, torch.bfloat16):
            raise ValueError(
                f"`precision` must be torch.bfloat16 or None, got {precision}; float16 would need its losses scaled"
            )
        if precision and classifier.device.type == "cpu" and (slowdown := bfloat16_slowdown()) > SLOWER:
            warnings.warn(
                f"this processor only imitates bfloat16: a product took {slowdown:.1f} times as long as in float32; "
                "leave `precision` out",
                stacklevel=2,
            )
        accumulate = Whole(1, None, "it counts batches of a step").plain("accumulate", accumulate)
        super().__init__(classifier)
        self.objective = objective
        self.accumulate, self.compile = accumulate, compile
        self.precision = precision
        kept = [] if checkpoint is None else [Checkpoint(checkpoint, every=checkpoint_every)]
        self.callbacks: list[Callback] = [*kept, *callbacks]
        self.verbose = verbose
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self._generator = torch.Generator().manual_seed(seed)
        self._evaluated = kept_in_evaluation(classifier.model)

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        validation_data: Data | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: AnyRate | None = Hold(),  # noqa: B008
        augmentation: Augmentation | None = None,
        sample_weight: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        """Train on arrays.

        :param x: inputs, shape (n, \\*input_shape), within the classifier's clip values.
        :param y: labels, indices (n,) or one-hot (n, classes).
        :param validation_data: (x, y), or a loader of such batches, on which the best epoch is chosen; without it the
            last one is kept.
        :param batch_size: examples a step; the last, smaller batch is kept, and joins the one before it where it is a
            single example.
        :param nb_epochs: passes over the data.
        :param scheduler: the learning rate over the run: a shape of it (:mod:`art_atmc.training.rates`), any torch
            scheduler, or None for a constant rate. Torch's are stepped once an epoch, with the validation robust
            accuracy (or the loss) where they ask for a metric; ``OneCycleLR``, ``CyclicLR`` and what is wrapped as
            ``PerStep`` after each step.
        :param augmentation: changes the inputs of each training batch at random before the attack, such as
            :func:`art_atmc.training.crop_and_flip`.
        :param sample_weight: (n,) of the examples in the loss.
        :raises ValueError: for shapes, labels or values that don't fit, before anything is trained.
        :raises FloatingPointError: when the loss is no longer finite; weights, optimizer and all else are then as they
            were before the epoch.
        :raises TypeError: for arguments that are not known.
        """
        refuse_unknown(kwargs)
        if hasattr(x, "__iter__") and not hasattr(x, "shape") and not isinstance(x, list | tuple):
            raise TypeError(f"`x` must be an array, got a {type(x).__name__}; give loaders to fit_generator()")
        weights = None if sample_weight is None else torch.as_tensor(np.asarray(sample_weight, np.float32))
        if weights is not None:
            weighted(self._classifier.loss, weights)  # refuses a loss that takes none
        world = self._joined()
        data = arrays(self._classifier, x, y, "training")
        if drawn := drawing_defences(self._classifier):
            if weights is not None:
                raise ValueError(f"`sample_weight` has none for the examples that {drawn} draw; draw them beforehand")
            with isolated_randomness(draw_seed(self._generator)):
                data = augmented(self._classifier, *data)
        batches = ArrayBatches(*data, batch_size, augmentation, weights, world)
        self._train(batches, validation_data, nb_epochs, scheduler, world)

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int = 20,
        validation_data: Data | None = None,
        scheduler: AnyRate | None = Hold(),  # noqa: B008
        unpack: Unpack | None = None,
        steps_per_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Train on a torch ``DataLoader`` or an ART ``DataGenerator`` of batches (x, y); see :meth:`fit`.

        :param unpack: makes the pair (x, y) of what the loader yields, such as ``lambda batch: (batch["image"],
            batch["label"])``.
        :param steps_per_epoch: batches that count as an epoch, for a loader without a length.
        """
        refuse_unknown(kwargs)
        world = self._joined()
        batches = GeneratedBatches(self._classifier, generator, unpack, steps_per_epoch, world)
        self._train(batches, validation_data, nb_epochs, scheduler, world, unpack)

    def steps(self, examples: int, batch_size: int, nb_epochs: int) -> int:
        """Steps of the optimizer in a fit on arrays."""
        return nb_epochs * -(-number_of_batches(examples, batch_size, processes()) // self.accumulate)

    def predict(self, x: np.ndarray, **kwargs: Any) -> np.ndarray:
        """The classifier's outputs, shape (n, classes)."""
        return self._classifier.predict(x, **kwargs)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def watched(self, *callbacks: Callback) -> Iterator[None]:
        """Fits in this block have these callbacks too, after the trainer's own."""
        before = self.callbacks
        self.callbacks = [*before, *callbacks]
        try:
            yield
        finally:
            self.callbacks = before

    def _train(
        self,
        batches: Batches,
        validation_data: Data | None,
        nb_epochs: int,
        scheduler: AnyRate | None,
        world: World,
        unpack: Unpack | None = None,
    ) -> None:
        if nb_epochs < 1:
            raise ValueError(f"`nb_epochs` must be at least 1, got {nb_epochs}")
        classifier, device = self._classifier, self._classifier.device
        validation = _validation(classifier, validation_data, unpack, world)
        steps = None if batches.number is None else nb_epochs * -(-batches.number // self.accumulate)
        pace = Pace(scheduler, classifier.optimizer, nb_epochs, steps)
        with isolated_randomness(0):  # a loader draws from the global generators when it is asked
            sample = batches.sample()
        check_radius(self.objective.attack, sample, classifier.clip_values)
        run = Run(
            classifier,
            self.objective,
            pace,
            self._generator,
            torch.Generator(device),
            [c for c in self._watching() if world.main or not c.main_only],
            self.history,
            nb_epochs,
            batches.number,
            world=world,
            settings={
                "batches a step": str(self.accumulate),
                "data": batches.fingerprint,
                "validation data": "none" if validation is None else validation.fingerprint,
                "objective": described(self.objective),
                "seed": str(self.seed),
            },
            sums=torch.zeros(3, dtype=torch.float64, device="cpu" if device.type == "mps" else device),
        )
        if classifier.model.training:
            self._evaluated = kept_in_evaluation(classifier.model)
        world.broadcast_(tensor for tensor in classifier.model.state_dict().values())
        problem = Problem.of(classifier, Network(classifier, sample.to(device), compiled=self.compile), run.starts)
        evaluated = tuple(self._evaluated)
        Loop(run, problem, batches, validation, self.accumulate, self.precision, evaluated).train()

    def _joined(self) -> World:
        """The processes that train together, with the classifier on this one's device."""
        classifier = self._classifier
        if classifier.device.type == "cuda" and "LOCAL_RANK" in os.environ:
            # A script that is launched for every device builds its classifier on the first one.
            classifier._device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            classifier.model.to(classifier.device)
        return World.joined(classifier.device)

    def _watching(self) -> list[Callback]:
        return [*self.callbacks, BestEpoch(), LogLines(), *([ProgressBars()] if self.verbose else [])]


def _validation(classifier: Any, data: Data | None, unpack: Unpack | None, world: World) -> Batches | None:
    if data is None:
        return None
    if isinstance(data, tuple | list):
        if len(data) != 2:
            raise ValueError(f"`validation_data` must be a pair (x, y) or a loader, got {len(data)} parts")
        return ArrayBatches(*arrays(classifier, data[0], data[1], "validation"), 256, world=world)
    batches = GeneratedBatches(classifier, data, unpack, world=world)
    if batches.number is None:
        raise ValueError("`validation_data` must have a length: each epoch is validated on all of it; give arrays")
    return batches
