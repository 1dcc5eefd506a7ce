r"""What an attack is: the inner maximisation of robust training, on tensors.

.. math:: \max_{x' \in B_p(x, \epsilon)} \ell(f(x'), y)

During an attack the network is in evaluation mode: batch normalisation uses its running statistics and leaves them as
they are, and dropout is off. So the attack meets the network that will be deployed, and the same input is always
answered alike. Afterwards every submodule has its own mode again.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

import torch
from torch import Tensor, nn

from art_atmc.classifiers.modes import evaluating

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Adversary", "ClipValues", "Loss", "Motion", "Problem", "Rows", "unreduced", "weighted"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits, y) -> scalar."""

ClipValues: TypeAlias = "Iterable[float | np.ndarray | Tensor]"
"""Smallest and largest valid input; scalars, or arrays that broadcast with one input."""


class Motion(Protocol):
    """How augmentation moved the entries of a batch of examples; the same for whatever belongs to the entries."""

    def __call__(self, x: Tensor) -> Tensor:
        """The entries where the augmented examples have them; zero where something else came in."""

    def undo(self, moved: Tensor, onto: Tensor) -> Tensor:
        """The entries back where they came from; those that were moved out of view are taken from ``onto``."""


@final
@dataclasses.dataclass(frozen=True)
class Rows:
    """Which of the training examples a batch holds.

    :param index: (N,) their places in the training data.
    :param total: examples of the training data.
    :param data: a fingerprint of all of them in their order.
    :param motion: how augmentation moved those of the batch; None where they are as they stand there.
    """

    index: Tensor
    total: int
    data: str = ""
    motion: Motion | None = None


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
    :param rows: which training examples the batch holds; None where that is not known.
    :param weights: (N,) of the batch's examples in the loss; None for equal ones.
    :param progress: share of the training run that is done, in [0, 1]; 1 outside of training.

    >>> problem = Problem(nn.Linear(1, 2), clip_values=(0, 1))
    >>> problem.maximising(nn.functional.multi_margin_loss).clip_values
    (0, 1)
    """

    network: nn.Module
    loss: Loss = nn.functional.cross_entropy
    clip_values: ClipValues | None = None
    generator: torch.Generator | None = None
    classifier: Any = None
    rows: Rows | None = None
    weights: Tensor | None = None
    progress: float = 1.0
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

    def at(self, rows: Rows | None, weights: Tensor | None = None, progress: float = 1.0) -> Problem:
        """The same for a batch of these examples at this point of a run; with weights the loss is their weighted
        mean."""
        loss = self.loss if weights is None else weighted(self.loss, weights)
        return dataclasses.replace(self, loss=loss, rows=rows, weights=weights, progress=progress)

    def mean(self, values: Tensor) -> Tensor:
        """Of one value an example, by their weights."""
        return values.mean() if self.weights is None else (self.weights * values).sum() / self.weights.sum()


def weighted(loss: Loss, weights: Tensor) -> Loss:
    r"""A mean loss with weights, :math:`\sum_i w_i \ell_i / \sum_i w_i`.

    :param loss: a torch loss module that is a mean over the batch, or a function with a ``reduction``.
    :raises TypeError: for any other loss.

    >>> loss = weighted(nn.CrossEntropyLoss(), torch.tensor([1.0, 0.0]))
    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 9.0]])
    >>> bool(loss(logits, torch.tensor([0, 0])) == nn.functional.cross_entropy(logits[:1], torch.tensor([0])))
    True
    """
    each = unreduced(loss)
    total = weights.sum()
    return lambda logits, y: (weights * each(logits, y)).sum() / total


def unreduced(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    r"""The loss of each example, (N,), of which a mean loss is the mean.

    :param loss: a torch loss module that is a mean over the batch, or a function with a ``reduction``.
    :raises TypeError: for any other loss.

    >>> unreduced(nn.MSELoss())(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]]))
    tensor([1., 9.])
    """
    if isinstance(loss, nn.Module) and getattr(loss, "reduction", None) == "mean":
        each: Any = copy.copy(loss)
        each.reduction = "none"
    elif not isinstance(loss, nn.Module) and "reduction" in inspect.signature(loss).parameters:
        function: Any = loss
        each = functools.partial(function, reduction="none")
    else:
        raise TypeError(
            f"examples can't be weighted in the loss {loss!r}; give one of torch's losses with reduction='mean', such "
            "as torch.nn.CrossEntropyLoss()"
        )
    return lambda logits, y: each(logits, y).reshape(len(logits), -1).mean(dim=1)


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

    def without_memory(self) -> Adversary:
        """The attack for data that is not trained on; itself unless it keeps something about the training data."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """What the attack keeps from batch to batch, for checkpoints; nothing, as a rule."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict()``."""
