"""When constraints act over a run: in optimizer steps, or in shares of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import final

from art_atmc.support.numbers import Real, Whole, check_numbers

__all__ = ["Ramp", "Tightening", "postponed"]


@final
@dataclasses.dataclass(frozen=True)
class Ramp:
    r"""When a constraint acts: not before ``start``, tightening up to ``end``, in full from then on.

    .. math:: p(t) = \frac{t - \text{start}}{\text{end} - \text{start}}, \qquad S_t = S.\text{relaxed}(p(t))

    :param start: optimizer steps before the constraint enters.
    :param end: optimizer steps after which it holds in full; equal to ``start`` for a jump.
    :raises ValueError: unless 0 <= start <= end.

    >>> Ramp(10, 20).progress(5), Ramp(10, 20).progress(15), Ramp(10, 20).progress(99)
    (None, 0.5, 1.0)
    """

    start: int = 0
    end: int = 0

    def __post_init__(self) -> None:
        steps = Whole(0, None, "a ramp needs steps with 0 <= start <= end")
        check_numbers(self, start=steps, end=steps)
        if self.start > self.end:
            raise ValueError(f"a ramp needs 0 <= start <= end, got start={self.start}, end={self.end}")

    def progress(self, step: int) -> float | None:
        """Share of the way to the full constraint after ``step`` steps; None before the start."""
        if step < self.start:
            return None
        return min(1.0, (step - self.start) / (self.end - self.start)) if self.end > self.start else 1.0


def postponed(ramps: Sequence[Ramp], start: int, steps: int) -> list[Ramp]:
    """The same ramps, the first of which begins at ``start``: all that was planned up to the end of the run, after
    ``steps`` steps, in what is left of it.

    >>> postponed([Ramp(20, 60), Ramp(60, 60)], start=60, steps=100)
    [Ramp(start=60, end=80), Ramp(start=80, end=80)]
    """
    earliest = min(ramp.start for ramp in ramps)

    def moved(step: int) -> int:
        return start + (step - earliest) * (steps - start) // (steps - earliest)

    return [Ramp(moved(ramp.start), moved(ramp.end)) for ramp in ramps]


@final
@dataclasses.dataclass(frozen=True)
class Tightening:
    r"""When the constraints tighten, as shares of the run.

    Within ``support`` the density falls along a cubic from 1 to its target; from ``codebook`` on the codebook acts. The
    default begins when a network has learned something that is worth keeping, and ends early enough for the weights
    to settle under the constraints in full; it was chosen on validation data (decision 0021), together with the rate
    :class:`~art_atmc.training.Hold`. ``Tightening(support=(a, a), codebook=b)`` are the stages of
    the reference code in one run: dense up to a, sparse at full tightness up to b, then quantized.

    In :class:`~art_atmc.ObjectiveTrainer` a start that has not come yet waits while the training loss of an epoch is
    that of guessing, above 0.9 ln(classes): a network that has learned nothing has nothing to keep. It waits up to half
    of the run, and what was planned is done in the rest.

    :param support: start and end of the fall, shares of the run with 0 <= start <= end <= 1.
    :param codebook: share of the run after which the codebook acts, in [0, 1).
    :raises ValueError: for shares out of order or range.

    >>> Tightening().support_ramp(steps=1000)
    Ramp(start=150, end=600)
    """

    support: tuple[float, float] = (0.15, 0.6)
    codebook: float = 0.5

    def __post_init__(self) -> None:
        share = Real("[0, 1]", "give two shares of the run, with 0 <= start <= end <= 1")
        start, end = (share.plain("support", value) for value in self.support)
        if start > end:
            raise ValueError(
                f"a schedule needs 0 <= start <= end <= 1 for `support`, got {self.support}; they are shares of the run"
            )
        object.__setattr__(self, "support", (start, end))
        check_numbers(self, codebook=Real("[0, 1)", "give a share of the run"))

    def support_ramp(self, steps: int) -> Ramp:
        start, end = self.support
        return Ramp(math.floor(start * steps), math.floor(end * steps))

    def codebook_ramp(self, steps: int) -> Ramp:
        return Ramp(math.floor(self.codebook * steps), math.floor(self.codebook * steps))
