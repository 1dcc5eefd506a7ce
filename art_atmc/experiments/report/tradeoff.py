"""Pictures of all methods together: accuracy against size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from art_atmc.experiments.paper import curves
from art_atmc.experiments.point import Accuracy, Point
from art_atmc.experiments.report.drawing import Picture, heading, key, log_ticks, looks, percent_axis, picture
from art_atmc.experiments.report.results import Line, Size, conditions, listed

__all__ = ["side_by_side", "tradeoff"]

PALE: Final[dict[str, Any]] = {
    "alpha": 0.35,
    "linestyle": "--",
    "linewidth": 1.2,
    "markersize": 4.0,
    "zorder": 1,
    "markerfacecolor": "none",
}

ACCURACIES: Final[tuple[tuple[str, Callable[[Point], Accuracy], Callable[[Point], str]], ...]] = (
    ("Clean", lambda point: point.clean, lambda point: conditions(point, None)),
    ("Robust", lambda point: point.robust, lambda point: conditions(point, f"worst of {listed(point.attacks)}")),
)
APART: Final = 0.016  # of the axis: the least distance between points of different lines
COUNTS: Final[tuple[tuple[str, Callable[[Point], float], str], ...]] = (
    ("paper", lambda point: point.paper_ratio, "size ratio by the paper's count (no positions)"),
    ("file", lambda point: point.file_ratio, "size ratio by bytes of the file"),
)


def tradeoff(lines: Sequence[Line]) -> list[Picture]:
    """Accuracy against size: by the paper's count with the paper's points behind, then by the bytes of the file."""
    first = lines[0].sizes[0].point
    paper = curves(first.data, first.eps, first.norm)
    made = []
    for count, ratio, label in COUNTS:
        for column, (kind, accuracy, measured) in enumerate(ACCURACIES, 1):
            behind = {name: [(row[0], row[column]) for row in rows] for name, rows in paper.items()}
            title, below = f"{kind} accuracy", measured(first)

            def draw(
                figure: Figure,
                ratio: Callable[[Point], float] = ratio,
                accuracy: Callable[[Point], Accuracy] = accuracy,
                behind: dict[str, list[tuple[float, float]]] = behind if count == "paper" else {},
                label: str = label,
                titles: tuple[str, str] = (title, below),
            ) -> None:
                axes = figure.subplots()
                axes.set(xlabel=label, ylabel="accuracy")
                heading(axes, *titles)
                _tradeoff(figure, axes, lines, ratio, accuracy, behind)

            ends = "; ".join(_ends(line, accuracy, ratio) for line in lines)
            alt = f"{title} ({below}) against {label}, one line a method: {ends}"
            made.append(picture(f"tradeoff-{kind.lower()}-{count}", alt, draw, height=4.3))
    return made


def _tradeoff(
    figure: Figure,
    axes: Axes,
    lines: Sequence[Line],
    ratio: Callable[[Point], float],
    accuracy: Callable[[Point], Accuracy],
    behind: dict[str, list[tuple[float, float]]],
) -> None:
    styles = looks([*(line.label for line in lines), *behind])
    for series, rows in behind.items():
        axes.plot(*zip(*rows, strict=True), **styles[series] | PALE)
    places = side_by_side([[size.spread(ratio).mean for size in line.sizes] for line in lines])
    for line, x in zip(lines, places, strict=True):
        y = [size.spread(lambda point: accuracy(point).share).mean for size in line.sizes]
        ends = [_interval(size, accuracy) for size in line.sizes]
        below, above = ([abs(end[i] - share) for end, share in zip(ends, y, strict=True)] for i in (0, 1))
        axes.errorbar(x, y, yerr=[below, above], **styles[line.label], elinewidth=0.9, zorder=3)
    axes.set_xscale("log")
    log_ticks(axes.xaxis)
    percent_axis(axes.yaxis)
    ours = [line.label for line in lines]
    entries: list[tuple[str, dict[str, Any]]] = [(label, styles[label]) for label in ours]
    entries += [(f"{series}, paper only", styles[series] | PALE) for series in behind if series not in ours]
    if behind:
        entries.append(("pale: the paper", {"color": "0.4", "marker": "o"} | PALE))
    key(figure, entries)


def side_by_side(lines: Sequence[Sequence[float]]) -> list[list[float]]:
    r"""Where to draw the points of several lines on a logarithmic axis, so that none covers another.

    .. math:: \min_q \sum_i (q_i - \log x_i)^2 \quad \text{with} \quad q_{i+1} - q_i \ge d

    for neighbours of different lines: points that share a place stand around it, in the order of the lines, and points
    with room stay where they are. Solved by isotonic regression.

    >>> [[round(x, 3) for x in line] for line in side_by_side([[0.1, 1.0], [0.1], [0.01]])]
    [[0.096, 1.0], [0.104], [0.01]]
    """
    places = sorted((math.log10(x), number, i) for number, line in enumerate(lines) for i, x in enumerate(line))
    width = places[-1][0] - places[0][0] or 1.0
    distance = width * min(APART, 0.5 / len(places))
    between = [distance * (a[1] != b[1]) for a, b in itertools.pairwise(places)]
    offsets = list(itertools.accumulate(between, initial=0.0))
    made = [list(line) for line in lines]
    level = _increasing([place[0] - offset for place, offset in zip(places, offsets, strict=True)])
    for (_, number, i), start, offset in zip(places, level, offsets, strict=True):
        made[number][i] = 10 ** (start + offset)
    return made


def _increasing(values: Iterable[float]) -> list[float]:
    """The nearest numbers that never fall: neighbours that do are pooled."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [((m * a + n * b) / (m + n), m + n)]
    return [mean for mean, n in pools for _ in range(n)]


def _interval(size: Size, accuracy: Callable[[Point], Accuracy]) -> tuple[float, float]:
    """Wilson's interval for one seed, mean ± standard deviation for several."""
    spread = size.spread(lambda point: accuracy(point).share)
    if spread.std is None:
        return accuracy(size.point).interval
    return spread.mean - spread.std, spread.mean + spread.std


def _ends(line: Line, accuracy: Callable[[Point], Accuracy], ratio: Callable[[Point], float]) -> str:
    first, last = (line.sizes[i] for i in (0, -1))
    ends = [
        f"{size.spread(lambda p: accuracy(p).share).mean:.1%} at {size.spread(ratio).mean:.3g}"
        for size in ([first] if first is last else [first, last])
    ]
    return f"{line.label} {' to '.join(ends)}"
