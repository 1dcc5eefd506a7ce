"""How far a measured accuracy can be trusted: intervals over examples, spread over seeds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import final

from scipy.stats import binomtest

__all__ = ["Spread", "wilson"]


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Wilson's interval for the accuracy of which ``correct`` of ``n`` examples are a sample.

    .. math:: \frac{1}{1 + z^2/n}\Bigl(\hat p + \frac{z^2}{2n} \pm
              z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4n^2}}\Bigr)

    It covers the choice of the test examples, not that of the training seed; see :class:`Spread`. Unlike the normal
    interval it stays in [0, 1] and has a width at 0 and 1 too. Source: Wilson 1927, doi:10.2307/2276774.

    :param confidence: how often the interval holds the true accuracy, in (0, 1).
    :raises ValueError: for counts that are none, and a confidence out of range.

    >>> [round(bound, 3) for bound in wilson(90, 100)]
    [0.826, 0.945]
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"`correct` must be from 0 to `n`, and `n` at least 1, got {correct} of {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1), got {confidence}; 0.95 is usual")
    low, high = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return max(float(low), 0.0), min(float(high), 1.0)


@final
@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure over several seeds.

    :param n: number of seeds.
    :param std: sample standard deviation, dividing by n - 1; None for one seed.

    >>> str(Spread.of([0.80, 0.82, 0.84]))
    '0.820 ± 0.020 (0.800 to 0.840, 3 seeds)'
    """

    n: int
    mean: float
    std: float | None
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """
        :raises ValueError: without values.
        """
        if not len(values):
            raise ValueError("`values` is empty; give the figure of at least one seed")
        figures = [float(value) for value in values]
        std = statistics.stdev(figures) if len(figures) > 1 else None
        return cls(len(figures), statistics.fmean(figures), std, min(figures), max(figures))

    def __str__(self) -> str:
        if self.std is None:
            return f"{self.mean:.3f} (one seed)"
        return f"{self.mean:.3f} ± {self.std:.3f} ({self.min:.3f} to {self.max:.3f}, {self.n} seeds)"
