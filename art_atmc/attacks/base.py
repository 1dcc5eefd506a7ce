r"""What an attack is: the inner maximisation of robust training, on tensors.

.. math:: \max_{x' \in B_p(x, \epsilon)} \ell(f(x'), y)

During an attack the network is in evaluation mode: batch normalisation uses its running statistics and leaves them as
they are, and dropout is off. So the attack meets the network that will be deployed, and the same input is always
answered alike. Afterwards every submodule has its own mode again.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from torch import Tensor, nn

from art_atmc.classifiers.modes import evaluating

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Adversary", "ClipValues", "Loss", "Problem"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits, y) -> scalar."""

ClipValues: TypeAlias = "Iterable[float | np.ndarray | Tensor]"
"""Smallest and largest valid input; scalars, or arrays that broadcast with one input."""


@final
@dataclasses.dataclass(frozen=True)
class Problem:
    r"""What an attack or an objective is handed.

    .. math:: \max_{x' \in [l, h]} \ell(f(x'), y)

    The radius and the norm are the attack's own.

    :param network: f: maps inputs, in the range of ``clip_values``, to logits; preprocessing is part of it.
    :param loss: :math:`\ell`: what is maximised. It always sees the whole batch.
    :param clip_values: l and h, smallest and largest valid input; None for no limits.
    :param generator: source of all randomness, owned by the caller; torch's global one when None.
    :param classifier: the ART classifier that the network is made of, where there is one.
    :param rows: (N,) where the batch's examples stand in the training data; None where that is not known.

    >>> problem = Problem(nn.Linear(1, 2), clip_values=(0, 1))
    >>> problem.maximising(nn.functional.multi_margin_loss).clip_values
    (0, 1)
    """

    network: nn.Module
    loss: Loss = nn.functional.cross_entropy
    clip_values: ClipValues | None = None
    generator: torch.Generator | None = None
    classifier: Any = None
    rows: Tensor | None = None
    resolved: dict[int, tuple[Any, Adversary]] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, classifier: Any, network: nn.Module, generator: torch.Generator | None = None) -> Problem:
        """The loss and the clip values of an ART classifier, for ``network``, its preprocessing and model as one."""
        return cls(network, classifier.loss, classifier.clip_values, generator, classifier)

    def answers(self, x: Tensor) -> Tensor:
        """Logits in evaluation mode, without a graph; every submodule keeps its mode."""
        with torch.no_grad(), evaluating(self.network):
            return self.network(x)  # type: ignore[no-any-return]

    def maximising(self, loss: Loss) -> Problem:
        """The same with another loss."""
        return dataclasses.replace(self, loss=loss)

    def at(self, rows: Tensor | None) -> Problem:
        """The same for a batch of these examples."""
        return dataclasses.replace(self, rows=rows)


class Adversary(abc.ABC):
    r"""Seeks :math:`x' \in \arg\max_{x' \in B(x, \epsilon)} \ell(f(x'), y)`."""

    @abc.abstractmethod
    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial examples for a batch.

        The network comes back with the modes, ``requires_grad``, ``.grad`` and buffers that it had.

        :param problem: the network, the loss that is maximised, the valid inputs and the random numbers.
        :param x: inputs of shape (N, ...), floating point, finite.
        :param y: labels as the loss takes them: indices (N,) or one row of probabilities each (N, classes).
        :return: of the shape, dtype, device and memory format of ``x``, without a graph.
        """
