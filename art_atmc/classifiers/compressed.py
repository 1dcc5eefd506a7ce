"""The classifier that training hands back: an ordinary ART PyTorch classifier whose model may hold factors."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.nn.utils import parametrize

from art_atmc.classifiers.modes import FormedWeights, frozen
from art_atmc.classifiers.network import in_own_precision, precision, takes_indices

__all__ = ["CompressedClassifier"]


@final
class CompressedClassifier(PyTorchClassifier):  # type: ignore[misc]
    """An ART ``PyTorchClassifier`` for models with factored weights.

    Real subclass, so that ART's attacks take their torch paths. Beyond the parent

    * it takes inputs of any numeric type, in every method (ART's HopSkipJump and Boundary attacks hand float64 to the
      model on numpy 2, and ``FeatureSqueezing`` returns it);
    * it forms a factored weight once, and again only after its factors changed, so that an attack that asks thousands
      of times pays for it once. A change by way of ``.data`` is not noticed, as torch does not count it;
    * gradients of inputs are taken without those of the parameters;
    * it copies, clones and pickles without leaving files behind.

    The constructor is that of ``PyTorchClassifier``; :meth:`of` takes over an existing classifier.

    >>> from torch.nn import CrossEntropyLoss, Linear
    >>> classifier = CompressedClassifier(Linear(4, 3), CrossEntropyLoss(), input_shape=(4,), nb_classes=3)
    >>> classifier.predict(np.zeros((2, 4), dtype=np.float64)).shape
    (2, 3)
    """

    @classmethod
    def of(cls, classifier: PyTorchClassifier) -> CompressedClassifier:
        """The same model, optimizer and preprocessing under this class; nothing is copied.

        :raises TypeError: for a subclass of ``PyTorchClassifier``, whose own methods (``certify``) would be lost.
        """
        if type(classifier) not in (PyTorchClassifier, cls):
            raise TypeError(
                f"`classifier` must be a PyTorchClassifier itself, got the subclass {type(classifier).__name__}, whose "
                "own methods would be lost; use it as it is, factored models work in it"
            )
        return cls(*_arguments(classifier), **_options(classifier))

    def predict(self, x: np.ndarray, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> np.ndarray:
        """Outputs of shape (n, classes); ``x`` of any numeric type."""
        with self._formed(training_mode):
            return super().predict(  # type: ignore[no-any-return]
                self._numbers(x), batch_size=batch_size, training_mode=training_mode, **kwargs
            )

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """Gradient of the loss with respect to ``x``, of any numeric type."""
        with frozen(self.model), self._formed(training_mode):
            return super().loss_gradient(self._numbers(x), y, training_mode=training_mode, **kwargs)

    def class_gradient(
        self, x: np.ndarray, label: Any = None, training_mode: bool = False, **kwargs: Any
    ) -> np.ndarray:
        """Gradient of the class outputs with respect to ``x``, of any numeric type."""
        with frozen(self.model), self._formed(training_mode):
            return super().class_gradient(  # type: ignore[no-any-return]
                self._numbers(x), label=label, training_mode=training_mode, **kwargs
            )

    def clone_for_refitting(self) -> CompressedClassifier:
        """A classifier of the same architecture and settings with fresh weights and a fresh optimizer, whose learning
        rates are those from before a scheduler changed them.

        :raises ValueError: when there is no optimizer to rebuild.
        """
        if self.optimizer is None:
            raise ValueError("the classifier has no optimizer, which a clone for refitting needs")
        clone = copy.deepcopy(self)
        clone.optimizer.state.clear()
        for group in clone.optimizer.param_groups:
            group["lr"] = group.pop("initial_lr", group["lr"])
        clone.reset()
        return clone

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressedClassifier:
        # In one go, so that the optimizer's parameters are those of the model, or of the loss.
        memo |= computed(self.model)
        arguments, options = copy.deepcopy((_arguments(self), _options(self)), memo)
        return CompressedClassifier(*arguments, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (_arguments(self), _options(self))

    @contextlib.contextmanager
    def _formed(self, training_mode: bool) -> Iterator[None]:
        """Each parametrized weight formed at most once; in evaluation mode what was formed is kept."""
        if "_weights" not in vars(self):
            self._weights = FormedWeights()
        with parametrize.cached() if training_mode else self._weights.kept(self.model):
            yield

    def _numbers(self, x: Any) -> Any:
        """Arrays in the precision of the model, as far as numpy has it."""
        if not isinstance(x, np.ndarray) or not np.issubdtype(x.dtype, np.number):
            return x
        if np.issubdtype(x.dtype, np.integer) and takes_indices(self.model):
            return x
        return x.astype(np.float64 if precision(self.model) == torch.float64 else np.float32, copy=False)

    def _make_model_wrapper(self, model: nn.Module) -> nn.Module:
        wrapper: nn.Module = super()._make_model_wrapper(model)
        wrapper.register_forward_pre_hook(in_own_precision)
        return wrapper


def computed(model: nn.Module) -> dict[int, Any]:
    """For ``copy.deepcopy``: the tensors that hooks computed from parameters, which torch does not copy."""
    held = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return {id(tensor): tensor.detach().clone() for tensor in held if not tensor.is_leaf}


def _restored(arguments: tuple[Any, ...], options: dict[str, Any]) -> CompressedClassifier:
    return CompressedClassifier(*arguments, **options)


def _arguments(classifier: PyTorchClassifier) -> tuple[Any, ...]:
    return (
        classifier.model,
        classifier.loss,
        classifier.input_shape,
        classifier.nb_classes,
        classifier.optimizer,
    )


def _options(classifier: PyTorchClassifier) -> dict[str, Any]:
    return {
        "channels_first": classifier.channels_first,
        "clip_values": classifier.clip_values,
        "preprocessing_defences": classifier.preprocessing_defences,
        "postprocessing_defences": classifier.postprocessing_defences,
        "preprocessing": classifier.preprocessing,
        "device_type": "cpu" if classifier.device.type == "cpu" else "gpu",
    }
