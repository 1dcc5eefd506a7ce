r"""Multipliers: how hard a constraint pulls, learnt while the network is.

The constraint :math:`m \le c` is held as its *violation*, a number without a unit,

.. math:: g = m / c - 1 \le 0,

and enters what is minimised by a term of g. A multiplier is shaped like an optimizer: it has a value, steps on what was
measured, and has a state. How it moves is its rule, see :mod:`art_atmc_distortion.rules`.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

__all__ = ["LEAST", "MOST", "Multiplier", "Rule"]

LEAST, MOST = 1e-8, 1e4
"""Where a multiplier is held: below, its bound costs nothing; at the upper end nothing meets it."""


@dataclasses.dataclass(frozen=True)
class Rule(abc.ABC):
    """The configuration of a multiplier: how one is made. Several bounds share a rule and have a multiplier each."""

    start: float = 1.0

    @abc.abstractmethod
    def advanced(self, value: float, memory: tuple[float, ...], violation: float) -> tuple[float, tuple[float, ...]]:
        """The next value and memory after a violation was measured."""

    def memory(self) -> tuple[float, ...]:
        """What the rule keeps besides the value, at the start."""
        return ()

    def term(self, value: float, violation: Tensor) -> Tensor:
        """What is added to the objective; its gradient is the pull of the constraint."""
        return value * violation


@final
class Multiplier:
    r"""The dual variable :math:`\lambda \ge 0` of one bound.

    :param rule: how it moves.

    >>> from art_atmc_distortion import Additive
    >>> multiplier = Multiplier(Additive(rate=0.5, start=1.0))
    >>> multiplier.step(0.2)
    >>> multiplier.value
    1.1
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.value = rule.start
        self._memory = rule.memory()

    def term(self, violation: Tensor) -> Tensor:
        """What the bound adds to the objective, for a violation with a graph."""
        return self.rule.term(self.value, violation)

    def step(self, violation: float) -> None:
        """Move by a measured violation.

        :raises FloatingPointError: when it is NaN or infinite; the value stays as it was.
        """
        if not math.isfinite(violation):
            raise FloatingPointError(
                f"the violation of a bound became {violation}: what it measures is no longer a number. Lower the "
                "learning rate, or look for a division by zero in the measure"
            )
        self.value, self._memory = self.rule.advanced(self.value, self._memory, violation)

    @property
    def saturated(self) -> bool:
        """Whether the value has run to the upper end of its range, as it does for a bound that can't be met."""
        return self.value >= MOST

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "memory": list(self._memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises ValueError: for a state of another rule, or values that are not finite."""
        value, memory = float(state["value"]), tuple(map(float, state["memory"]))
        if len(memory) != len(self.rule.memory()) or not all(map(math.isfinite, (value, *memory))) or value < 0:
            raise ValueError(f"{dict(state)} is no state of {self.rule}; load the one that it was saved from")
        self.value, self._memory = value, memory
