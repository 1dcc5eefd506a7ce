r"""What is asked for: the smallest network that is still good enough, or the best one that still fits."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias, final

from art_atmc.attacks import adversary
from art_atmc.support.numbers import Real, Whole, check_numbers

__all__ = ["Fits", "InfeasibleError", "Smallest", "Target"]


class InfeasibleError(ValueError):
    """No network of this kind meets the target, as far as was seen."""


@final
@dataclasses.dataclass(frozen=True)
class Smallest:
    r"""The network of fewest weights that is as good as this on validation data.

    .. math:: \min_\theta \|\theta\|_0 \quad \text{s.t.} \quad m_i(\theta) \le c_i

    An accuracy of at least a is the error of at most 1 - a. Several bounds must all hold.

    :param robust_loss: most loss under the attack, positive.
    :param robust_accuracy: least accuracy under the attack, in (0, 1).
    :param clean_loss: most loss without an attack, positive.
    :param clean_accuracy: least accuracy without an attack, in (0, 1).
    :param attack: under which it is measured; by default the training's own.
    :param least_density: the smallest share of weights that may be left, in (0, 1].
    :param warmup: share of the run after which a dense network that is not good enough is given up, in (0, 1].
    :raises ValueError: for no bound, and for numbers out of range.
    :raises TypeError: for an attack that is none.

    >>> Smallest(robust_accuracy=0.75).violations({"robust_accuracy": 0.5})
    {'robust_accuracy': 1.0}
    """

    robust_loss: float | None = None
    robust_accuracy: float | None = None
    clean_loss: float | None = None
    clean_accuracy: float | None = None
    attack: Any = None
    least_density: float = 0.001
    warmup: float = 0.4

    def __post_init__(self) -> None:
        loss = Real("(0, inf)", "a violation is a share of its bound", optional=True)
        share = Real("(0, 1)", "no network is sure of 1", optional=True)
        faults = [] if self.bounds else ["give one bound at least, such as robust_accuracy=0.8"]
        check_numbers(
            self,
            faults,
            robust_loss=loss,
            clean_loss=loss,
            robust_accuracy=share,
            clean_accuracy=share,
            least_density=Real("(0, 1]", "it is a share of the weights"),
            warmup=Real("(0, 1]", "it is a share of the run"),
        )
        if self.attack is not None:
            adversary(self.attack)  # refuses what can't be one

    @property
    def bounds(self) -> dict[str, float]:
        """By the names of what is measured."""
        names = ("robust_loss", "robust_accuracy", "clean_loss", "clean_accuracy")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def violations(self, measured: dict[str, float]) -> dict[str, float]:
        r""":math:`m / c - 1` of each bound."""
        found = {}
        for name, bound in self.bounds.items():
            error = name.endswith("accuracy")
            value, most = (1 - measured[name], 1 - bound) if error else (measured[name], bound)
            found[name] = value / most - 1
        return found


@final
@dataclasses.dataclass(frozen=True)
class Fits:
    r"""The network whose file takes at most so many bytes, and hardly fewer.

    .. math:: \min_\theta f(\theta) \quad \text{s.t.} \quad 0.99\, B \le \mathrm{bytes}(\theta) \le B

    :param file_bytes: B: of the whole file, as :meth:`art_atmc.CompressedModel.save` writes it.
    :param attack: under which epochs are compared on validation data; by default the training's own.
    :raises ValueError: for a number below 1.
    :raises TypeError: for an attack that is none.

    >>> Fits(file_bytes=8_000).file_bytes
    8000
    """

    file_bytes: int
    attack: Any = None

    def __post_init__(self) -> None:
        check_numbers(self, file_bytes=Whole(1, None, "it is the size of the file"))
        if self.attack is not None:
            adversary(self.attack)  # refuses what can't be one


Target: TypeAlias = Smallest | Fits
