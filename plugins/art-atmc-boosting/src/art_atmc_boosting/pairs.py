r"""Multiplicative weights over (example, wrong label): where the next member is to be better than chance."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

__all__ = ["PairWeights", "rounds_needed"]


@final
class PairWeights:
    r"""A distribution over the pairs of an example and a wrong label, n (K - 1) of them.

    .. math:: w_{ij} \leftarrow w_{ij}\, e^{-\eta\, m_{ij}} / Z, \qquad j \ne y_i, \quad m_{ij} \in [-1, 1]

    with the robust margins m of a member: 1 where it votes for the true label, -1 where for j, else 0, under attack.
    The *edge* of a member is its mean margin :math:`\gamma = \sum_{ij} w_{ij} m_{ij}`; guessing has none. With
    :math:`\eta_t = \tfrac12 \log\frac{1 + \gamma_t}{1 - \gamma_t}`, which is also the member's weight in the vote, each
    round shrinks the sum of the exponential losses by :math:`\sqrt{1 - \gamma_t^2}` at least, so that members with
    edges of at least :math:`\gamma` have no robust training error after :func:`rounds_needed` rounds.

    :param y: (n,) true classes.
    :param nb_classes: K, at least 2.

    >>> weights = PairWeights(torch.tensor([0, 1]), nb_classes=2)
    >>> votes = torch.tensor([0, 0])               # the second example is fooled
    >>> weights.edge(votes)
    0.0
    >>> weights.update(votes, eta=0.5)
    >>> weights.values.round(decimals=2).tolist()
    [[0.0, 0.27], [0.73, 0.0]]
    """

    def __init__(self, y: Tensor, nb_classes: int) -> None:
        if nb_classes < 2:
            raise ValueError(f"`nb_classes` must be at least 2, got {nb_classes}")
        self.y = y.reshape(-1).long()
        wrong = torch.ones(len(self.y), nb_classes, dtype=torch.float64)
        wrong[torch.arange(len(self.y)), self.y] = 0
        self.values = wrong / wrong.sum()

    def margins(self, votes: Tensor) -> Tensor:
        """(n, K): 1 where the vote (n,) is the true label, -1 where it is the label j, else 0; 0 for the true label."""
        margins = (votes == self.y).double()[:, None].expand_as(self.values).clone()
        rows = torch.arange(len(self.y))
        margins[rows, votes] -= 1
        margins[rows, self.y] = 0
        return margins

    def edge(self, votes: Tensor) -> float:
        r""":math:`\gamma` of these votes under attack, in [-1, 1]."""
        return float((self.values * self.margins(votes)).sum())

    def guess(self) -> float:
        """The largest edge that always answering one class has; at least 0, and 0 where no pair weighs more."""
        every = torch.arange(self.values.shape[1])
        return max(self.edge(answer.expand(len(self.y))) for answer in every)

    def update(self, votes: Tensor, eta: float | None = None) -> None:
        r"""Put more weight on what these votes get wrong.

        :param eta: by default :math:`\tfrac12 \log\frac{1 + \gamma}{1 - \gamma}`.
        """
        if eta is None:
            eta = math.atanh(min(max(self.edge(votes), -1 + 1e-6), 1 - 1e-6))
        scaled = self.values * (-eta * self.margins(votes)).exp()
        self.values = scaled / scaled.sum()


def rounds_needed(edge: float, examples: int, nb_classes: int) -> int:
    r"""The rounds after which members with at least this edge make no robust error on the training data:

    .. math:: T = \lfloor 2 \log(n (K - 1)) / \gamma^2 \rfloor + 1

    >>> rounds_needed(0.5, examples=12, nb_classes=2)
    20
    """
    if not 0 < edge <= 1:
        raise ValueError(f"`edge` must be in (0, 1], got {edge}; without an edge no number of rounds suffices")
    return math.floor(2 * math.log(examples * (nb_classes - 1)) / edge**2) + 1
