"""The training loop: minimises an objective over an ART classifier's weights; an ART trainer."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, final

import numpy as np
import torch
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor
from tqdm.auto import tqdm

from art_atmc.attacks.art import perturb
from art_atmc.attacks.base import Adversary, Problem
from art_atmc.classifiers.inputs import arrays
from art_atmc.classifiers.labels import misclassified
from art_atmc.classifiers.network import Network
from art_atmc.support.randomness import draw_seed, isolated_randomness
from art_atmc.training.batches import ArrayBatches, Augmentation, Batches, GeneratedBatches
from art_atmc.training.objectives import Objective

__all__ = ["ObjectiveTrainer", "Scheduler", "accuracy"]

logger = logging.getLogger(__name__)

Arrays: TypeAlias = tuple[np.ndarray, np.ndarray]
Shipped: TypeAlias = Callable[[], AbstractContextManager[Mapping[str, float]]]


class Scheduler(Protocol):
    """Any torch learning-rate scheduler, stepped once an epoch."""

    def step(self, *args: Any) -> None: ...


@final
class ObjectiveTrainer(Trainer):  # type: ignore[misc]
    r"""Stochastic gradient descent on an objective, as an ART trainer.

    .. math:: \theta \leftarrow \text{optimizer}\bigl(\nabla_\theta\, \text{objective}(\theta; x, y)\bigr)

    Differs from ART's trainers in that batches stay tensors, native attacks run without numpy, images go
    channels-last, and validation is honest: the weights of the epoch with the best *validation* robust accuracy are
    kept (ties: better clean accuracy), measured on the weights as they would be shipped.

    During the attack the network is in evaluation mode: batch normalisation uses its running statistics and does not
    update them, dropout is off. So the attack finds the weakness of the network that will be deployed, and the running
    statistics are those of the examples that are trained on. The loss is then taken in training mode.

    :param classifier: an ART ``PyTorchClassifier`` with an optimizer; trained in place.
    :param objective: what to minimise, such as :class:`~art_atmc.Adversarial` or :class:`~art_atmc.TRADES`.
    :param seed: of everything random here: order of the data, random starts, and the global generators (dropout, ART's
        own attacks), which are set aside during a fit and put back afterwards.
    :param verbose: show progress bars.
    :raises ValueError: when the classifier has no optimizer.
    :raises TypeError: when it is no ``PyTorchClassifier``, or the objective is none of ours.

    ``history`` holds one dictionary an epoch: ``epoch, loss, train_robust_accuracy, clean_accuracy, robust_accuracy,
    learning_rate, seconds``, accuracies in [0, 1], the middle two on validation data when there is some.
    """

    def __init__(self, classifier: Any, objective: Objective, *, seed: int = 0, verbose: bool = True) -> None:
        check_classifier(classifier)
        if not isinstance(objective, Objective):
            raise TypeError(
                f"`objective` must be an Objective such as Adversarial(attack), got "
                f"{type(objective).__name__}; wrap an attack as Adversarial(attack)"
            )
        super().__init__(classifier)
        self.objective = objective
        self.verbose = verbose
        self.history: list[dict[str, float]] = []
        self._generator = torch.Generator().manual_seed(seed)
        self._shipped: Shipped = lambda: contextlib.nullcontext({})

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        validation_data: Arrays | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: Scheduler | None = None,
        augmentation: Augmentation | None = None,
        **kwargs: Any,
    ) -> None:
        """Train on arrays.

        :param x: inputs, shape (n, \\*input_shape), within the classifier's clip values.
        :param y: labels, indices (n,) or one-hot (n, classes).
        :param validation_data: (x, y) on which the best epoch is chosen; without it the last one is kept.
        :param batch_size: examples a step; the last, smaller batch is kept.
        :param nb_epochs: passes over the data.
        :param scheduler: any torch scheduler; stepped once an epoch, with the validation robust accuracy (or the loss)
            where it asks for a metric.
        :param augmentation: changes the inputs of each training batch at random before the attack, such as
            :func:`art_atmc.training.augmentation.crop_and_flip`.
        :raises ValueError: for shapes, labels or values that don't fit, before anything is trained.
        :raises FloatingPointError: when the loss is no longer finite; the weights are then the last good ones.
        :raises TypeError: for arguments that are not known.
        """
        refuse_unknown(kwargs)
        batches = ArrayBatches(*arrays(self._classifier, x, y, "training"), batch_size, augmentation)
        self._train(batches, validation_data, nb_epochs, scheduler)

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int = 20,
        validation_data: Arrays | None = None,
        scheduler: Scheduler | None = None,
        **kwargs: Any,
    ) -> None:
        """Train on a torch ``DataLoader`` or an ART ``DataGenerator`` of batches (x, y); see :meth:`fit`."""
        refuse_unknown(kwargs)
        self._train(GeneratedBatches(self._classifier, generator), validation_data, nb_epochs, scheduler)

    def predict(self, x: np.ndarray, **kwargs: Any) -> np.ndarray:
        """The classifier's outputs, shape (n, classes)."""
        return self._classifier.predict(x, **kwargs)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def shipping(self, shipped: Shipped) -> Iterator[None]:
        """For fits in this block: validate, and choose the best weights, within ``shipped()``, which turns the weights
        into what would be shipped and yields figures for the history."""
        before, self._shipped = self._shipped, shipped
        try:
            yield
        finally:
            self._shipped = before

    def _train(
        self, batches: Batches, validation_data: Arrays | None, nb_epochs: int, scheduler: Scheduler | None
    ) -> None:
        if nb_epochs < 1:
            raise ValueError(f"`nb_epochs` must be at least 1, got {nb_epochs}")
        if scheduler is not None and not callable(getattr(scheduler, "step", None)):
            raise TypeError(f"`scheduler` must have a method step(), got {type(scheduler).__name__}")
        validation = None
        if validation_data is not None:
            validation = ArrayBatches(*arrays(self._classifier, *validation_data, "validation"), 256)
        model, device = self._classifier.model, self._classifier.device
        network = Network(self._classifier, batches.sample().to(device))
        best: tuple[tuple[float, float], dict[str, Tensor]] | None = None
        epochs = tqdm(range(nb_epochs), desc="Epochs", disable=not self.verbose)
        for _ in epochs:
            good = _snapshot(model)
            started = time.perf_counter()
            try:
                # Seeded anew each epoch, so that our one generator is all the random state between epochs.
                with isolated_randomness(draw_seed(self._generator)):
                    row = self._epoch(network, batches)
                    with self._shipped() as figures:
                        row |= figures
                        if validation is not None:
                            row |= self._validate(network, validation)
                            rank = row["robust_accuracy"], row["clean_accuracy"]
                            if best is None or rank > best[0]:
                                best = rank, _snapshot(model)
            except FloatingPointError:
                model.load_state_dict(good)
                raise
            row["learning_rate"] = self._classifier.optimizer.param_groups[0]["lr"]
            row["seconds"] = time.perf_counter() - started
            self.history.append({"epoch": len(self.history) + 1, **row})
            _advance(scheduler, row)
            epochs.set_postfix({key: f"{row[key]:.3f}" for key in ("loss", "robust_accuracy") if key in row})
            logger.info("epoch %s", self.history[-1])
        if best is not None:
            model.load_state_dict(best[1])
        model.eval()

    def _epoch(self, network: Network, batches: Batches) -> dict[str, float]:
        device = self._classifier.device
        problem = Problem.of(self._classifier, network, _generator(device, draw_seed(self._generator)))
        total = correct = seen = 0.0
        bar = tqdm(
            batches.epoch(self._generator), total=len(batches), desc="Batches", leave=False, disable=not self.verbose
        )
        for number, batch in enumerate(bar, start=1):
            x, y = batch.x.to(device), batch.y.to(device)
            try:
                loss, hits = self._step(problem.at(batch.rows), x, y)
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"epoch {len(self.history) + 1}, batch {number}: {error}. "
                    "The weights are those from before this epoch"
                ) from error
            total += loss * len(x)
            correct += hits
            seen += len(x)
        if not seen:
            raise ValueError("the data yielded no batch; give at least one example")
        if not all(p.isfinite().all() for p in network.parameters()):
            raise FloatingPointError(
                f"epoch {len(self.history) + 1}: the last step made the weights infinite or NaN; lower the learning "
                "rate. The weights are those from before this epoch"
            )
        return {"loss": total / seen, "train_robust_accuracy": correct / seen}

    def _step(self, problem: Problem, x: Tensor, y: Tensor) -> tuple[float, int]:
        """One batch: the loss, and the number of adversarial examples classified rightly."""
        problem.network.train()
        loss, logits = self.objective(problem, x, y)
        if not np.isfinite(value := loss.item()):
            raise FloatingPointError(f"the loss became {value}; lower the learning rate or clip gradients")
        optimizer = self._classifier.optimizer
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return value, int((~misclassified(logits, y)).sum())

    def _validate(self, network: Network, validation: Batches) -> dict[str, float]:
        # The same random starts every epoch, so that epochs differ by their weights alone.
        problem = Problem.of(self._classifier, network, _generator(self._classifier.device, 0))
        attack = self.objective.attack
        if isinstance(attack, Adversary):
            attack = attack.without_memory()
        return {
            "clean_accuracy": accuracy(problem, validation),
            "robust_accuracy": accuracy(problem, validation, attack),
        }


