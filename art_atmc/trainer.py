"""ATMC in one object: an ART trainer that hands back a small and robust classifier."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from pydantic import JsonValue
from sklearn.exceptions import NotFittedError
from torch import nn

from art_atmc.classifiers.compressed import CompressedClassifier
from art_atmc.compression.constraints import Constraint
from art_atmc.compression.enforcement import enforced, rehearse
from art_atmc.compression.factors import check_decomposable, decompose, decomposed, factors_of
from art_atmc.compression.schedule import Ramp, Tightening
from art_atmc.compression.solver import Solver, SolverFactory
from art_atmc.compression.solvers import default_solver
from art_atmc.compression.weights import Weights, compressible, empty_layers
from art_atmc.files.encodable import check_encodable
from art_atmc.files.model import CompressedModel
from art_atmc.plugins import parse
from art_atmc.training.admission import check_classifier
from art_atmc.training.callbacks import Callback
from art_atmc.training.constrained import Shipped
from art_atmc.training.devices import processes
from art_atmc.training.objective_trainer import ObjectiveTrainer
from art_atmc.training.objectives import Adversarial, Objective

__all__ = ["ATMCTrainer"]

ENOUGH_STEPS = 200  # after which a network that learns at all has left the loss of guessing


@final
class ATMCTrainer(Trainer):  # type: ignore[misc]
    r"""Adversarially trained model compression (Gui et al., NeurIPS 2019) as an ART trainer.

    .. math::

        \min_\theta\; \mathbb{E} \max_{x' \in B(x, \epsilon)} f(\theta; x', y) \quad \text{s.t. every constraint}

        \theta = \{U_l, V_l, C_l\}, \quad W_l = (I + U_l) V_l + C_l

    Fitting factors the classifier's weights in place, points its optimizer at the factors, trains with the constraints
    enforced after every step, and ends on weights that obey all of them exactly. A second fit goes on from there, with
    the constraints in full from its first step.

    :param classifier: an ART ``PyTorchClassifier`` with an optimizer. It is trained in place, as by ART's trainers.
    :param attack: an ART evasion attack, one of our adversaries, or an objective built on one; not needed with
        ``trainer``.
    :param constraints: what the weights must obey, such as ``[Sparsity(density=0.05), Quantization(bits=4)]``, or by
        name, as in ``["sparsity:density=0.05"]`` (:func:`art_atmc.plugins.parse`); one of a kind.
    :param trainer: any ART trainer around the same classifier, to be used in place of our loop.
    :param schedule: how the constraints tighten over the run.
    :param ignore: patterns of layers that stay dense, see :func:`~art_atmc.compressible`.
    :param factored: train W = (I + U)V + C; with False the weights themselves. What factors gain at which density was
        measured, see the method page.
    :param solver: builds the solver of a constraint from (weights, constraint, ramp).
    :param callbacks: of our loop, see :class:`art_atmc.training.Callback`.
    :param checkpoint: folder of this fit's checkpoints, from which an interrupted fit goes on when it is called again
        (:class:`art_atmc.training.Checkpoint`).
    :param checkpoint_every: optimizer steps between two of them; None for one an epoch.
    :param precision: of our loop: ``"bf16"`` for training steps in bfloat16; the constraints stay exact.
    :param accumulate: of our loop: batches whose gradients are averaged for one step.
    :param compile: of our loop: run the network through ``torch.compile``.
    :param seed: of our loop, see :class:`~art_atmc.ObjectiveTrainer`.
    :param verbose: show our loop's progress bars.
    :raises TypeError: for a classifier, attack, trainer or constraint of the wrong kind.
    :raises ValueError: when the classifier has no optimizer, the model no compressible weight, an ignore pattern no
        match, the constraints contradict one another or can't hold together, or the network is one that
        :meth:`compress` could not store.
    """

    def __init__(
        self,
        classifier: Any,
        attack: Any = None,
        constraints: Sequence[Constraint | str] = (),
        *,
        trainer: Trainer | None = None,
        schedule: Tightening | None = None,
        ignore: Sequence[str] = (),
        factored: bool = True,
        solver: SolverFactory = default_solver,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        precision: str | None = None,
        accumulate: int = 1,
        compile: bool = False,  # noqa: A002
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        check_classifier(classifier)
        self.constraints = _constraints(constraints)
        super().__init__(classifier)
        if (attack is None) == (trainer is None):
            raise TypeError("give either an `attack`, which our loop trains against, or a `trainer` that has its own")
        if trainer is None:
            objective = attack if isinstance(attack, Objective) else Adversarial(attack)
            trainer = ObjectiveTrainer(
                classifier,
                objective,
                callbacks=callbacks,
                checkpoint=checkpoint,
                checkpoint_every=checkpoint_every,
                precision=precision,
                accumulate=accumulate,
                compile=compile,
                seed=seed,
                verbose=verbose,
            )
        elif checkpoint is not None or callbacks or precision is not None or accumulate != 1 or compile:
            raise TypeError(
                "`checkpoint`, `callbacks`, `precision`, `accumulate` and `compile` are of our loop, and "
                f"{type(trainer).__name__} has its own; give them to it where it takes them"
            )
        if not isinstance(trainer, Trainer) or trainer.get_classifier() is not classifier:
            raise TypeError(
                "`trainer` must be an ART trainer around the same classifier object, got "
                f"{type(trainer).__name__}; build both with one PyTorchClassifier"
            )
        if processes() > 1 and not isinstance(trainer, ObjectiveTrainer):
            raise ValueError(
                f"{type(trainer).__name__} knows nothing of other processes, so that each would train a network of its "
                "own; launch one process, or give the attack to our loop"
            )
        self.trainer = trainer
        self.schedule = schedule or Tightening()
        self.ignore = tuple(ignore)
        self.factored = factored
        self.solvers: list[Solver] = []
        self._solver = solver
        self._robust: PyTorchClassifier | None = None
        weights = compressible(classifier.model, self.ignore)
        if factored:
            check_decomposable(classifier.model, weights)
            weights = factors_of(weights, decomposed(classifier.model))
        for constraint in self.constraints:
            constraint.check(weights)
        check_encodable(classifier.model, self.ignore, decompose=factored)
        rehearse(self.constraints, _untrained(classifier.model, self.ignore, factored))

    @property
    def history(self) -> list[dict[str, float]]:
        """One dictionary an epoch; empty around a trainer that keeps none."""
        return getattr(self.trainer, "history", [])

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        **kwargs: Any,
    ) -> None:
        """Train on arrays until every constraint holds.

        :param x: inputs, shape (n, \\*input_shape), within the classifier's clip values.
        :param y: labels, indices (n,) or one-hot (n, classes).
        :param validation_data: (x, y) on which our loop chooses the best epoch.
        :param batch_size: examples a step.
        :param nb_epochs: passes over the data; the schedule's shares refer to them.
        :param kwargs: further arguments of the trainer's ``fit``, such as ``scheduler``.
        :raises RuntimeError: when the constraints can't hold together, or the trainer does not use the classifier's
            optimizer.

        Errors of the data and the loss are those of :meth:`art_atmc.ObjectiveTrainer.fit`.
        """
        if validation_data is not None:
            kwargs["validation_data"] = validation_data
        ours, number = isinstance(self.trainer, ObjectiveTrainer), _count(x)
        if ours:
            steps = self.trainer.steps(number, batch_size, nb_epochs)
        else:
            steps = nb_epochs * -(-number // max(batch_size, 1))
        with self._compressing(steps):
            self.trainer.fit(x, y, batch_size=batch_size, nb_epochs=nb_epochs, **kwargs)

    def fit_generator(self, generator: Any, nb_epochs: int = 20, **kwargs: Any) -> None:
        """Train on a torch ``DataLoader`` or an ART ``DataGenerator``; see :meth:`fit`.

        :raises ValueError: for a loader without a length and without ``steps_per_epoch``, which the schedule needs.
        """
        try:
            batches = kwargs.get("steps_per_epoch") or (
                len(generator) if hasattr(generator, "__len__") else -(-generator.size // generator.batch_size)
            )
        except TypeError:
            raise ValueError(
                "the loader has no length, which the schedule of the constraints needs; give steps_per_epoch=, the "
                "batches that count as an epoch"
            ) from None
        if isinstance(self.trainer, ObjectiveTrainer):
            batches = -(-(batches // processes()) // self.trainer.accumulate)
        with self._compressing(nb_epochs * batches):
            self.trainer.fit_generator(generator, nb_epochs=nb_epochs, **kwargs)

    def get_classifier(self) -> PyTorchClassifier:
        """The small and robust classifier, a :class:`~art_atmc.CompressedClassifier`; before the first :meth:`fit` the
        one that was given. A subclass of ``PyTorchClassifier``, which may have methods of its own, keeps its class.
        """
        return self._classifier if self._robust is None else self._robust

    def compress(
        self,
        *,
        network: str | None = None,
        metrics: Mapping[str, JsonValue] | None = None,
        mantissa_bits: int | None = None,
    ) -> CompressedModel:
        """The compressed classifier as a file to be: every constraint holds in it, exactly.

        :param network: the network's name in :data:`art_atmc.networks.NETWORKS`, where it is one of them.
        :param metrics: figures to keep in the file, such as accuracies.
        :param mantissa_bits: round what the constraints leave alone, see :meth:`art_atmc.CompressedModel.of`.
        :raises NotFittedError: before the first :meth:`fit`.
        :raises ValueError: naming the constraints that do not hold, as after further training elsewhere.
        """
        if self._robust is None:
            raise NotFittedError("there is no compressed classifier yet; call fit() first")
        return CompressedModel.of(
            self._robust,
            self.constraints,
            ignore=self.ignore,
            network=network,
            metrics=metrics,
            mantissa_bits=mantissa_bits,
        )

    def predict(self, x: np.ndarray, **kwargs: Any) -> np.ndarray:
        """The outputs of :meth:`get_classifier`, shape (n, classes)."""
        return self.get_classifier().predict(x, **kwargs)

    @contextlib.contextmanager
    def _compressing(self, steps: int) -> Iterator[None]:
        classifier = self._classifier
        optimizer = classifier.optimizer
        if self.factored:
            decompose(classifier.model, self.ignore, optimizer)
            # ART's AWP trainer keeps a second classifier whose weights it loads from the first.
            if (proxy := getattr(self.trainer, "_proxy_classifier", None)) is not None:
                decompose(proxy.model, self.ignore, proxy.optimizer)
        weights = compressible(classifier.model, self.ignore)
        ramps = self.schedule.support_ramp(steps), self.schedule.codebook_ramp(steps)
        if self._robust is not None:  # a second fit goes on: loosened constraints would undo the first
            ramps = Ramp(), Ramp()
        self.solvers = [self._solver(weights, c, ramps[c.coded]) for c in self.constraints]
        with contextlib.ExitStack() as stack:
            stack.enter_context(enforced(optimizer, self.solvers))
            if isinstance(self.trainer, ObjectiveTrainer):
                stack.enter_context(
                    self.trainer.watched(Shipped(self.solvers, math.log(max(classifier.nb_classes, 2))))
                )
            yield
            if classifier.optimizer is not optimizer:
                raise RuntimeError(
                    f"{type(self.trainer).__name__} replaced the classifier's optimizer, so the "
                    "constraints were not enforced to the end; use another trainer"
                )
        self._warn_of_short_run()
        self._warn_of_dead_layers(weights)
        classifier.model.eval()
        own = type(classifier) not in (PyTorchClassifier, CompressedClassifier)
        self._robust = classifier if own else CompressedClassifier.of(classifier)

    def _warn_of_short_run(self) -> None:
        if late := [s.constraint for s in self.solvers if s.steps < max(s.ramp.end, s.ramp.start + 1)]:
            warnings.warn(
                f"the trainer made only {self.solvers[0].steps} steps, so {late} acted in full at the end only; "
                "give fit() the trainer's own nb_epochs and batch_size",
                stacklevel=4,
            )

    def _warn_of_dead_layers(self, weights: Weights) -> None:
        if dead := empty_layers(weights):
            warnings.warn(
                f"no weight is left in {', '.join(dead)}, so nothing of the input passes there: raise the density, or "
                "`ignore` these layers",
                stacklevel=4,
            )
        losses = [row["loss"] for row in self.history if "loss" in row]
        long = any(solver.steps >= ENOUGH_STEPS for solver in self.solvers)
        if long and losses and min(losses) > 0.95 * math.log(self._classifier.nb_classes):
            warnings.warn(
                f"the loss never left ln({self._classifier.nb_classes}), that of guessing: the network learned "
                "nothing. Begin to tighten later, as schedule=Tightening(support=(0.5, 0.85), codebook=0.85), train "
                "for more epochs, or at another learning rate",
                stacklevel=4,
            )


def _untrained(model: nn.Module, ignore: Sequence[str], factored: bool) -> Weights:
    """A copy of what will be trained."""
    weights = compressible(model, ignore).clone()
    return factors_of(weights, decomposed(model), device=None) if factored else weights


def _count(x: Any) -> int:
    try:
        return len(x)
    except TypeError:
        raise TypeError(f"`x` must be an array, got a {type(x).__name__}; give loaders to fit_generator()") from None


def _constraints(given: Sequence[Constraint | str]) -> tuple[Constraint, ...]:
    """The constraints, those by name built."""
    if isinstance(given, Constraint | str):
        raise TypeError(f"`constraints` must be a list, got {given!r}; write constraints=[{given!r}]")
    constraints = [parse(c) if isinstance(c, str) else c for c in given]
    if strangers := [type(c).__name__ for c in constraints if not isinstance(c, Constraint)]:
        raise TypeError(f"`constraints` must hold Constraint objects such as Sparsity(density=0.05), got {strangers}")
    kinds = [type(c) for c in constraints]
    if double := sorted({k.__name__ for k in kinds if kinds.count(k) > 1}):
        raise ValueError(f"the constraints contradict one another: more than one {double}; give one of a kind")
    return tuple(constraints)
