r"""Several multipliers as one: a scalar is minimised while others stay below their bounds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor

from art_atmc.support.numbers import Real, Whole
from art_atmc_distortion.multipliers import MOST, Multiplier, Rule
from art_atmc_distortion.rules import Multiplicative

__all__ = ["Lagrangian"]


@final
class Lagrangian:
    r"""The saddle function of :math:`\min R` subject to :math:`m_i \le c_i`.

    .. math:: R + \sum_i \lambda_i g_i, \qquad g_i = m_i / c_i - 1

    Scaling a measure and its bound together changes nothing. Each call is one step: it returns what to differentiate,
    and then moves the multipliers.

    :param bounds: c, positive and finite, one for each measure.
    :param rule: how the multipliers move.
    :param frozen: calls before they do. A young network is far from its bounds on either side for reasons that have
        nothing to do with them, and the multiplier would have to come back.
    :raises ValueError: for bounds that are not positive and finite, or none.

    >>> import torch
    >>> lagrangian = Lagrangian([60.0], frozen=1)
    >>> float(lagrangian(torch.tensor(2.0), [torch.tensor(90.0)]))
    2.5
    >>> lagrangian.values
    (1.0,)
    """

    def __init__(self, bounds: Sequence[float], rule: Rule = Multiplicative(), frozen: int = 0) -> None:  # noqa: B008
        positive = Real("(0, inf)", "a violation is a share of its bound")
        self.bounds = tuple(positive.plain("bounds", bound) for bound in bounds)
        if not self.bounds:
            raise ValueError("`bounds` must hold one bound at least; without any there is nothing to multiply")
        self.rule = rule
        self.frozen: int = Whole(0, None, "it counts steps").plain("frozen", frozen)
        self.steps = 0
        self.multipliers = [Multiplier(rule) for _ in self.bounds]
        self.violations: tuple[float, ...] = ()
        self._warned = False

    @property
    def values(self) -> tuple[float, ...]:
        """The multipliers now."""
        return tuple(multiplier.value for multiplier in self.multipliers)

    def __call__(
        self, minimised: Tensor, measured: Sequence[Tensor], observed: Sequence[float] | None = None
    ) -> Tensor:
        """What to differentiate, for scalars with a graph; then one step of the multipliers.

        :param minimised: R.
        :param measured: m, one for each bound.
        :param observed: what the multipliers are moved by where it differs from ``measured``, such as bytes that were
            counted, or a loss on validation data.
        :raises ValueError: when there is not one measure for each bound.
        :raises FloatingPointError: when a measure is not finite; no multiplier was moved then.
        """
        if len(measured) != len(self.bounds) or (observed is not None and len(observed) != len(self.bounds)):
            raise ValueError(f"there must be one measure for each of {len(self.bounds)} bounds, got {len(measured)}")
        gaps = [m / bound - 1 for m, bound in zip(measured, self.bounds, strict=True)]
        total = minimised
        for multiplier, gap in zip(self.multipliers, gaps, strict=True):
            total = total + multiplier.term(gap)
        if observed is None:
            self.violations = tuple(float(gap.detach()) for gap in gaps)
        else:
            self.violations = tuple(m / bound - 1 for m, bound in zip(observed, self.bounds, strict=True))
        if wild := [place for place, v in enumerate(self.violations) if not math.isfinite(v)]:
            raise FloatingPointError(
                f"the measures of the bounds {[self.bounds[place] for place in wild]} are infinite or NaN; lower the "
                "learning rate, or look for a division by zero in them"
            )
        self.steps += 1
        if self.steps > self.frozen:
            for multiplier, violation in zip(self.multipliers, self.violations, strict=True):
                multiplier.step(violation)
            self._warn_of_runaways()
        return total

    def _warn_of_runaways(self) -> None:
        pairs = zip(self.bounds, self.multipliers, self.violations, strict=True)
        held = {bound: violation for bound, multiplier, violation in pairs if multiplier.saturated and violation > 0}
        if held and not self._warned:
            self._warned = True
            each = ", ".join(f"{bound:g} by {violation:.0%}" for bound, violation in held.items())
            warnings.warn(
                f"the multipliers have grown to their end, {MOST:g}, and bounds are still exceeded ({each}): no "
                "network of this kind meets them. Raise the bounds, or train a larger network",
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "multipliers": [m.state_dict() for m in self.multipliers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises ValueError: for a state of other bounds or of another rule."""
        if len(state["multipliers"]) != len(self.multipliers):
            raise ValueError(f"the state has {len(state['multipliers'])} multipliers, for {len(self.bounds)} bounds")
        for multiplier, held in zip(self.multipliers, state["multipliers"], strict=True):
            multiplier.load_state_dict(held)
        self.steps = int(state["steps"])
