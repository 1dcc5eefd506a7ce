r"""What an attack is: the inner maximisation of robust training, on tensors.

.. math:: \max_{x' \in B_p(x, \epsilon)} \ell(f(x'), y)

During an attack the network is in evaluation mode: batch normalisation uses its running statistics and leaves them as
they are, and dropout is off. So the attack meets the network that will be deployed, and the same input is always
answered alike. Afterwards every submodule has its own mode again.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Adversary", "ClipValues", "Loss"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits, y) -> scalar."""

ClipValues: TypeAlias = "Iterable[float | np.ndarray | Tensor]"
"""Smallest and largest valid input; scalars, or arrays that broadcast with one input."""


class Adversary(abc.ABC):
    r"""Seeks :math:`x' \in \arg\max_{x' \in B(x, \epsilon)} \ell(f(x'), y)`."""

    @abc.abstractmethod
    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: Loss = nn.functional.cross_entropy,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Adversarial examples for a batch.

        The network comes back with the modes, ``requires_grad``, ``.grad`` and buffers that it had.

        :param network: maps inputs, in the range of ``clip_values``, to logits; preprocessing is part of it.
        :param x: inputs of shape (N, ...), floating point, finite.
        :param y: labels as ``loss`` takes them: indices (N,) or one row of probabilities each (N, classes).
        :param loss: what is maximised. It always sees the whole batch.
        :param clip_values: smallest and largest valid input; ``None`` for no limits.
        :param generator: source of all randomness, owned by the caller; torch's global one when ``None``.
        :return: of the shape, dtype, device and memory format of ``x``, without a graph.
        """
