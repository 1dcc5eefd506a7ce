"""TargetTrainer: ATMC for those who know what they need, and not how many weights that takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier

from art_atmc import PGD, ATMCTrainer, CompressedModel, Constraint, Sparsity, Tightening, Weights, compressible
from art_atmc.classifiers import arrays
from art_atmc.compression import finalize, project
from art_atmc.plugins import parse
from art_atmc.training import Objective
from art_atmc_distortion.control import Controller, FitsController, SmallestController
from art_atmc_distortion.knob import Knob, Steered
from art_atmc_distortion.rate import encoded_bytes, largest_within
from art_atmc_distortion.targets import Fits, InfeasibleError, Smallest, Target

__all__ = ["TargetTrainer"]


@final
class TargetTrainer(Trainer):  # type: ignore[misc]
    r"""ATMC where the target is given, and the density is found in one training run.

    .. math:: \min_\theta \|\theta\|_0 \;\text{ s.t. }\; m(\theta) \le c \qquad \text{or} \qquad
              \min_\theta f(\theta) \;\text{ s.t. }\; \mathrm{bytes}(\theta) \le B

    Training begins dense. Once an epoch the network is measured on validation data as it would be shipped, and the
    density is moved; for a bound it is the mean of the epoch's weights that is measured and shipped, for a file the
    weights themselves. The network that is kept is the smallest that met the target, or the most robust that fits. The
    target holds on the validation data; on other data within what these few examples can tell.

    :param classifier: an ART ``PyTorchClassifier`` with an optimizer; trained in place.
    :param attack: an ART evasion attack, one of our adversaries, or an objective built on one.
    :param target: :class:`~art_atmc_distortion.Smallest` or :class:`~art_atmc_distortion.Fits`.
    :param constraints: what else the weights must obey, such as ``[Quantization(bits=4)]``; not a sparsity.
    :param codebook: share of the run after which codebooks act, in [0, 1). Earlier than in a run of known density: what
        is measured is with codes from the start.
    :param options: of :class:`art_atmc.ATMCTrainer`: ``ignore``, ``factored``, ``callbacks``, ``seed`` and others.
    :raises TypeError: for another target, and for options that belong to the target.
    :raises ValueError: for a constraint that says the size too, and for a file that is too small for any network or
        larger than the dense one; and as ``ATMCTrainer``.

    ``constraints`` holds, after :meth:`fit`, what was achieved: ``Sparsity`` first. ``history`` has the figures of each
    epoch, with ``density`` and, for a file, ``file_bytes``.
    """

    def __init__(
        self,
        classifier: Any,
        attack: Any,
        target: Target,
        constraints: Sequence[Constraint | str] = (),
        *,
        codebook: float = 0.15,
        network: str | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(target, Smallest | Fits):
            raise TypeError(f"`target` must be Smallest(...) or Fits(...), got {type(target).__name__}")
        if taken := sorted({"schedule", "trainer", "solver"} & options.keys()):
            raise TypeError(f"{taken} belong to the target, which moves the density itself; leave them out")
        if offering := [type(c).__name__ for c in options.get("callbacks", ()) if c.alternative is not None]:
            raise TypeError(f"{offering} offer other weights than those that the target is measured on; leave them out")
        others = [parse(c) if isinstance(c, str) else c for c in constraints]
        if double := [c for c in others if isinstance(c, Constraint) and not c.coded]:
            raise ValueError(
                f"{double} say how many weights are left, and so does the target {target}; give one of them"
            )
        super().__init__(classifier)
        self.target = target
        self.network = network
        self._knob = Knob()
        self._others = tuple(others)
        self._trainer = ATMCTrainer(
            classifier,
            attack,
            [Steered(self._knob), *others],
            schedule=Tightening(support=(0.0, 0.0), codebook=codebook),
            **options,
        )
        self._attack = attack.attack if isinstance(attack, Objective) else attack
        self._warn_of_weak_attack()
        self._callbacks = list(options.get("callbacks", ()))
        if isinstance(target, Fits):
            self._check_bytes(target)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What the weights obey: after :meth:`fit` the density that was found, and the constraints that were given."""
        return Sparsity(self._knob.density), *self._others

    @property
    def history(self) -> list[dict[str, float]]:
        """One dictionary an epoch."""
        return self._trainer.history

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        **kwargs: Any,
    ) -> None:
        """Train until the target is met.

        :param validation_data: (x, y) on which it is measured; required.
        :raises ValueError: without validation data, and as :meth:`art_atmc.ATMCTrainer.fit`.
        :raises InfeasibleError: a ``ValueError``: when the dense network does not reach the target by the end of the
            warm-up, or no epoch does.
        """
        if validation_data is None:
            raise ValueError("`validation_data` must be given: the target is measured on it once an epoch")
        if self._trainer.solvers:
            raise ValueError("a TargetTrainer fits once; build another one to train on")
        controller = self._controller(validation_data)
        callbacks = self._trainer.trainer.callbacks
        callbacks.insert(len(callbacks) - len(self._callbacks), controller)
        try:
            self._trainer.fit(x, y, batch_size=batch_size, nb_epochs=nb_epochs, **kwargs)
        finally:
            callbacks.remove(controller)
        if isinstance(self.target, Fits):
            self._trim(self.target.file_bytes)
        self._trainer.constraints = self.constraints

    def fit_generator(self, generator: Any, nb_epochs: int = 20, **kwargs: Any) -> None:
        """Not offered: the target needs validation data in memory."""
        raise NotImplementedError("a target is measured on arrays; use fit()")

    def get_classifier(self) -> PyTorchClassifier:
        """The small and robust classifier."""
        return self._trainer.get_classifier()

    def compress(self, **options: Any) -> CompressedModel:
        """The classifier as a file to be; see :meth:`art_atmc.ATMCTrainer.compress`."""
        return self._trainer.compress(**{"network": self.network, **options})

    def predict(self, x: np.ndarray, **kwargs: Any) -> np.ndarray:
        """The outputs of :meth:`get_classifier`, shape (n, classes)."""
        return self._trainer.predict(x, **kwargs)

    def _controller(self, validation_data: tuple[np.ndarray, np.ndarray]) -> Controller:
        classifier, target = self._classifier, self.target
        validation = arrays(classifier, *validation_data, "validation")
        attack = self._attack if target.attack is None else target.attack
        controlled = self._knob, validation, attack, self._weights
        if isinstance(target, Smallest):
            return SmallestController(target, lambda: finalize(self._trainer.solvers), *controlled)
        return FitsController(
            target, lambda: self._model().file_bytes, lambda: encoded_bytes(self._weights()), *controlled
        )

    def _weights(self) -> Weights:
        return compressible(self._classifier.model, self._trainer.ignore)

    def _model(self) -> CompressedModel:
        """The file of the present weights; they obey the constraints, or a constraint of their number."""
        weights = self._weights()
        held = Sparsity(max(1, min(weights.nnz(), weights.dense_size)) / weights.dense_size), *self._others
        return CompressedModel.of(self._classifier, held, ignore=self._trainer.ignore, network=self.network)

    def _check_bytes(self, target: Fits) -> None:
        """Refuse a file that is smaller than with one weight or larger than with all of them."""
        weights = self._weights()
        before = weights.clone()
        try:
            self._put(weights, 1)
            least = self._model().file_bytes
            weights.assign_(before)
            self._put(weights, weights.dense_size)
            most = self._model().file_bytes
        finally:
            weights.assign_(before)
        if not least <= target.file_bytes < most:
            raise InfeasibleError(
                f"`file_bytes` must be from {least}, what a file with one single weight takes, to {most}, what all "
                f"weights take, got {target.file_bytes}"
            )

    def _put(self, weights: Weights, k: int) -> None:
        for constraint in (Sparsity(k / weights.dense_size), *self._others):
            weights.assign_(project(constraint, weights.detach()))

    def _trim(self, budget: int) -> None:
        """Bring the file to its size where no epoch was within 1 % below it: the largest weights that fit."""
        weights = self._weights()
        if 0.99 * budget < self._model().file_bytes <= budget:
            self._knob.set_(weights.nnz() / weights.dense_size, weights.dense_size)
            return
        before = weights.clone()

        def measured(k: int) -> tuple[None, int]:
            weights.assign_(before)
            self._put(weights, k)
            return None, self._model().file_bytes

        found = largest_within(measured, budget, weights.nnz())
        if found is None:
            weights.assign_(before)
            raise InfeasibleError(f"no number of weights fits into a file of {budget} bytes")
        measured(found[0])
        self._knob.set_(weights.nnz() / weights.dense_size, weights.dense_size)

    def _warn_of_weak_attack(self) -> None:
        measuring, training = self.target.attack, self._attack
        if isinstance(measuring, PGD) and isinstance(training, PGD) and measuring.max_iter < training.max_iter:
            warnings.warn(
                f"the target is measured by {measuring.max_iter} steps and trained against {training.max_iter}: a "
                "weaker attack than that of training makes a target easy; give `attack` at least as many steps",
                stacklevel=3,
            )
