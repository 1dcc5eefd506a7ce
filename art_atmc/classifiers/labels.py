"""What a network answers, what is true, and whether they differ: the one place that decides it."""

from __future__ import annotations

from torch import Tensor

__all__ = ["misclassified", "predicted", "true_class"]


def predicted(logits: Tensor) -> Tensor:
    """The class of each answer, (N,): the largest logit's; of a single logit, 1 where it is positive.

    >>> import torch
    >>> predicted(torch.tensor([[0.1, 0.9], [2.0, -1.0]])).tolist(), predicted(torch.tensor([[0.3], [-0.3]])).tolist()
    ([1, 0], [1, 0])
    """
    return logits.argmax(dim=1) if logits.dim() > 1 and logits.shape[1] > 1 else (logits.reshape(-1) > 0).long()


def true_class(y: Tensor) -> Tensor:
    """The class of each label, (N,), from indices (N,) or (N, 1), or from rows of probabilities (N, classes)."""
    return y.argmax(dim=1) if y.dim() > 1 and y.shape[1] > 1 else y.reshape(-1).long()


def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Which answers are wrong; bool (N,). An answer with NaN is.

    >>> import torch
    >>> misclassified(torch.tensor([[0.1, 0.9], [float("nan"), 0.0]]), torch.tensor([1, 0])).tolist()
    [False, True]
    """
    wrong = predicted(logits) != true_class(y).to(logits.device)
    return wrong | logits.isnan().reshape(len(logits), -1).any(dim=1)
