"""What an ART classifier computes, as one torch module on inputs in their own range, in the fastest memory layout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from art_atmc.classifiers.modes import evaluating, training
from art_atmc.support.precision import autocasting, without_autocast
from art_atmc.support.randomness import isolated_randomness

__all__ = [
    "Network",
    "draws_examples",
    "in_own_precision",
    "is_identity",
    "precision",
    "standardisation",
    "takes_indices",
]


@final
class Network(nn.Module):
    r"""The preprocessing of an ART classifier and its model: :math:`x \mapsto \text{logits}`.

    ART applies preprocessing in numpy at many seams; here it is one forward, so that training, attack and validation
    can't apply it twice (ART's TRADES and AWP trainers do). The model is called as a module, so the network's output is
    the output of the model, also for ``nn.Sequential`` (whose layers ART's wrapper returns one by one).

    Convolutional networks get their images channels-last where the model can take it, which halves the time of a
    gradient on a CPU; no tensor of the model is changed.

    :param classifier: an ART ``PyTorchClassifier``.
    :param sample: a few inputs, on which it is tried whether the model takes channels-last images.
    :param compiled: run the model through ``torch.compile``.
    :raises ValueError: for preprocessing that changes labels.
    :raises TypeError: for a model that returns anything but one tensor with a row for each input.

    Inputs are converted to the precision of the model. Preprocessing that draws further examples for training
    (``GaussianAugmentation``) is not part of the network, see :func:`~art_atmc.classifiers.inputs.augmented`.
    """

    def __init__(self, classifier: Any, sample: Tensor, *, compiled: bool = False) -> None:
        super().__init__()
        self.model: nn.Module = classifier.model
        # In a list, where torch does not take it for a submodule: parameters and modes are those of the model.
        self._forward: list[Callable[[Tensor], Tensor]] = [torch.compile(self.model) if compiled else self.model]
        self._operations = [
            op for op in classifier.preprocessing_operations or [] if not is_identity(op) and not draws_examples(op)
        ]
        if changing := [type(op).__name__ for op in self._operations if _changes_labels(op)]:
            raise ValueError(
                f"the preprocessing {changing} changes labels, which an attack on the true labels can't "
                "follow; apply it to the data before training"
            )
        self._constants: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        self._dtype = precision(self.model)
        self._channels_last = False
        with without_autocast(sample.device.type):
            expected = self.evaluate(sample)
            _check_logits(expected, len(sample))
            self._channels_last = self._takes_channels_last(sample, expected)

    def forward(self, x: Tensor) -> Tensor:
        for operation in self._operations:
            if operation.apply_fit if self.training else operation.apply_predict:
                x = self._preprocessed(operation, x)
        x = x.to(self._dtype)
        logits = self._forward[0](_channels_last(x) if self._channels_last else x)
        # A loss of rounded logits has a gradient of rounding errors where the network is sure.
        return logits.to(x.dtype) if autocasting(x.device.type) else logits

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Tensor:
        """Logits in evaluation mode; the mode of every submodule is as before afterwards."""
        with evaluating(self):
            return self(x)  # type: ignore[no-any-return]

    def _preprocessed(self, operation: Any, x: Tensor) -> Tensor:
        from art.preprocessing.preprocessing import PreprocessorPyTorch
        from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
        from art.preprocessing.standardisation_mean_std.utils import broadcastable_mean_std

        if isinstance(operation, StandardisationMeanStdPyTorch):
            key = (id(operation), x.device)
            if key not in self._constants:  # ART copies both to the device on each call
                mean, std = broadcastable_mean_std(x, operation.mean, operation.std)
                self._constants[key] = torch.as_tensor(mean).to(x), torch.as_tensor(std).to(x)
            offset, scale = self._constants[key]
            return (x - offset) / scale
        if isinstance(operation, PreprocessorPyTorch):
            return operation.forward(x)[0]  # type: ignore[no-any-return]
        processed, _ = operation(x.detach().cpu().numpy())  # no gradient: such attacks run through ART
        return torch.from_numpy(processed).to(x)

    def _takes_channels_last(self, sample: Tensor, expected: Tensor) -> bool:
        if sample.dim() != 4 or not any(isinstance(m, nn.Conv2d) for m in self.model.modules()):
            return False
        self._channels_last = True
        try:
            same = torch.allclose(self.evaluate(sample), expected, rtol=1e-3, atol=1e-4)
            if same:
                self._try_training(sample)
        except RuntimeError:  # the model calls .view() on its feature maps, perhaps in training only
            return False
        return same

    @torch.no_grad()
    def _try_training(self, sample: Tensor) -> None:
        """One forward in training mode, after which modes, statistics and random numbers are as before."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with isolated_randomness(0), training(self), contextlib.suppress(ValueError):
                self(sample)  # batch normalisation refuses single values with a ValueError, in any layout
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


def _channels_last(x: Tensor) -> Tensor:
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    # With one channel both layouts are the same memory, and torch would go on in NCHW: say it by the strides.
    return x.reshape(x.shape[0], *x.shape[2:], 1).permute(0, 3, 1, 2)


def standardisation(operation: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation, where a preprocessing operation is ART's standardisation and is always applied."""
    from art.preprocessing.standardisation_mean_std import StandardisationMeanStd, StandardisationMeanStdPyTorch

    if type(operation) not in (StandardisationMeanStd, StandardisationMeanStdPyTorch):
        return None
    return (operation.mean, operation.std) if operation.apply_fit and operation.apply_predict else None


def is_identity(operation: Any) -> bool:
    """Whether a preprocessing operation is the standardisation by 0 and 1, which ART has by default."""
    standard = standardisation(operation)
    return standard is not None and bool(np.all(standard[0] == 0) and np.all(standard[1] == 1))


def precision(model: nn.Module) -> torch.dtype:
    """The type of a model's floating-point tensors; float32 where it has none."""
    waiting = [model]
    while waiting:  # by hand, as this stands before every query: `parameters()` takes several times as long
        module = waiting.pop()
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.is_floating_point():
                return tensor.dtype
        waiting += [child for child in module._modules.values() if child is not None]
    return torch.float32


def takes_indices(model: nn.Module) -> bool:
    """Whether whole numbers may be words to a model, and so stay as they are."""
    return any(isinstance(layer, nn.Embedding) for layer in model.modules())


def in_own_precision(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: the model gets its input in its own precision, on every way that ART takes to it."""
    x, *others = inputs
    if not isinstance(x, Tensor) or x.is_complex() or (not x.is_floating_point() and takes_indices(model)):
        return inputs
    return (x.to(precision(model)), *others)


def draws_examples(operation: Any) -> bool:
    """Whether a preprocessing operation makes more examples out of those that it is given."""
    return bool(getattr(operation, "augmentation", False))


def _check_logits(answers: Any, examples: int) -> None:
    if not isinstance(answers, Tensor):
        held = f" with {', '.join(map(str, answers))}" if isinstance(answers, Mapping) else ""
        raise TypeError(
            f"the model must return one tensor of logits, got a {type(answers).__name__}{held}; wrap it in a module "
            "whose forward takes them out, as `return self.model(x)['logits']`"
        )
    if answers.dim() not in (1, 2) or len(answers) != examples:
        raise TypeError(
            f"the model must return logits of shape (n, classes), got {tuple(answers.shape)} for {examples} inputs"
        )


def _changes_labels(operation: Any) -> bool:
    return any(word in type(operation).__name__ for word in ("LabelSmoothing", "Mixup", "Cutmix", "CutMix"))
