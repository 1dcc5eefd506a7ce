"""Suites of attacks, as data: what a robust accuracy is the worst case of."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, final

from art.attacks.attack import EvasionAttack
from art.attacks.evasion import AutoAttack
from art.estimators.classification.classifier import ClassGradientsMixin
from art.estimators.estimator import LossGradientsMixin

from art_atmc.attacks.apgd import APGD, DLR
from art_atmc.attacks.art import ARTAttack
from art_atmc.attacks.base import Adversary
from art_atmc.attacks.built import Built
from art_atmc.attacks.pgd import PGD
from art_atmc.attacks.square import Square
from art_atmc.attacks.wrm import WRM
from art_atmc.support.numbers import Flag, Real, Whole, check_numbers

__all__ = ["SUITES", "Access", "Attack", "Suite", "paper", "quick", "standard", "thorough"]


class Access(enum.Enum):
    """What of the classifier an attack uses."""

    GRADIENTS = "gradients"
    OUTPUTS = "outputs"
    TRANSFER = "transfer"  # none: its examples are made for another classifier


@final
@dataclasses.dataclass(frozen=True)
class Attack:
    """A line of a suite.

    :param name: what to call it in a report; no other attack of the suite has it.
    :param method: an adversary, or a built ART attack.
    :param access: what it uses of the classifier.
    :param restarts: how often it is run, from different random numbers, on the examples that still stand; at least 1.
    :param bounded: whether it keeps to its ball; one that does not is left out of the worst case.
    :param ball: (radius, norm) that its examples have to keep to, where they are not the suite's: for the worst case
        over several balls.
    :raises TypeError: for a method that is no attack.
    :raises ValueError: for a targeted ART attack, an empty name and restarts below 1.
    """

    name: str
    method: Adversary | EvasionAttack
    access: Access = Access.GRADIENTS
    restarts: int = 1
    bounded: bool = True
    ball: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.method, Adversary):
            ARTAttack(self.method)  # refuses what can't be one
        faults = [] if self.name else ["an attack needs a `name`"]
        if self.ball is not None:
            radius, norm = Real("(0, inf)", "give the radius"), Real((1, 2, math.inf), "other norms have no suite")
            ball = radius.plain("ball's radius", self.ball[0]), norm.plain("ball's norm", self.ball[1])
            object.__setattr__(self, "ball", ball)
        check_numbers(self, faults, restarts=Whole(1, None, "1 is one run"), bounded=Flag())

    @classmethod
    def of(cls, method: Attack | Adversary | EvasionAttack) -> Attack:
        """A line for any attack; the restarts of our PGD become the line's, which spares misclassified examples.

        >>> Attack.of(PGD(0.1, 0.025, 20, restarts=5)).name
        'PGD-20 x5'
        """
        if isinstance(method, Attack):
            return method
        kind = method.attack if isinstance(method, ARTAttack | Built) else method
        name = kind.__name__ if isinstance(kind, type) else type(kind).__name__
        if isinstance(method, PGD) and method.restarts > 1:
            return cls(
                f"{name}-{method.max_iter} x{method.restarts}",
                dataclasses.replace(method, restarts=1),
                restarts=method.restarts,
            )
        steps = f"-{method.max_iter}" if isinstance(method, PGD | APGD | Square | WRM) else ""
        bounded = not isinstance(method, WRM)
        return cls(name + steps, method, Access.GRADIENTS if _asks_gradients(kind) else Access.OUTPUTS, bounded=bounded)


@final
@dataclasses.dataclass(frozen=True, init=False)
class Suite:
    r"""Attacks within one ball :math:`B_p(x, \epsilon)`.

    :param name: what to call it in a report.
    :param eps: radius, in the units of x; positive.
    :param norm: p: 1, 2 or infinity. Examples outside the ball or the clip values do not count, whatever made them.
    :param attacks: each an :class:`Attack`, an adversary or a built ART attack.
    :raises ValueError: at construction, naming all that is out of range or named twice, and where every attack stays
        below the radius of the suite.

    >>> suite = Suite("mine", eps=0.1, norm=math.inf, attacks=(PGD(0.1, 0.025, 20), Square(0.1)))
    >>> [attack.name for attack in suite.attacks]
    ['PGD-20', 'Square-1000']
    """

    name: str
    eps: float
    norm: float
    attacks: tuple[Attack, ...]

    def __init__(
        self, name: str, eps: float, norm: float | str, attacks: Iterable[Attack | Adversary | EvasionAttack]
    ) -> None:
        given = {"name": name, "eps": eps, "norm": norm, "attacks": tuple(Attack.of(attack) for attack in attacks)}
        for field, value in given.items():
            object.__setattr__(self, field, value)
        faults = [] if self.attacks else ["`attacks` is empty; give at least one"]
        if twice := sorted(name for name, n in Counter(a.name for a in self.attacks).items() if n > 1):
            faults.append(f"attacks share the names {twice}; name them by Attack(name, method)")
        check_numbers(
            self,
            faults,
            eps=Real("(0, inf)", "give the radius in the units of x"),
            norm=Real((1, 2, math.inf), "other norms have no suite"),
        )
        self._check_radii()

    def _check_radii(self) -> None:
        balls = {attack.name: attack.ball or (self.eps, self.norm) for attack in self.attacks if attack.bounded}
        radii = {a.name: _radius(a.method, balls[a.name][1]) for a in self.attacks if a.bounded}
        if wide := [
            name for name, radius in radii.items() if radius is not None and radius > balls[name][0] * (1 + 1e-6)
        ]:
            raise ValueError(
                f"the radius of {wide} is above `eps`={self.eps!r}, so that their examples would not count"
            )
        radii = {attack.name: radii[attack.name] for attack in self.attacks if attack.bounded and attack.ball is None}
        known = [radius for radius in radii.values() if radius is not None]
        if known and len(known) == len(radii) and max(known) < self.eps * (1 - 1e-6):
            raise ValueError(
                f"no attack reaches the radius `eps`={self.eps!r} of the suite, the widest one {max(known)!r}, so that "
                "its figure would be that of a smaller ball; give the attacks and the suite one radius"
            )

    def plus(self, *attacks: Attack | Adversary | EvasionAttack) -> Suite:
        """The suite with more attacks at its end.

        >>> from art.attacks.evasion import DeepFool
        >>> quick(0.1).plus(Built(DeepFool)).attacks[-1].name
        'DeepFool'
        """
        return dataclasses.replace(self, attacks=(*self.attacks, *map(Attack.of, attacks)))


def paper(eps: float, norm: float = math.inf, steps: int = 7) -> Attack:
    r"""The attack of the ATMC paper's figures: PGD from x itself, no random start, with step :math:`1.25\,\epsilon/n`.

    :param steps: n; 16 on MNIST and 7 elsewhere in the paper.

    >>> paper(8 / 255).method.random_start
    False
    """
    return Attack(f"paper-{steps}", PGD(eps, 1.25 * eps / steps, steps, norm, random_start=False))


def quick(eps: float, norm: float = math.inf, paper_steps: int = 7) -> Suite:
    """A first look: every kind of attack, briefly.

    At most 97 gradients and 300 queries an example that stands.
    """
    return Suite(
        "quick",
        eps,
        norm,
        (
            *_common(eps, norm, paper_steps),
            _pgd(eps, norm, steps=20, restarts=1),
            Attack("APGD-CE-20", APGD(eps, norm, 20)),
            Attack("APGD-DLR-20", APGD(eps, norm, 20, DLR())),
            Attack("Square-300", Square(eps, norm, 300), Access.OUTPUTS),
        ),
    )


def standard(eps: float, norm: float = math.inf, paper_steps: int = 7) -> Suite:
    """What a report should rest on: converged attacks, with restarts.

    At most 487 gradients and 1,000 queries an example that stands.
    """
    return Suite(
        "standard",
        eps,
        norm,
        (
            *_common(eps, norm, paper_steps),
            _pgd(eps, norm, steps=50, restarts=5),
            Attack("APGD-CE-100", APGD(eps, norm, 100)),
            Attack("APGD-DLR-100", APGD(eps, norm, 100, DLR())),
            Attack("Square-1000", Square(eps, norm, 1000), Access.OUTPUTS),
        ),
    )


def thorough(eps: float, norm: float = math.inf, paper_steps: int = 7) -> Suite:
    """What a claim should rest on: more restarts, targeted losses, and ART's AutoAttack, in full.

    At most 2,348 gradients and 5,000 queries an example that stands, and those of AutoAttack: five restarts each of
    APGD-CE, APGD-DLR and Square with as many steps, and DeepFool. It needs the extra ``evaluation``, and is not the
    reference one: DeepFool stands in for FAB.
    """
    options = {"eps": eps, "norm": norm, "eps_step": 2 * eps}
    return Suite(
        "thorough",
        eps,
        norm,
        (
            *_common(eps, norm, paper_steps),
            _pgd(eps, norm, steps=100, restarts=10),
            Attack("APGD-CE-100 x5", APGD(eps, norm, 100), restarts=5),
            Attack("APGD-DLR-100 x5", APGD(eps, norm, 100, DLR()), restarts=5),
            *(Attack(f"APGD-DLR-100 target {rank}", APGD(eps, norm, 100, DLR(rank))) for rank in (1, 2, 3)),
            Attack("Square-5000", Square(eps, norm, 5000), Access.OUTPUTS),
            Attack("AutoAttack", Built(AutoAttack, options)),
        ),
    )


SUITES: Mapping[str, Callable[[float, float, int], Suite]] = MappingProxyType(
    {"quick": quick, "standard": standard, "thorough": thorough}
)
"""The suites by their names on the command line; each is made for a radius, a norm, and the paper's steps."""


