"""What a network answers, what is true, and whether they differ: the one place that decides it."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

__all__ = ["ClassLogits", "class_logits", "misclassified", "predicted", "true_class"]


def class_logits(logits: Tensor) -> Tensor:
    r"""A logit for each class, (N, classes): those given, or in place of a single one z those of two classes, (0, z).

    The cross-entropy of (0, z) is the binary cross-entropy of z, so whatever works on class logits works on it.

    >>> class_logits(torch.tensor([[0.3], [-0.3]])).tolist()
    [[0.0, 0.30000001192092896], [0.0, -0.30000001192092896]]
    """
    if logits.dim() > 1 and logits.shape[1] > 1:
        return logits
    single = logits.reshape(-1, 1)
    return torch.cat([torch.zeros_like(single), single], dim=1)


@final
class ClassLogits(nn.Module):
    """A network whose outputs are :func:`class_logits`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return class_logits(self.network(x))


def predicted(logits: Tensor) -> Tensor:
    """The class of each answer, (N,): the largest logit's; of a single logit, 1 where it is positive.

    >>> predicted(torch.tensor([[0.1, 0.9], [2.0, -1.0]])).tolist(), predicted(torch.tensor([[0.3], [-0.3]])).tolist()
    ([1, 0], [1, 0])
    """
    return class_logits(logits).argmax(dim=1)


def true_class(y: Tensor) -> Tensor:
    """The class of each label, (N,), from indices (N,) or (N, 1), or from rows of probabilities (N, classes)."""
    return y.argmax(dim=1) if y.dim() > 1 and y.shape[1] > 1 else y.reshape(-1).long()


def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Which answers are wrong; bool (N,). An answer with NaN is.

    >>> misclassified(torch.tensor([[0.1, 0.9], [float("nan"), 0.0]]), torch.tensor([1, 0])).tolist()
    [False, True]
    """
    wrong = predicted(logits) != true_class(y).to(logits.device)
    return wrong | logits.isnan().reshape(len(logits), -1).any(dim=1)
