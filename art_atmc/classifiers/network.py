"""What an ART classifier computes, as one torch module on inputs in their own range, in the fastest memory layout."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from art_atmc.classifiers.modes import evaluating
from art_atmc.support.precision import autocasting

__all__ = ["Network"]


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
    :raises ValueError: for preprocessing that changes labels.
    """

    def __init__(self, classifier: Any, sample: Tensor) -> None:
        super().__init__()
        self.model: nn.Module = classifier.model
        self._operations = [op for op in classifier.preprocessing_operations or [] if not _is_identity(op)]
        if changing := [type(op).__name__ for op in self._operations if _changes_labels(op)]:
            raise ValueError(
                f"the preprocessing {changing} changes labels, which an attack on the true labels can't "
                "follow; apply it to the data before training"
            )
        self._constants: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        self._channels_last = False
        self._channels_last = self._takes_channels_last(sample)

    def forward(self, x: Tensor) -> Tensor:
        for operation in self._operations:
            if operation.apply_fit if self.training else operation.apply_predict:
                x = self._preprocessed(operation, x)
        logits: Tensor = self.model(_channels_last(x) if self._channels_last else x)
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

    def _takes_channels_last(self, sample: Tensor) -> bool:
        if sample.dim() != 4 or not any(isinstance(m, nn.Conv2d) for m in self.model.modules()):
            return False
        expected = self.evaluate(sample)
        self._channels_last = True
        try:
            return torch.allclose(self.evaluate(sample), expected, rtol=1e-3, atol=1e-4)
        except RuntimeError:  # the model calls .view() on its feature maps
            return False


def _channels_last(x: Tensor) -> Tensor:
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    # With one channel both layouts are the same memory, and torch would go on in NCHW: say it by the strides.
    return x.reshape(x.shape[0], *x.shape[2:], 1).permute(0, 3, 1, 2)


def _is_identity(operation: Any) -> bool:
    mean, std = getattr(operation, "mean", None), getattr(operation, "std", None)
    return mean is not None and std is not None and bool(np.all(mean == 0) and np.all(std == 1))


def _changes_labels(operation: Any) -> bool:
    return any(word in type(operation).__name__ for word in ("LabelSmoothing", "Mixup", "Cutmix", "CutMix"))
