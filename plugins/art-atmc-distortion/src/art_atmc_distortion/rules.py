r"""Rules by which multipliers move. Two of them never do, and are the baselines: :class:`Fixed` and :class:`Hinge`."""

from __future__ import annotations

import dataclasses
import math
from typing import final

from torch import Tensor

from art_atmc.support.numbers import Real, check_numbers
from art_atmc_distortion.multipliers import LEAST, MOST, Rule

__all__ = ["Additive", "AugmentedLagrangian", "Fixed", "Hinge", "Multiplicative", "NuPI"]


@final
@dataclasses.dataclass(frozen=True)
class Multiplicative(Rule):
    r"""GECO: a step of the logarithm along a moving average of the violation.

    .. math:: e_t = \alpha\, e_{t-1} + (1 - \alpha)\, g_t, \qquad
              \ln \lambda \leftarrow \ln \lambda + \eta\, \mathrm{clip}(e_t, -1, 1)

    The value stays positive and within [1e-8, 1e4]. The average is divided by :math:`1 - \alpha^t`, so that early steps
    are not short.

    :param start: :math:`\lambda` at the start, in the unit of what is minimised.
    :param rate: :math:`\eta`, in (0, 1].
    :param average: :math:`\alpha`, in [0, 1).
    :raises ValueError: for numbers out of range.

    Source: Rezende and Viola 2018 (https://arxiv.org/abs/1810.00597, Algorithm 1), as distortion-constrained
    optimisation takes it (https://arxiv.org/abs/2005.04064).

    >>> from art_atmc_distortion import Multiplier
    >>> multiplier = Multiplier(Multiplicative(rate=0.1, average=0.0))
    >>> multiplier.step(0.5)
    >>> round(multiplier.value, 4)
    1.0513
    """

    rate: float = 0.05
    average: float = 0.9

    def __post_init__(self) -> None:
        check_numbers(
            self,
            start=Real("(0, inf)", "a multiplier that is zero can't grow by factors"),
            rate=Real("(0, 1]", "0.05 is usual"),
            average=Real("[0, 1)", "0.9 is usual"),
        )

    def memory(self) -> tuple[float, ...]:
        return 0.0, 0.0

    def advanced(self, value: float, memory: tuple[float, ...], violation: float) -> tuple[float, tuple[float, ...]]:
        mean = self.average * memory[0] + (1 - self.average) * violation
        weight = self.average * memory[1] + (1 - self.average)
        return _within(value * math.exp(self.rate * _clipped(mean / weight))), (mean, weight)


@final
@dataclasses.dataclass(frozen=True)
class Additive(Rule):
    r"""Projected gradient ascent on the dual, :math:`\lambda \leftarrow \max(0, \lambda + \eta g)`.

    A bound with slack gets exactly 0. Momentum is left out on purpose: on the dual it makes oscillations worse.

    :param start: :math:`\lambda` at the start, at least 0.
    :param rate: :math:`\eta`, positive.
    :raises ValueError: for numbers out of range.

    >>> from art_atmc_distortion import Multiplier
    >>> multiplier = Multiplier(Additive(rate=0.5, start=0.1))
    >>> multiplier.step(-0.4)
    >>> multiplier.value
    0.0
    """

    rate: float = 0.05

    def __post_init__(self) -> None:
        check_numbers(
            self, start=Real("[0, inf)", "1 is usual"), rate=Real("(0, inf)", "it has the unit of what is minimised")
        )

    def advanced(self, value: float, memory: tuple[float, ...], violation: float) -> tuple[float, tuple[float, ...]]:
        return min(max(0.0, value + self.rate * violation), MOST), memory


