"""Numbers that move over a training run, and an attack that grows with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from art_atmc.attacks.base import Adversary, Problem
from art_atmc.attacks.pgd import PGD
from art_atmc.attacks.recycled import Recycled
from art_atmc.support.numbers import Real, check_numbers

__all__ = ["Growing", "Linear"]


@final
@dataclasses.dataclass(frozen=True)
class Linear:
    r"""A number that moves from one value to another over the first part of a run, and stays there.

    .. math:: v(p) = v_0 + (v_1 - v_0) \min(p / u, 1)

    with p the share of the run that is done, so that runs of any length are the same recipe.

    :param first: :math:`v_0`, at the beginning.
    :param last: :math:`v_1`, from ``until`` on.
    :param until: u, a share of the run, in (0, 1].
    :raises ValueError: for a number that is not finite, and a share out of range: a ramp that never ends within the
        run would leave the last value for good.

    >>> share = Linear(0.5, 0.0, until=0.4)
    >>> share(0.0), share(0.2), share(0.9)
    (0.5, 0.25, 0.0)
    """

    first: float
    last: float
    until: float = 0.3

    def __post_init__(self) -> None:
        finite = Real("(-inf, inf)", "give a number")
        ends = Real("(0, 1]", "a ramp ends within the run: give a share of it, such as 0.3")
        check_numbers(self, first=finite, last=finite, until=ends)

    def __call__(self, progress: float) -> float:
        return self.first + (self.last - self.first) * min(progress / self.until, 1.0)


@final
@dataclasses.dataclass(frozen=True)
class Growing(Adversary):
    r"""An attack whose radius, and the number of its steps, grow at the beginning of training.

    .. math:: \epsilon(p) = \epsilon \min(p / u, 1), \qquad \alpha(p) = \alpha \min(p / u, 1)

    with p the share of the run that is done. A network that has learned nothing yet may stay at chance against the full
    radius (Pang et al. 2021, https://arxiv.org/abs/2010.00467, section 3.1, where it is called a warm-up). Validation
    is always against the attack in full.

    :param attack: the attack in full.
    :param until: u, the share of the run after which it is, in (0, 1].
    :param max_iter: the number of steps over the run, rounded; None for the attack's own throughout.
    :raises TypeError: when the attack is neither a :class:`~art_atmc.PGD` nor a :class:`~art_atmc.Recycled`.
    :raises ValueError: for a share out of range, and fewer steps than one.

    >>> import torch
    >>> network = torch.nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> attack = Growing(PGD(eps=0.5, eps_step=0.5, max_iter=1, random_start=False), until=0.5)
    >>> x, y = torch.tensor([[2.0]]), torch.tensor([0])
    >>> [attack(Problem(network, progress=p), x, y).item() for p in (0.1, 0.25, 1.0)]
    [1.899999976158142, 1.75, 1.5]
    """

    attack: PGD | Recycled
    until: float = 0.3
    max_iter: Linear | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.attack, PGD | Recycled):
            raise TypeError(
                f"`attack` must be a PGD or a Recycled, whose radius can be another, got {type(self.attack).__name__}"
            )
        check_numbers(self, until=Real("(0, 1]", "give a share of the run, such as 0.3"))
        if self.max_iter is not None:
            whole = Real("[1, inf)", "an attack makes one step at least")
            whole.plain("max_iter.first", self.max_iter.first)
            whole.plain("max_iter.last", self.max_iter.last)

    @property
    def eps(self) -> float:
        """The radius in full."""
        return self.attack.eps

    @property
    def random_start(self) -> bool:
        """Whether it begins off the example itself."""
        return self.attack.random_start

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        own = self.attack
        full = own.attack if isinstance(own, Recycled) else own
        # Never exactly zero: PGD would refuse it.
        share = max(Linear(0.0, 1.0, self.until)(problem.progress), 1e-3)
        steps = full.max_iter if self.max_iter is None else round(self.max_iter(problem.progress))
        now = dataclasses.replace(full, eps=share * full.eps, eps_step=share * full.eps_step, max_iter=steps)
        return (own.with_steps(now) if isinstance(own, Recycled) else now)(problem, x, y)

    def without_memory(self) -> Adversary:
        return self.attack.without_memory()

    def state_dict(self) -> dict[str, Any]:
        return self.attack.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.attack.load_state_dict(state)
