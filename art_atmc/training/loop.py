"""The training loop: minimises an objective over an ART classifier's weights; an ART trainer."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import torch
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from art_atmc.attacks.art import perturb
from art_atmc.attacks.base import Adversary, Problem, weighted
from art_atmc.classifiers.inputs import arrays, augmented, drawing_defences
from art_atmc.classifiers.labels import misclassified
from art_atmc.classifiers.modes import kept_in_evaluation
from art_atmc.classifiers.network import Network
from art_atmc.support.numbers import Whole
from art_atmc.support.randomness import draw_seed, isolated_randomness
from art_atmc.training.batches import ArrayBatches, Augmentation, Batches, GeneratedBatches, Unpack, number_of_batches
from art_atmc.training.callbacks import BestEpoch, Callback, LogLines, ProgressBars
from art_atmc.training.checkpoint import Checkpoint
from art_atmc.training.devices import World, processes
from art_atmc.training.objectives import Objective, described
from art_atmc.training.rates import AnyRate, Hold, Pace
from art_atmc.training.run import Run

__all__ = ["ObjectiveTrainer", "accuracy"]

logger = logging.getLogger(__name__)

Data: TypeAlias = "tuple[np.ndarray, np.ndarray] | Any"
"""(x, y), or a loader of such batches."""

CHECKED_EVERY = 50  # steps between two looks at whether the loss is finite: each makes a device wait


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
        hardware that knows it a step takes about two thirds of the time. Weights, losses and validation stay as they
        are. None, the default, casts nothing.
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
        _check_radius(self.objective.attack, sample, classifier.clip_values)
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
        try:
            for callback in run.callbacks:
                callback.on_train_start(run)
            if self.history and not run.step:  # a second fit: what is there already is a candidate
                self._validate(run, problem, validation)
            while run.epoch < nb_epochs and run.stopped is None:
                self._guarded_epoch(run, problem, batches, validation)
            for callback in run.callbacks:
                callback.on_train_end(run)
            pace.finish()
            classifier.model.eval()
        finally:
            for callback in run.callbacks:
                callback.close()

    def _guarded_epoch(self, run: Run, problem: Problem, batches: Batches, validation: Batches | None) -> None:
        """One epoch; where a number is no longer finite, all is put back to what it was before."""
        safe = run.safe_point()
        started = time.perf_counter()
        try:
            run.begin_epoch()
            # Seeded again each epoch, so that our one generator is all the random state between epochs.
            with isolated_randomness(draw_seed(run.generator)):
                row = self._epoch(run, problem, batches)
                row |= self._validate(run, problem, validation)
        except FloatingPointError:
            run.return_to(safe)
            raise
        row["learning_rate"] = self._classifier.optimizer.param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - started
        run.epoch, run.batch = run.epoch + 1, 0
        self.history.append({"epoch": len(self.history) + 1, **row})
        run.pace.after_epoch(row)
        for callback in run.callbacks:
            callback.on_epoch_end(run, self.history[-1])

    def _epoch(self, run: Run, problem: Problem, batches: Batches) -> dict[str, float]:
        run.starts.manual_seed(draw_seed(run.generator) + run.world.rank)
        stream = batches.epoch(run.generator)
        for _ in itertools.islice(stream, run.batch):  # a run that goes on within the epoch
            pass
        run.reach_position()
        for callback in run.callbacks:
            callback.on_epoch_start(run)
        for batch in stream:
            x, y = batch.x.to(problem.classifier.device), batch.y.to(problem.classifier.device)
            weights = None if batch.weights is None else batch.weights.to(x)
            try:
                self._step(run, problem.at(batch.rows, weights), x, y, batch.share)
                if run.batch % CHECKED_EVERY == 0:
                    self._require_finite(run)
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"epoch {len(self.history) + 1}, batch {run.batch}: {error}. The weights are those from before "
                    "this epoch"
                ) from error
            for callback in run.callbacks:
                callback.on_batch_end(run)
            if run.stopped is not None:
                break
        if run.accumulating:  # the end of a loader without a length
            self._update(run)
        if not run.batch:
            raise ValueError("the data yielded no batch; give at least one example")
        try:
            self._require_finite(run)
            if not all(p.isfinite().all() for p in problem.network.parameters()):
                raise FloatingPointError("the last step made the weights infinite or NaN; lower the learning rate")
        except FloatingPointError as error:
            raise FloatingPointError(
                f"epoch {len(self.history) + 1}: {error}. The weights are those from before this epoch"
            ) from error
        run.world.average_(b for b in self._classifier.model.buffers() if b.is_floating_point())
        run.world.check_equal(self._classifier.model.parameters())
        loss, correct, seen = run.world.summed(run.sums).tolist()
        return {"loss": loss / seen, "train_robust_accuracy": correct / seen}

    def _step(self, run: Run, problem: Problem, x: Tensor, y: Tensor, share: float) -> None:
        """The gradient of one batch, and a step of the optimizer where it completes one."""
        first = run.batch - run.batch % self.accumulate
        together = self.accumulate if run.batches is None else min(self.accumulate, run.batches - first)
        if run.batch == first:
            run.pace.before_step(run.step, run.epoch)
        run.batch += 1
        run.accumulating = run.batch - first < together
        problem.network.train()
        for layer in self._evaluated:
            layer.training = False
        torch.clear_autocast_cache()  # under an autocast of the caller's it would still hold the last step's weights
        cast = contextlib.nullcontext() if self.precision is None else torch.autocast(x.device.type, self.precision)
        with cast:
            loss, logits = self.objective(problem, x, y)
        if run.batch - 1 == first:
            self._classifier.optimizer.zero_grad()
        (loss if share == together == 1 else loss * (share / together)).backward()
        if not run.accumulating:
            self._update(run)
        with torch.no_grad():
            correct = (~misclassified(logits, y)).sum()
            run.sums += torch.stack([loss.detach() * len(x), correct, torch.full_like(correct, len(x))]).to(run.sums)

    def _update(self, run: Run) -> None:
        optimizer = self._classifier.optimizer
        run.step += 1
        run.accumulating = False
        run.world.average_(p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
        for callback in run.callbacks:
            callback.on_gradients(run)
        optimizer.step()
        run.pace.after_step()

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

    def _require_finite(self, run: Run) -> None:
        if not np.isfinite(value := float(run.world.summed(run.sums)[0])):
            raise FloatingPointError(f"the loss became {value}; lower the learning rate or clip gradients")

    def _validate(self, run: Run, problem: Problem, validation: Batches | None) -> dict[str, float]:
        """Figures of the weights as they would be shipped, the accuracies on validation data where there is some."""
        row: dict[str, float] = {}
        with contextlib.ExitStack() as shipped:
            for callback in run.callbacks:
                row |= shipped.enter_context(callback.validating(run))
            if validation is not None:
                # The same random starts every epoch, so that epochs differ by their weights alone.
                starts = torch.Generator(self._classifier.device).manual_seed(0)
                fixed_starts = Problem.of(self._classifier, problem.network, starts)
                attack = _without_memory(self.objective.attack)
                correct, run.validated = _counted(fixed_starts, validation, None, run.world)
                robust, _ = _counted(fixed_starts, validation, attack, run.world)
                row |= {"clean_accuracy": correct / run.validated, "robust_accuracy": robust / run.validated}
            for callback in run.callbacks:
                callback.on_validation(run, row)
        return row


def accuracy(problem: Problem, batches: Batches, attack: Any = None) -> float:
    """Share of the examples that the network classifies correctly, under ``attack`` where one is given."""
    correct, seen = _counted(problem, batches, attack, World())
    return correct / seen


def _counted(problem: Problem, batches: Batches, attack: Any, world: World) -> tuple[int, int]:
    """Examples that are classified correctly, and all of them, over all processes."""
    counts = torch.zeros(2, dtype=torch.float64)
    for batch in batches.epoch(None):
        x, y = batch.x.to(problem.classifier.device), batch.y.to(problem.classifier.device)
        if attack is not None:
            x = perturb(problem, attack, x, y)
        counts += torch.tensor([int((~misclassified(problem.answers(x), y)).sum()), len(x)])
    correct, seen = world.summed(counts).tolist()
    return int(correct), int(seen)


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


def _without_memory(attack: Any) -> Any:
    return attack.without_memory() if isinstance(attack, Adversary) else attack


def _check_radius(attack: Any, sample: Tensor, clip_values: Any) -> None:
    """Say when radius and data can hardly have one scale."""
    eps = getattr(attack, "eps", None)
    if clip_values is None or not isinstance(eps, int | float | np.number):
        return
    span = float(np.max(clip_values[1])) - float(np.min(clip_values[0]))
    if eps >= span or eps < span / 2000:
        warnings.warn(
            f"the attack's radius {eps:.4g} is {'at least the whole' if eps >= span else 'less than 1/2000 of the'} "
            f"range of the inputs, {span:.4g}; are both in the same units, [0, 1] or [0, 255]?",
            stacklevel=4,
        )
