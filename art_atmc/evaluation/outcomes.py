"""What was seen of each example: as arrays, as JSON has them, and as shares with their intervals."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer

from art_atmc.support.statistics import wilson

__all__ = ["Distances", "Outcomes", "share"]


def _packed(outcomes: NDArray[np.bool_]) -> str:
    return "".join("1" if correct else "0" for correct in outcomes)


def _unpacked(outcomes: Any) -> NDArray[np.bool_]:
    if isinstance(outcomes, np.ndarray):
        return outcomes
    if not isinstance(outcomes, str) or set(outcomes) - {"0", "1"}:
        raise ValueError("outcomes must be a text of 0 and 1")
    return np.array([character == "1" for character in outcomes], dtype=bool)


def _distances(values: Any) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not (array >= 0).all():
        raise ValueError("distances must be a list of numbers of at least 0")
    return array


Outcomes: TypeAlias = Annotated[NDArray[np.bool_], BeforeValidator(_unpacked), PlainSerializer(_packed)]
"""One bool an example, true where it is classified correctly; in JSON a text of 0 and 1."""

Distances: TypeAlias = Annotated[
    NDArray[np.float64], BeforeValidator(_distances), PlainSerializer(lambda values: values.tolist())
]
"""One distance an example, at least 0; in JSON a list."""


def share(correct: NDArray[np.bool_]) -> tuple[str, str]:
    """The accuracy and its 95 % interval, for a table.

    >>> share(np.array([True] * 9 + [False]))
    ('90.0%', '59.6% to 98.2%')
    """
    low, high = wilson(int(correct.sum()), len(correct))
    return f"{correct.mean():.1%}", f"{low:.1%} to {high:.1%}"