def accuracy(problem: Problem, batches: Batches, attack: Any = None) -> float:
    """Share of the examples that the network classifies rightly, under ``attack`` where one is given."""
    correct = seen = 0
    for x, y, *_ in batches.epoch(None):
        x, y = x.to(problem.classifier.device), y.to(problem.classifier.device)
        if attack is not None:
            x = perturb(problem, attack, x, y)
        correct += int((~misclassified(problem.answers(x), y)).sum())
        seen += len(x)
    return correct / seen


def check_classifier(classifier: Any) -> None:
    """Refuse what can't be trained here.

    :raises TypeError: unless ``classifier`` is an ART ``PyTorchClassifier``.
    :raises ValueError: when it has no optimizer.
    """
    if not isinstance(classifier, PyTorchClassifier):
        raise TypeError(
            f"`classifier` must be an ART PyTorchClassifier, got {type(classifier).__name__}; wrap the torch "
            "module as PyTorchClassifier(model, loss, input_shape, nb_classes, optimizer=optimizer)"
        )
    if classifier.optimizer is None:
        raise ValueError(
            "the classifier has no optimizer, which training needs; build it with "
            "PyTorchClassifier(..., optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))"
        )


def refuse_unknown(arguments: Mapping[str, Any]) -> None:
    if arguments:
        raise TypeError(
            f"fit() got the unknown arguments {sorted(arguments)}; ART's trainers would ignore them silently"
        )


def _generator(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def _snapshot(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _advance(scheduler: Scheduler | None, row: Mapping[str, float]) -> None:
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        # It watches for a minimum unless told otherwise, so it gets the loss; in mode "max" the accuracy.
        scheduler.step(row["loss"] if scheduler.mode == "min" else row.get("robust_accuracy", -row["loss"]))
    elif scheduler is not None:
        scheduler.step()
