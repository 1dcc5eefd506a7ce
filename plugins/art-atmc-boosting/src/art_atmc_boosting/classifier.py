"""The ensemble as an ART classifier."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_atmc import CompressedModel
from art_atmc.classifiers import fixed
from art_atmc_boosting.ensemble import Ensemble, SoftCapped, check_stages

__all__ = ["EarlyAnswers", "EnsembleClassifier"]

_ROUNDING = 1e-5  # of the largest sum of capped logits: more than a sum in float32 can be off by


class EarlyAnswers(NamedTuple):
    """Classes, and the members that were asked for each.

    :param classes: (n,)
    :param stages: (n,), from 1 to T.
    """

    classes: np.ndarray
    stages: np.ndarray


@final
class EnsembleClassifier(PyTorchClassifier):  # type: ignore[misc]
    r"""An ART ``PyTorchClassifier`` whose model is an :class:`~art_atmc_boosting.Ensemble`.

    The constructor is that of ``PyTorchClassifier``. Attacks and ``art_atmc.evaluation.evaluate`` see the weighted sum
    of all members. Members are added, dropped and re-weighted at ``classifier.model``.

    :raises TypeError: for another model.
    :raises ValueError: when a member takes other inputs or has other classes, as tried on two inputs.

    >>> ensemble = Ensemble([nn.Linear(4, 3), nn.Linear(4, 3)])
    >>> classifier = EnsembleClassifier(ensemble, nn.CrossEntropyLoss(), input_shape=(4,), nb_classes=3)
    >>> x = np.zeros((2, 4), dtype=np.float32)
    >>> np.array_equal(classifier.predict(x, stages=2), classifier.predict(x))
    True
    """

    def __init__(
        self, model: Ensemble, loss: Any, input_shape: Any, nb_classes: int, *args: Any, **kwargs: Any
    ) -> None:
        if not isinstance(model, Ensemble):
            raise TypeError(f"`model` must be an Ensemble, got {type(model).__name__}; write Ensemble([model])")
        super().__init__(model, loss, input_shape, nb_classes, *args, **kwargs)
        self.check_members()

    @classmethod
    def of(cls, classifiers: Sequence[PyTorchClassifier], weights: Sequence[float] | None = None) -> EnsembleClassifier:
        """The weighted sum of classifiers that were trained one by one; loss, clip values and all else of the first.

        Their models are shared, not copied. Preprocessing must be the same, as the sum has one.
        """
        first = classifiers[0]
        differing = [
            name
            for name in ("preprocessing", "preprocessing_defences", "clip_values", "channels_first")
            if any(repr(getattr(one, name)) != repr(getattr(first, name)) for one in classifiers)
        ]
        if differing:
            raise ValueError(f"the members differ in {differing}, and a sum has one of each; build them alike")
        return ensemble_of(first, Ensemble([one.model for one in classifiers], weights))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        make_member: Callable[[], nn.Module],
        *,
        stages: int | None = None,
        loss: nn.Module | None = None,
    ) -> EnsembleClassifier:
        """The ensemble of a compressed file, or its first members.

        :param make_member: builds a network like the members; its values do not matter.
        :param stages: how many of the members to keep, by default all.
        """
        compressed = CompressedModel.load(path)
        names = [name for name in compressed.manifest.members if name.startswith("members.")]
        if not names:
            raise ValueError(f"{path} holds no ensemble; load it with CompressedModel.load")
        with torch.random.fork_rng(devices=[]):
            ensemble = Ensemble([make_member() for _ in names])
        whole = compressed.classifier(ensemble, loss=loss)
        return ensemble_of(whole, ensemble if stages is None else ensemble.prefix(stages))

    def check_members(self) -> None:
        """Ask every member for two answers.

        :raises ValueError: naming those whose outputs are not (2, nb_classes).
        """
        parameter = next(self.model.parameters(), torch.zeros(0))
        sample = torch.zeros(2, *self.input_shape, device=self.device, dtype=parameter.dtype)
        with torch.no_grad(), fixed(self.model):
            for number, member in enumerate(self.model.members):
                try:
                    shape = tuple(member(sample).shape)
                except (RuntimeError, ValueError) as error:
                    raise ValueError(
                        f"member {number} takes no inputs of shape {tuple(self.input_shape)}: {error}"
                    ) from error
                if shape != (2, self.nb_classes):
                    raise ValueError(
                        f"member {number} answers 2 inputs with shape {shape}, and a sum of {self.nb_classes} classes "
                        f"needs (2, {self.nb_classes}); give members with as many outputs"
                    )

    def predict(
        self,
        x: np.ndarray,
        batch_size: int = 128,
        training_mode: bool = False,
        stages: int | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """The weighted sum, (n, classes).

        :param stages: ask the first members only.
        """
        if stages is not None:
            check_stages(stages, len(self.model))
        with self.model.using(slice(stages)):
            return super().predict(  # type: ignore[no-any-return]
                x.astype(np.float32, copy=False), batch_size=batch_size, training_mode=training_mode, **kwargs
            )

    def staged_predict(self, x: np.ndarray, batch_size: int = 128) -> Iterator[np.ndarray]:
        """The sums of the first member, the first two, and so on; each member is asked once."""
        total: np.ndarray | None = None
        for number in range(len(self.model)):
            with self.model.using(slice(number, number + 1)):
                part = super().predict(x.astype(np.float32, copy=False), batch_size=batch_size)
            total = part if total is None else total + part
            yield total

    def staged_accuracy(self, x: np.ndarray, y: np.ndarray) -> list[float]:
        """Share of examples that the first k members classify correctly, for each k."""
        truth = np.argmax(y, axis=1) if np.ndim(y) > 1 and np.shape(y)[1] > 1 else np.reshape(y, -1)
        return [float((logits.argmax(axis=1) == truth).mean()) for logits in self.staged_predict(x)]

    def predict_early(self, x: np.ndarray, batch_size: int = 128) -> EarlyAnswers:
        r"""The classes that :meth:`predict` gives, asking no further members once they can't change any more:

        .. math:: \min_{j \ne i} F_k(x)_i - F_k(x)_j \;>\; 2 \sum_{t > k} w_t c_t

        where :math:`|f_t(x)_j| \le c_t`. It is exact.

        :raises ValueError: unless all members but the first are :class:`~art_atmc_boosting.SoftCapped`.
        """
        unbounded = [n for n, member in enumerate(self.model.members) if n and not isinstance(member, SoftCapped)]
        if unbounded:
            raise ValueError(
                f"members {unbounded} have no bound on their logits, so a margin could always change; build them as "
                "SoftCapped(network)"
            )
        caps = [getattr(member, "cap", 0.0) for member in self.model.members]
        reach = np.array([w * c for w, c in zip(self.model.weights.tolist(), caps, strict=True)])
        classes, stages = np.zeros(len(x), dtype=np.int64), np.zeros(len(x), dtype=np.int64)
        left = np.arange(len(x))
        total = np.zeros((len(x), self.nb_classes), dtype=np.float32)
        for number in range(len(self.model)):
            with self.model.using(slice(number, number + 1)):
                part = super().predict(x[left].astype(np.float32, copy=False), batch_size=batch_size)
            total = part if number == 0 else total + part
            best, second = np.partition(total, -2, axis=1)[:, [-1, -2]].T
            slack = _ROUNDING * (np.abs(total).max(axis=1) + reach[number + 1 :].sum())
            settled = best - second > 2 * reach[number + 1 :].sum() + slack
            if number == len(self.model) - 1:
                settled[:] = True
            classes[left[settled]], stages[left[settled]] = total[settled].argmax(axis=1), number + 1
            left, total = left[~settled], total[~settled]
            if not len(left):
                break
        return EarlyAnswers(classes, stages)

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        if isinstance(x, np.ndarray):
            x = x.astype(np.float32, copy=False)
        return super().loss_gradient(x, y, training_mode=training_mode, **kwargs)

    def class_gradient(
        self, x: np.ndarray, label: Any = None, training_mode: bool = False, **kwargs: Any
    ) -> np.ndarray:
        return super().class_gradient(  # type: ignore[no-any-return]
            x.astype(np.float32, copy=False), label=label, training_mode=training_mode, **kwargs
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """By its parts; ART's own way leaves files behind."""
        return _rebuilt, (self.model, self.optimizer, *settings(self))


def ensemble_of(classifier: PyTorchClassifier, ensemble: Ensemble, optimizer: Any = None) -> EnsembleClassifier:
    """An ensemble with the loss, clip values and preprocessing of another classifier."""
    return _rebuilt(ensemble, optimizer, *settings(classifier))


def settings(classifier: PyTorchClassifier) -> tuple[tuple[Any, ...], dict[str, Any]]:
    options = {
        name: getattr(classifier, name)
        for name in (
            "channels_first",
            "clip_values",
            "preprocessing_defences",
            "postprocessing_defences",
            "preprocessing",
        )
    }
    options["device_type"] = "cpu" if classifier.device.type == "cpu" else "gpu"
    return (classifier.loss, classifier.input_shape, classifier.nb_classes), options


def _rebuilt(
    model: Ensemble, optimizer: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> EnsembleClassifier:
    loss, input_shape, nb_classes = arguments
    return EnsembleClassifier(model, loss, input_shape, nb_classes, optimizer=optimizer, **options)
