"""What all self-checks share: the network with some examples, attacks on it, and how much is too much."""

from __future__ import annotations

import dataclasses
import math
from typing import Final, final

import torch
from torch import Tensor, nn

from art_atmc.attacks.apgd import APGD
from art_atmc.attacks.base import Adversary, ClipValues, Problem
from art_atmc.attacks.pgd import PGD
from art_atmc.classifiers.labels import misclassified
from art_atmc.classifiers.modes import fixed
from art_atmc.evaluation.result import Severity
from art_atmc.support.statistics import wilson

__all__ = ["ROUNDING", "STEPS", "UNBELIEVABLE", "Bench", "differentiable", "log_odds", "part", "severity", "surplus"]

DOUBTFUL: Final = 0.01  # share of examples that may go against expectation, beyond chance, before a check warns
UNBELIEVABLE: Final = 0.03  # and before it fails
STEPS: Final = (1, 5, 20)
ROUNDING: Final = 1e-5  # of logits, relative to the largest: what a device may answer differently


@final
@dataclasses.dataclass(frozen=True)
class Bench:
    """The network with the examples that gradients are spent on.

    :param network: with a logit for each class.
    """

    network: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    norm: float
    clip_values: ClipValues | None
    seed: int

    def __len__(self) -> int:
        return len(self.x)

    def correct(self, logits: Tensor) -> Tensor:
        return ~misclassified(logits, self.y)

    def accuracy(self, logits: Tensor) -> float:
        return float(self.correct(logits).double().mean())

    def generator(self) -> torch.Generator:
        """The same random numbers each time, so that a difference between two attacks is theirs."""
        return torch.Generator(self.x.device).manual_seed(self.seed)

    def converging(self, steps: int) -> Adversary:
        """PGD whose steps together cross the ball."""
        if self.norm == 1:  # PGD's step is lost where the steepest entry is at its bound
            return APGD(self.eps, 1, steps)
        return PGD(self.eps, 2.5 * self.eps / steps, steps, self.norm)

    def logits(self, network: nn.Module, x: Tensor | None = None) -> Tensor:
        with fixed(network), torch.no_grad():
            return network(self.x if x is None else x)  # type: ignore[no-any-return]

    def attacked(self, network: nn.Module, attack: Adversary) -> Tensor | None:
        """The network's logits after the attack; None where its gradient is missing or not finite."""
        if not differentiable(network, self.x[:1]):
            return None
        try:
            points = attack(Problem(network, clip_values=self.clip_values, generator=self.generator()), self.x, self.y)
        except FloatingPointError:
            return None
        return self.logits(network, points)


def differentiable(network: nn.Module, probe: Tensor) -> bool:
    """Whether there is a gradient at all; it may be zero."""
    with fixed(network), torch.enable_grad():
        probe = probe.detach().requires_grad_()
        logits = network(probe)
        return logits.requires_grad and torch.autograd.grad(logits.sum(), probe, allow_unused=True)[0] is not None


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    r"""Log odds of a wrong class, :math:`\log \sum_{i \ne y} e^{z_i} - z_y`; (N,).

    They rise with the cross-entropy, :math:`\log(e^{\ell} - 1)`, and do not saturate.
    """
    own = logits.gather(1, y[:, None])
    return (logits.scatter(1, y[:, None], -math.inf).logsumexp(dim=1, keepdim=True) - own)[:, 0]


def severity(count: int, n: int, least: Severity = Severity.PASSED) -> Severity:
    """Of ``count`` among n examples that go against expectation, chance allowed for.

    :param least: what it is where chance explains the count.
    """
    share = wilson(max(count, 0), n)[0]
    if share > UNBELIEVABLE:
        return Severity.FAILED
    return Severity.WARNING if share > DOUBTFUL else least


def surplus(more: Tensor, fewer: Tensor) -> int:
    """By how many the first outcome has more examples correct; 0 where the examples that differ could as well have
    differed the other way, by Wilson's interval of their share."""
    gained, lost = int((more & ~fewer).sum()), int((fewer & ~more).sum())
    return gained - lost if gained and wilson(gained, gained + lost)[0] > 0.5 else 0


def part(count: int, n: int) -> str:
    """
    >>> part(3, 64)
    '3 of 64 examples (4.7%)'
    """
    return f"{count} of {n} examples ({count / n:.1%})"
