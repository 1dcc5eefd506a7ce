"""Risk domains: what one perturbation has to bring down together, as networks, images, transformations or losses."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from art_atmc.attacks import PerSampleLoss, Problem
from art_atmc.attacks.square import margin

__all__ = ["Domains", "Images", "Limits", "Losses", "Margin", "limits_of"]

Limits = tuple[Tensor, Tensor]


@final
@dataclasses.dataclass(frozen=True)
class Margin(PerSampleLoss):
    r""":math:`\max_{j \ne y} z_j - z_y`, the loss of Carlini and Wagner: positive where the sample is misclassified.

    The paper's hinge :math:`\max(z_y - \max_{j \ne y} z_j + 50, 0)` is 50 less than this with its sign turned, as long
    as no margin exceeds 50, and a shift that all domains share moves no weight.

    >>> y = torch.tensor([1])
    >>> Margin()(torch.tensor([[3.0, 1.0, 2.0]]), y, y)
    tensor([2.])
    """

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        return margin(logits, y)


class Domains(abc.ABC):
    """K risk domains, and how many inputs one perturbation is for.

    N inputs have G = N perturbations, one each, unless a subclass says otherwise.
    """

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """What to call each of the K domains."""

    @abc.abstractmethod
    def answers(self, problem: Problem, points: Tensor) -> Sequence[Tensor]:
        """The logits of each domain: K tensors of shape (G d, classes), with d answers in a row for each perturbation;
        d is 1 unless a domain is random.

        :param points: the perturbed inputs, (N, ...).
        """

    def networks(self, problem: Problem) -> Sequence[nn.Module]:
        """All networks that are asked."""
        return [problem.network]

    def check(self, problem: Problem, x: Tensor) -> None:
        """Refuse what can't be attacked, before long computations."""

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Of the perturbations, (G, ...)."""
        return tuple(x.shape)

    def room(self, x: Tensor, limits: Limits) -> Limits:
        """The smallest and the largest value that each entry of the perturbations may have."""
        low, high = limits
        return (low - x).clamp(max=0), (high - x).clamp(min=0)

    def points(self, x: Tensor, delta: Tensor, limits: Limits) -> Tensor:
        """The perturbed inputs, (N, ...)."""
        return x + delta

    def labels(self, y: Tensor) -> Tensor:
        """Of each perturbation in each domain, (G, K)."""
        return y[:, None].expand(-1, len(self.names))


@final
@dataclasses.dataclass(frozen=True)
class Images(Domains):
    """The domains are images: one perturbation for each group of consecutive ones, which then share it (universal).

    :param size: K, the images of a group.
    :param clip_each: whether each perturbed image is clipped by itself, as ART's ``UniversalPerturbation`` does; else
        the perturbation stays within what every image of the group leaves it, which is little on black and white.

    >>> Images(2).shape(torch.zeros(6, 1, 3, 3))
    (3, 1, 3, 3)
    """

    size: int
    clip_each: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise ValueError(f"`size` must be an integer of at least 1, got {self.size!r}; it counts images of a group")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"image {k + 1}" for k in range(self.size))

    def check(self, problem: Problem, x: Tensor) -> None:
        if over := len(x) % self.size:
            raise ValueError(
                f"{len(x)} images do not make groups of {self.size}, {over} are left over; leave them out or add "
                f"{self.size - over}"
            )

    def shape(self, x: Tensor) -> tuple[int, ...]:
        return (len(x) // self.size, *x.shape[1:])

    def room(self, x: Tensor, limits: Limits) -> Limits:
        low, high = limits
        below, above = ((bound - x).unflatten(0, (-1, self.size)) for bound in (low, high))
        if self.clip_each:
            return below.amin(dim=1).clamp(max=0), above.amax(dim=1).clamp(min=0)
        return below.amax(dim=1).clamp(max=0), above.amin(dim=1).clamp(min=0)

    def points(self, x: Tensor, delta: Tensor, limits: Limits) -> Tensor:
        moved = x + delta.repeat_interleave(self.size, dim=0)
        if not self.clip_each:
            return moved
        low, high = limits
        clipped = torch.minimum(torch.maximum(moved, low), high)
        # The gradient passes the clipping: else an entry that is clipped in every image could never come back.
        return moved + (clipped - moved).detach()

    def answers(self, problem: Problem, points: Tensor) -> Sequence[Tensor]:
        return problem.network(points).unflatten(0, (-1, self.size)).unbind(1)  # type: ignore[no-any-return]

    def labels(self, y: Tensor) -> Tensor:
        return y.unflatten(0, (-1, self.size))


@final
@dataclasses.dataclass(frozen=True)
class Losses(Domains):
    """The domains are losses of the same answers, such as those that mask each other's gradients.

    :param losses: what the attack raises together; each takes the place of its ``loss``.
    :raises ValueError: for an empty list.

    >>> from art_atmc.attacks import DLR, CrossEntropy
    >>> Losses([CrossEntropy(), DLR()]).names
    ('CrossEntropy', 'DLR')
    """

    losses: tuple[PerSampleLoss, ...]

    def __init__(self, losses: Iterable[PerSampleLoss]) -> None:
        object.__setattr__(self, "losses", tuple(losses))
        if not self.losses:
            raise ValueError("`losses` is empty; give at least one loss")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(type(loss).__name__ for loss in self.losses)

    def answers(self, problem: Problem, points: Tensor) -> Sequence[Tensor]:
        return [problem.network(points)] * len(self.losses)


def limits_of(problem: Problem, x: Tensor) -> Limits:
    """The smallest and the largest valid input; also the place where an attack checks its inputs."""
    if not x.is_floating_point() or x.dim() < 2 or not len(x):
        raise ValueError(
            f"`x` must be a floating-point batch of shape (N, ...), got {x.dtype} of shape {tuple(x.shape)}"
        )
    low, high = (-math.inf, math.inf) if problem.clip_values is None else problem.clip_values
    return torch.as_tensor(low).to(x), torch.as_tensor(high).to(x)