def _common(eps: float, norm: float, paper_steps: int) -> tuple[Attack, ...]:
    return (
        Attack("FGM", PGD(eps, eps, 1, norm, random_start=False)),
        paper(eps, norm, paper_steps),
        Attack("WRM-7", WRM(), bounded=False),
        Attack("transfer", PGD(eps, eps / 8, 20, norm), Access.TRANSFER),
    )


def _pgd(eps: float, norm: float, steps: int, restarts: int) -> Attack:
    return Attack(
        f"PGD-{steps}" + (f" x{restarts}" if restarts > 1 else ""),
        PGD(eps, 2.5 * eps / steps, steps, norm),  # the step lets it cross the ball (Madry et al. 2018)
        restarts=restarts,
    )


def _radius(method: Any, norm: float) -> float | None:
    """The radius that an attack of the same norm names; None where it names none."""
    method = method.attack if isinstance(method, ARTAttack) else method
    options = (
        method.options if isinstance(method, Built) else {key: getattr(method, key, None) for key in ("eps", "norm")}
    )
    eps, own = options.get("eps"), options.get("norm")
    if not isinstance(eps, int | float) or own not in (1, 2, math.inf, "inf") or float(own) != norm:
        return None
    return float(eps)


def _asks_gradients(kind: Any) -> bool:
    """Whether an adversary or an ART attack, or one of the attacks that AutoAttack holds, uses gradients."""
    attack: type[Any] = kind if isinstance(kind, type) else type(kind)
    if not issubclass(attack, EvasionAttack):
        return attack is not Square
    needs = attack._estimator_requirements or ()
    return issubclass(attack, AutoAttack) or any(mixin in needs for mixin in (LossGradientsMixin, ClassGradientsMixin))
