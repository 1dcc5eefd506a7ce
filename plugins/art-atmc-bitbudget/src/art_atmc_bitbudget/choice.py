"""What is chosen, and how it is reported."""

from __future__ import annotations

import dataclasses
import math
from typing import final

from art_atmc_bitbudget.coding import Coding, Ints

__all__ = ["Allocation", "Choice", "Share"]


@final
@dataclasses.dataclass(frozen=True)
class Share:
    """What one tensor takes of the budget; ``width`` 0 where it is zero."""

    name: str
    width: int
    nonzeros: int
    bits: int


@final
@dataclasses.dataclass(frozen=True)
class Allocation:
    """How a budget is shared.

    ``error`` is the squared distance to the weights. No choice of supports and widths comes below ``bound`` with any
    of the codebooks that were tried; ``gap`` is the share by which ``error`` may exceed the least of them.
    """

    shares: tuple[Share, ...]
    budget: int
    error: float
    bound: float

    @property
    def bits(self) -> int:
        return sum(share.bits for share in self.shares)

    @property
    def gap(self) -> float:
        return max(0.0, self.error - self.bound) / self.bound if self.bound > 0 else 0.0


@final
@dataclasses.dataclass(frozen=True)
class Choice:
    """A coding for each tensor, or None, and how many values of either sign are kept.

    No choice captures more than ``limit`` with any of the codings that were tried.
    """

    codings: tuple[Coding | None, ...]
    counts: tuple[Ints, ...]
    captured: float
    limit: float = math.inf