@final
@dataclasses.dataclass(frozen=True)
class NuPI(Rule):
    r"""A proportional-integral controller on the logarithm of the multiplier.

    .. math:: \xi_t = \nu\, \xi_{t-1} + (1 - \nu)\, e_t, \qquad
              \ln \lambda_t = \ln \lambda_0 + \eta \Bigl( k\, \xi_t + \sum_{s \le t} e_s \Bigr), \qquad
              e = \mathrm{clip}(g, -1, 1)

    The sum is what :class:`Multiplicative` adds up; the part in proportion to the present violation damps oscillations.

    :param start: :math:`\lambda_0`, positive.
    :param rate: :math:`\eta`, in (0, 1].
    :param proportional: k, at least 0.
    :param average: :math:`\nu`, in [0, 1).
    :raises ValueError: for numbers out of range.

    Source: Sohrabi et al. 2024 (https://arxiv.org/abs/2406.04558), where it acts on the multiplier itself.

    >>> from art_atmc_distortion import Multiplier
    >>> multiplier = Multiplier(NuPI(rate=0.1, proportional=1.0, average=0.0))
    >>> multiplier.step(0.5), multiplier.step(0.0)
    (None, None)
    >>> round(multiplier.value, 4)
    1.0513
    """

    rate: float = 0.05
    proportional: float = 4.0
    average: float = 0.9

    def __post_init__(self) -> None:
        check_numbers(
            self,
            start=Real("(0, inf)", "a multiplier that is zero can't grow by factors"),
            rate=Real("(0, 1]", "0.05 is usual"),
            proportional=Real("[0, inf)", "4 is usual, 0 leaves the integral alone"),
            average=Real("[0, 1)", "0.9 is usual"),
        )

    def memory(self) -> tuple[float, ...]:
        return 0.0, 0.0

    def advanced(self, value: float, memory: tuple[float, ...], violation: float) -> tuple[float, tuple[float, ...]]:
        error = _clipped(violation)
        mean = self.average * memory[0] + (1 - self.average) * error
        # The sum is held where the value is, or it would go on growing and take as long to come back.
        low, high = (math.log(end / self.start) / self.rate for end in (LEAST, MOST))
        total = min(max(memory[1] + error, low), high)
        value = _within(self.start * math.exp(self.rate * (self.proportional * mean + total)))
        return value, (mean, total)


@final
@dataclasses.dataclass(frozen=True)
class AugmentedLagrangian(Rule):
    r"""The method of multipliers: additive ascent, with a quadratic penalty on what is violated.

    .. math:: \frac\rho2 \Bigl( \max\bigl(0,\; g + \lambda/\rho\bigr)^2 - (\lambda/\rho)^2 \Bigr), \qquad
              \lambda \leftarrow \max(0, \lambda + \rho g)

    :param start: :math:`\lambda` at the start, at least 0.
    :param penalty: :math:`\rho`, positive.
    :raises ValueError: for numbers out of range.

    Source: Rockafellar 1973; Nocedal and Wright 2006, section 17.3.

    >>> import torch
    >>> from art_atmc_distortion import Multiplier
    >>> round(float(Multiplier(AugmentedLagrangian(start=1.0, penalty=2.0)).term(torch.tensor(0.5))), 6)
    0.75
    """

    penalty: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, start=Real("[0, inf)", "1 is usual"), penalty=Real("(0, inf)", "without one use Additive"))

    def term(self, value: float, violation: Tensor) -> Tensor:
        shift = value / self.penalty
        return self.penalty / 2 * ((violation + shift).clamp(min=0).square() - shift**2)

    def advanced(self, value: float, memory: tuple[float, ...], violation: float) -> tuple[float, tuple[float, ...]]:
        return min(max(0.0, value + self.penalty * violation), MOST), memory


@final
@dataclasses.dataclass(frozen=True)
class Fixed(Rule):
    r"""A weight that never changes, :math:`\beta g`: the usual trade-off, which meets a bound by luck only.

    :param start: :math:`\beta`, at least 0.

    >>> from art_atmc_distortion import Multiplier
    >>> multiplier = Multiplier(Fixed(3.0))
    >>> multiplier.step(9.0)
    >>> multiplier.value
    3.0
    """

    def __post_init__(self) -> None:
        check_numbers(self, start=Real("[0, inf)", "it is the weight"))

    def advanced(self, value: float, memory: tuple[float, ...], violation: float) -> tuple[float, tuple[float, ...]]:
        return value, memory


@final
@dataclasses.dataclass(frozen=True)
class Hinge(Rule):
    r"""A weight on what is violated, :math:`\lambda_h \max(g, 0)`: the baseline of the paper.

    :param start: :math:`\lambda_h`, at least 0.

    >>> import torch
    >>> from art_atmc_distortion import Multiplier
    >>> float(Multiplier(Hinge(3.0)).term(torch.tensor(-1.0)))
    0.0
    """

    def __post_init__(self) -> None:
        check_numbers(self, start=Real("[0, inf)", "it is the weight"))

    def term(self, value: float, violation: Tensor) -> Tensor:
        return value * violation.clamp(min=0)

    def advanced(self, value: float, memory: tuple[float, ...], violation: float) -> tuple[float, tuple[float, ...]]:
        return value, memory


def _clipped(violation: float) -> float:
    return min(max(violation, -1.0), 1.0)


def _within(value: float) -> float:
    return min(max(value, LEAST), MOST)
