r"""A weighted sum of networks as one network, so that an attack on it meets all members at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn

__all__ = ["Ensemble", "SoftCapped"]


@final
class Ensemble(nn.Module):
    r"""The weighted sum of the logits of T networks.

    .. math:: F_T(x) = \sum_{t=1}^{T} w_t f_t(x)

    The gradient of the sum is what an attack sees: no member can hide the gradient of another. A member whose
    parameters are all frozen stays in evaluation mode: its statistics and dropout are left alone while a later one is
    trained.

    :param members: networks of one input shape that return logits of one shape (N, classes).
    :param weights: :math:`w_t`, positive; by default 1 / T each, the mean.
    :raises ValueError: without members, for one network given twice, networks that share parameters, and weights that
        are not finite or not positive.

    >>> ensemble = Ensemble([nn.Linear(1, 2), nn.Linear(1, 2)], weights=[1.0, 0.5])
    >>> x = torch.ones(3, 1)
    >>> torch.equal(ensemble(x), ensemble.members[0](x) + 0.5 * ensemble.members[1](x))
    True
    """

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        _check_own(members)
        self.register_buffer("weights", _weights(weights, len(members)))
        self._used: slice | int | None = None

    def __len__(self) -> int:
        return len(self.members)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self._used, int):
            return self.members[self._used](x)  # type: ignore[no-any-return]
        used = slice(None) if self._used is None else self._used
        total: Tensor | None = None
        for member, weight in zip(self.members[used], self.weights[used], strict=True):
            output = weight * member(x)
            total = output if total is None else total + output
        if total is None:
            raise RuntimeError("no member is left to answer; use at least one")
        return total

    def train(self, mode: bool = True) -> Ensemble:
        super().train(mode)
        for member in self.members:
            if mode and not any(parameter.requires_grad for parameter in member.parameters()):
                member.eval()
        return self

    @contextlib.contextmanager
    def using(self, used: slice | int) -> Iterator[None]:
        """Within the block the answer is the weighted sum of a slice of the members, or that of one, unweighted."""
        before, self._used = self._used, used
        try:
            yield
        finally:
            self._used = before

    def prefix(self, stages: int) -> Ensemble:
        """The first members under their weights; they are shared, not copied.

        :raises ValueError: for less than one stage, or more than there are.
        """
        check_stages(stages, len(self))
        return Ensemble(list(self.members[:stages]), self.weights[:stages].tolist())

    def add(self, member: nn.Module, weight: float = 1.0) -> None:
        """One more member, the last."""
        _check_own([*self.members, member])
        self._set(_weights([*self.weights.tolist(), weight], len(self) + 1))
        self.members.append(member)

    def drop(self, index: int) -> nn.Module:
        """Take a member out, and give it back.

        :raises ValueError: for the last one that is left.
        """
        if len(self) == 1:
            raise ValueError("an ensemble needs at least one member, and this is the last one")
        index = range(len(self))[index]
        member = self.members[index]
        del self.members[index]
        self._set(torch.cat([self.weights[:index], self.weights[index + 1 :]]))
        return member

    def reweight(self, weights: Sequence[float]) -> None:
        """Other weights, one for each member.

        >>> ensemble = Ensemble([nn.Linear(1, 2), nn.Linear(1, 2)])
        >>> ensemble.reweight([1, 3])
        >>> ensemble.weights.tolist()
        [1.0, 3.0]
        """
        self._set(_weights(weights, len(self)))

    def _set(self, weights: Tensor) -> None:
        self.weights = weights.to(self.weights)


@final
class SoftCapped(nn.Module):
    r"""A network whose logits are bounded, smoothly:

    .. math:: f(x) = c \tanh\bigl(g(x) / c\bigr) \in (-c, c)

    An answer keeps its class. A sum of such members can stop early: once the margin is larger than what the others can
    still add, see :meth:`art_atmc_boosting.EnsembleClassifier.predict_early`. (Soft-capping as in Gemma 2, 2024.)

    :param network: g, which returns logits.
    :param cap: c, positive.

    >>> SoftCapped(nn.Identity(), cap=2.0)(torch.tensor([[0.0, 100.0]])).tolist()
    [[0.0, 2.0]]
    """

    def __init__(self, network: nn.Module, cap: float = 10.0) -> None:
        super().__init__()
        if not (math.isfinite(cap) and cap > 0):
            raise ValueError(f"`cap` must be positive and finite, got {cap}; 10 is usual")
        self.network, self.cap = network, float(cap)

    def forward(self, x: Tensor) -> Tensor:
        return self.cap * torch.tanh(self.network(x) / self.cap)


def check_stages(stages: int, there: int) -> None:
    if not isinstance(stages, int) or not 1 <= stages <= there:
        raise ValueError(f"`stages` must be from 1 to {there}, the number of members, got {stages!r}")


def _check_own(members: Sequence[nn.Module]) -> None:
    if not members:
        raise ValueError("an ensemble needs at least one member, got none")
    seen: dict[int, int] = {}
    for number, member in enumerate(members):
        for part in {id(member), *map(id, member.parameters())}:
            if seen.setdefault(part, number) != number:
                raise ValueError(
                    f"members {seen[part]} and {number} are one network or share parameters, so training one would "
                    "change the other; build a new network each time"
                )


def _weights(weights: Sequence[float] | None, number: int) -> Tensor:
    values = [1 / number] * number if weights is None else [float(weight) for weight in weights]
    if len(values) != number or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"`weights` must be {number} finite numbers above 0, one for each member, got {values}")
    return torch.tensor(values)
