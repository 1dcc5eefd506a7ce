"""How far each perturbation is from fooling each domain, from the domains' answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from art_atmc.attacks import PerSampleLoss
from art_atmc.attacks.square import margin

__all__ = ["fooled", "losses", "margins"]

Answers = Sequence[Tensor]
"""K tensors of logits, (G d, classes), with d draws in a row for each of G perturbations."""


def losses(answers: Answers, labels: Tensor, kinds: Sequence[PerSampleLoss], targeted: bool) -> Tensor:
    """F, (G, K): what the attack brings down; the mean over the draws of a domain.

    :param labels: (G, K).
    :param kinds: the loss of each domain, which an untargeted attack raises.

    >>> from art_atmc_minmax import Margin
    >>> losses([torch.tensor([[3.0, 1.0]])], torch.tensor([[0]]), [Margin()], targeted=False)
    tensor([[2.]])
    """
    sign = 1 if targeted else -1
    by_domain = iter(kinds)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        kind = next(by_domain)
        return sign * kind(logits, y, kind.target(logits.detach(), y))

    return _scored(answers, labels, loss)


def margins(answers: Answers, labels: Tensor, targeted: bool) -> Tensor:
    """(G, K), negative where a domain is fooled."""
    sign = 1 if targeted else -1
    return _scored(answers, labels, lambda logits, y: sign * margin(logits.detach(), y))


def fooled(answers: Answers, labels: Tensor, targeted: bool) -> Tensor:
    """(G, K), by most of the draws of a random domain.

    >>> fooled([torch.tensor([[3.0, 1.0], [0.0, 1.0]])], torch.tensor([[0], [0]]), targeted=False)
    tensor([[False],
            [ True]])
    """
    return _scored(answers, labels, lambda logits, y: ((logits.argmax(dim=1) == y) == targeted).float()) > 0.5


def _scored(answers: Answers, labels: Tensor, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    columns = []
    for y, logits in zip(labels.unbind(1), answers, strict=True):
        if logits.dim() != 2 or logits.shape[1] < 2:
            raise ValueError(
                f"a margin needs a logit for each of at least two classes, got an output of shape "
                f"{tuple(logits.shape)}; give a network of two outputs in place of one"
            )
        draws = len(logits) // len(y)
        each = score(logits, y if draws == 1 else y.repeat_interleave(draws))
        columns.append(each if draws == 1 else each.unflatten(0, (-1, draws)).mean(1))
    return torch.stack(columns, dim=1)
