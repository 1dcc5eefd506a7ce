"""The points of the ATMC paper's main figure, to draw and to measure distances to."""

from __future__ import annotations

import functools
import itertools
import json
import math
from importlib.resources import files
from typing import TypeAlias

__all__ = ["curves", "interpolated"]

PaperPoint: TypeAlias = tuple[float, float, float]
"""Size ratio by the paper's count, clean accuracy, robust accuracy."""


def curves(data: str, eps: float, norm: str) -> dict[str, list[PaperPoint]]:
    """The paper's points for a data set, by series, each from small to large; none for another attack than its own.

    Read off the vector graphics of the NeurIPS 2019 poster, to about 0.0005. The robust accuracies are under the
    paper's attack, PGD without a random start (76/255 and 16 steps on MNIST, 4/255 and 7 steps elsewhere), and the
    networks were chosen on test data.

    :param data: ``mnist``, ``cifar10``, ``cifar100`` or ``svhn``; a copy such as ``cifar10-jpeg75`` is compared with
        its original.
    :param eps: radius of the attack, compared to a thousandth.
    :returns: empty for other data, radii and norms.

    >>> curves("mnist", 76 / 255, "inf")["DA"]
    [(1.0, 0.9812, 0.7839)]
    >>> curves("mnist", 0.1, "inf")
    {}
    """
    known = _paper()
    name = data if data in known else data.partition("-")[0]
    if norm != "inf" or not math.isclose(eps, 76 / 255 if name == "mnist" else 4 / 255, rel_tol=1e-3):
        return {}
    return {series: [(r, c, a) for r, c, a in rows] for series, rows in known.get(name, {}).items()}


def interpolated(rows: list[PaperPoint], ratio: float) -> tuple[float, float] | None:
    """Clean and robust accuracy of a paper's curve at a size, linear in the logarithm of the size.

    :returns: None outside the sizes of the curve.

    >>> interpolated([(0.01, 0.8, 0.6), (0.1, 0.9, 0.8)], 0.0316227766)
    (0.85, 0.7)
    """
    for (r0, c0, a0), (r1, c1, a1) in itertools.pairwise(rows):
        if r0 <= ratio <= r1:
            t = math.log(ratio / r0) / math.log(r1 / r0)
            return round(c0 + t * (c1 - c0), 6), round(a0 + t * (a1 - a0), 6)
    return None


@functools.cache
def _paper() -> dict[str, dict[str, list[list[float]]]]:
    text = files("art_atmc.experiments").joinpath("paper.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]
