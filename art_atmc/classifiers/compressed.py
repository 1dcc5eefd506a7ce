"""The classifier that training hands back: an ordinary ART PyTorch classifier whose model may hold factors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn.utils import parametrize

from art_atmc.compression.factors import decompose_weight, decomposed, recompose

__all__ = ["CompressedClassifier"]


@final
class CompressedClassifier(PyTorchClassifier):  # type: ignore[misc]
    """An ART ``PyTorchClassifier`` for models with factored weights.

    Real subclass, so that ART's attacks take their torch paths. Beyond the parent it takes inputs of any numeric type
    (ART's HopSkipJump and Boundary attacks hand float64 to the model on numpy 2), forms every weight once a
    ``predict``, and copies, clones and pickles factored models without leaving files behind.

    The constructor is that of ``PyTorchClassifier``; :meth:`of` takes over an existing classifier.

    >>> from torch.nn import CrossEntropyLoss, Linear
    >>> classifier = CompressedClassifier(Linear(4, 3), CrossEntropyLoss(), input_shape=(4,), nb_classes=3)
    >>> classifier.predict(np.zeros((2, 4), dtype=np.float64)).shape
    (2, 3)
    """

    @classmethod
    def of(cls, classifier: PyTorchClassifier) -> CompressedClassifier:
        """The same model, optimizer and preprocessing under this class; nothing is copied."""
        return cls(
            classifier.model,
            classifier.loss,
            classifier.input_shape,
            classifier.nb_classes,
            optimizer=classifier.optimizer,
            **_options(classifier),
        )

    def predict(self, x: np.ndarray, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> np.ndarray:
        """Outputs of shape (n, classes); ``x`` of any numeric type."""
        with parametrize.cached():
            return super().predict(  # type: ignore[no-any-return]
                _float32(x), batch_size=batch_size, training_mode=training_mode, **kwargs
            )

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """Gradient of the loss with respect to ``x``, of any numeric type."""
        return super().loss_gradient(_float32(x), y, training_mode=training_mode, **kwargs)

    def class_gradient(
        self, x: np.ndarray, label: Any = None, training_mode: bool = False, **kwargs: Any
    ) -> np.ndarray:
        """Gradient of the class outputs with respect to ``x``, of any numeric type."""
        return super().class_gradient(  # type: ignore[no-any-return]
            _float32(x), label=label, training_mode=training_mode, **kwargs
        )

    def reset(self) -> None:
        """Give every layer fresh weights; factored layers stay factored."""
        fresh = recompose(copy.deepcopy(self.model))
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        factored = decomposed(self.model)
        targets = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        with torch.no_grad():
            for name, value in (*fresh.named_parameters(), *fresh.named_buffers()):
                if name in factored:
                    setattr(*factored[name], value.detach())  # a Parameter would be registered instead
                else:
                    targets[name].copy_(value)

    def clone_for_refitting(self) -> CompressedClassifier:
        """A classifier of the same architecture and settings with fresh weights and a fresh optimizer.

        :raises ValueError: when there is no optimizer to rebuild.
        """
        if self.optimizer is None:
            raise ValueError("the classifier has no optimizer, which a clone for refitting needs")
        clone = self._copy({}, with_optimizer_state=False)
        clone.reset()
        return clone

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressedClassifier:
        return self._copy(memo, with_optimizer_state=True)

    def __reduce__(self) -> tuple[Any, ...]:
        # A factored module does not pickle: send the plain one, and the factors to fill in.
        plain = recompose(copy.deepcopy(self.model))
        optimizer = None
        if self.optimizer is not None:
            optimizer = (type(self.optimizer), _arguments(self.optimizer), _groups(self), self.optimizer.state_dict())
        arguments = (self.loss, self.input_shape, self.nb_classes)
        return _restored, (
            plain,
            list(decomposed(self.model)),
            self.model.state_dict(),
            arguments,
            _options(self),
            optimizer,
        )

    def _copy(self, memo: dict[int, Any], with_optimizer_state: bool) -> CompressedClassifier:
        model = copy.deepcopy(self.model, memo)
        optimizer = None
        if self.optimizer is not None:
            optimizer = _rebuilt(type(self.optimizer), _arguments(self.optimizer), _groups(self), model)
            if with_optimizer_state:
                optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        loss, options = copy.deepcopy((self.loss, _options(self)), memo)
        return CompressedClassifier(model, loss, self.input_shape, self.nb_classes, optimizer=optimizer, **options)


def _options(classifier: PyTorchClassifier) -> dict[str, Any]:
    return {
        "channels_first": classifier.channels_first,
        "clip_values": classifier.clip_values,
        "preprocessing_defences": classifier.preprocessing_defences,
        "postprocessing_defences": classifier.postprocessing_defences,
        "preprocessing": preprocessing(classifier),
        "device_type": "cpu" if classifier.device.type == "cpu" else "gpu",
    }


def preprocessing(classifier: PyTorchClassifier) -> Any:
    """The ``preprocessing`` argument; ART keeps it as an operation, which it takes back only in part."""
    operation = classifier.preprocessing
    mean, std = getattr(operation, "mean", None), getattr(operation, "std", None)
    return operation if mean is None or std is None else (mean, std)


def _float32(x: Any) -> Any:
    if isinstance(x, np.ndarray) and x.dtype != np.float32 and np.issubdtype(x.dtype, np.number):
        return x.astype(np.float32)
    return x


def _arguments(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's constructor arguments; its ``defaults`` hold more than the constructor takes (AdamW)."""
    known = inspect.signature(type(optimizer).__init__).parameters
    return {key: value for key, value in optimizer.defaults.items() if key in known}


def _groups(classifier: PyTorchClassifier) -> list[dict[str, Any]]:
    """The optimizer's parameter groups, with parameters by name."""
    names = {id(p): name for name, p in classifier.model.named_parameters()}
    return [{**group, "params": [names[id(p)] for p in group["params"]]} for group in classifier.optimizer.param_groups]


def _rebuilt(
    kind: type[torch.optim.Optimizer], arguments: Mapping[str, Any], groups: list[dict[str, Any]], model: nn.Module
) -> torch.optim.Optimizer:
    parameters = dict(model.named_parameters())
    return kind([{**group, "params": [parameters[name] for name in group["params"]]} for group in groups], **arguments)


def _restored(
    model: nn.Module, factored: list[str], state: Any, arguments: tuple[Any, ...], options: Any, optimizer: Any
) -> CompressedClassifier:
    for name in factored:
        decompose_weight(model, name)
    model.load_state_dict(state)
    rebuilt = None
    if optimizer is not None:
        kind, settings, groups, optimizer_state = optimizer
        rebuilt = _rebuilt(kind, settings, groups, model)
        rebuilt.load_state_dict(optimizer_state)
    return CompressedClassifier(model, *arguments, optimizer=rebuilt, **options)
