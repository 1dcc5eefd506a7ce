r"""Objectives: what is minimised over the weights, each an inner maximisation over the inputs and an outer loss.

An objective knows nothing of constraints; a solver knows nothing of objectives.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor

from art_atmc.attacks.art import ARTAttack, adversary, perturb, resolved
from art_atmc.attacks.base import Adversary, Problem
from art_atmc.attacks.curriculum import Linear
from art_atmc.support.numbers import Real, check_numbers

if TYPE_CHECKING:
    from art.attacks.attack import EvasionAttack

__all__ = ["TRADES", "Adversarial", "Natural", "Objective", "Outcome"]


class Outcome(NamedTuple):
    """The loss of a batch, ready for ``backward()``, and the logits on its adversarial examples."""

    loss: Tensor
    logits: Tensor


class Objective(abc.ABC):
    """A loss of a batch under attack; called with the network in training mode, before ``zero_grad()``.

    :param attack: an ART evasion attack or one of our adversaries; the inner maximisation. None for none: then the
        robust accuracy on validation data is the clean one.
    """

    attack: Adversary | EvasionAttack | None

    @abc.abstractmethod
    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        """The loss of inputs ``x`` with labels ``y`` as the classifier's loss takes them.

        ``problem.loss`` is the classifier's loss, weighted where examples have weights.
        """

    def figures(self) -> Mapping[str, float]:
        """What an epoch's line of the history says of the objective, such as multipliers; asked once, at its end."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What changes over a run, such as multipliers; by default what the attack keeps."""
        kept = self.attack.state_dict() if isinstance(self.attack, Adversary) else {}
        return {"attack": kept} if kept else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict()``."""
        if kept := state.get("attack", {}):
            if not isinstance(self.attack, Adversary):
                raise ValueError(
                    f"the run's attack kept {sorted(kept)}, but {type(self.attack).__name__} keeps nothing"
                )
            self.attack.load_state_dict(kept)


@final
@dataclasses.dataclass(frozen=True)
class Natural(Objective):
    r"""Training without an attack, :math:`\min_\theta \mathbb{E}\, f(\theta; x, y)`: the opposite of robust.

    >>> Natural().attack is None
    True
    """

    attack: None = None

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        logits = problem.network(x)
        return Outcome(problem.loss(logits, y), logits)


@final
@dataclasses.dataclass(frozen=True)
class Adversarial(Objective):
    r"""Adversarial training (Madry et al. 2018), with a share of the clean loss.

    .. math:: \min_\theta\; \mathbb{E}\,\bigl[(1 - s)\, f(\theta; x', y) + s\, f(\theta; x, y)\bigr], \qquad
              x' = \arg\max_{x' \in B(x, \epsilon)} f(\theta; x', y)

    Share 0 is Madry's objective and the one of the ATMC paper (Eq. 2); 0.5 is what its released code trains on MNIST
    and CIFAR-10.

    :param attack: an ART evasion attack or one of our adversaries.
    :param clean_share: s, in [0, 1), or a :class:`~art_atmc.attacks.Linear` of such shares over the run.
    :raises TypeError: when the attack is neither.
    :raises ValueError: for a targeted attack and a share out of range.

    >>> from art_atmc import PGD
    >>> Adversarial(PGD(eps=0.1, eps_step=0.025, max_iter=7), clean_share=0.5).clean_share
    0.5
    """

    attack: Adversary | EvasionAttack
    clean_share: float | Linear = 0.0

    def __post_init__(self) -> None:
        adversary(self.attack)  # refuses what can't be one
        share = Real("[0, 1)", "with 1 there would be no attack")
        if isinstance(self.clean_share, Linear):
            share.plain("clean_share.first", self.clean_share.first)
            share.plain("clean_share.last", self.clean_share.last)
        else:
            check_numbers(self, clean_share=share)

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        logits = problem.network(perturb(problem, self.attack, x, y))
        loss = problem.loss(logits, y)
        own = self.clean_share
        if share := own(problem.progress) if isinstance(own, Linear) else own:
            clean = problem.loss(problem.network(x), y)
            loss = torch.lerp(loss, clean, share)
        return Outcome(loss, logits)


@final
@dataclasses.dataclass(frozen=True)
class TRADES(Objective):
    r"""TRADES (Zhang et al. 2019): clean loss plus the divergence that an attack can cause.

    .. math:: \min_\theta\; \mathbb{E}\,\bigl[ f(\theta; x, y) + \beta \max_{x' \in B(x, \epsilon)}
              \mathrm{KL}\bigl(p_\theta(x) \,\|\, p_\theta(x')\bigr) \bigr]

    A native attack maximises the divergence itself, as in the paper; it needs a random start, because the divergence
    has no gradient at x. Any other ART attack maximises its own loss, as in ART's TRADES trainer. The network's output
    must be logits.

    :param attack: an ART evasion attack or one of our adversaries.
    :param beta: weight of the divergence, positive; the paper uses 1 and 6.
    :raises TypeError: when the attack is neither.
    :raises ValueError: for a targeted attack, a ``beta`` that is not positive, and an attack that starts at x itself.

    >>> from art_atmc import PGD
    >>> TRADES(PGD(eps=0.1, eps_step=0.025, max_iter=7)).beta
    6.0
    """

    attack: Adversary | EvasionAttack
    beta: float = 6.0

    def __post_init__(self) -> None:
        adversary(self.attack)  # refuses what can't be one
        check_numbers(self, beta=Real("(0, inf)", "the paper uses 1 and 6"))

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        attack = resolved(problem, self.attack)
        if isinstance(attack, ARTAttack):
            x_adv = perturb(problem, self.attack, x, y)
        else:
            if not getattr(attack, "random_start", True):
                raise ValueError(
                    "TRADES maximises a divergence that has no gradient at x itself; give the attack a "
                    "random start (ART: num_random_init=1, ours: random_start=True)"
                )
            # In evaluation mode, as the attack will be: the divergence is then zero at x, and only there for sure.
            x_adv = attack(problem.maximising(_divergence), x, problem.answers(x).softmax(dim=1))
        clean, logits = problem.network(x), problem.network(x_adv)
        loss = problem.loss(clean, y) + self.beta * problem.mean(_divergences(logits, clean.softmax(dim=1)))
        return Outcome(loss, logits)


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    return _divergences(logits, target).mean()


def _divergences(logits: Tensor, target: Tensor) -> Tensor:
    r"""KL(target || softmax(logits)) of each example; (N,).

    A probability that is rounded to 0 contributes nothing, and neither does its gradient, which would be infinite.
    """
    kept = target > torch.finfo(target.dtype).tiny
    probability = torch.where(kept, target, 1.0)
    reached = torch.where(kept, logits.log_softmax(dim=1), 0.0)
    return torch.where(kept, probability * (probability.log() - reached), 0.0).sum(dim=1)


def described(objective: Objective) -> str:
    """An objective and its attack in words, the same in every process."""
    attack = objective.attack
    names = getattr(attack, "attack_params", None)
    if names is None:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(objective))
    # Attacks of ART name all that they hold in their `repr`, some of them themselves without end.
    held = vars(objective) | {name: getattr(attack, name, None) for name in names}
    plain = {name: value for name, value in held.items() if isinstance(value, bool | int | float | str)}
    return f"{type(objective).__name__} {type(attack).__name__} {plain}"
