"""Pictures with lines: trade-off, security curves, training."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from art_atmc.experiments.paper import curves
from art_atmc.experiments.point import Accuracy, Point
from art_atmc.experiments.report.drawing import NARROW, Picture, key, log_ticks, looks, percent_axis, picture
from art_atmc.experiments.report.results import Line, Result, Size

__all__ = ["security", "tradeoff", "training"]

PALE: Final[dict[str, Any]] = {
    "alpha": 0.35,
    "linestyle": "--",
    "linewidth": 1.2,
    "markersize": 4.0,
    "zorder": 1,
    "markerfacecolor": "none",
}

ACCURACIES: Final[tuple[tuple[str, Callable[[Point], Accuracy]], ...]] = (
    ("Clean", lambda point: point.clean),
    ("Robust", lambda point: point.robust),
)
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
        for column, (kind, accuracy) in enumerate(ACCURACIES, 1):
            behind = {name: [(row[0], row[column]) for row in rows] for name, rows in paper.items()}
            draw = functools.partial(
                _tradeoff,
                lines=lines,
                ratio=ratio,
                accuracy=accuracy,
                behind=behind if count == "paper" else {},
                labels={"title": f"{kind} accuracy", "xlabel": label},
            )
            told = "; ".join(_told(line, accuracy, ratio) for line in lines)
            alt = f"{kind} accuracy against {label}, one line a method: {told}"
            made.append(picture(f"tradeoff-{kind.lower()}-{count}", alt, draw, height=4.0))
    return made


def _tradeoff(
    figure: Figure,
    lines: Sequence[Line],
    ratio: Callable[[Point], float],
    accuracy: Callable[[Point], Accuracy],
    behind: dict[str, list[tuple[float, float]]],
    labels: dict[str, str],
) -> None:
    axes = figure.subplots()
    axes.set(**labels)
    styles = looks([*(line.label for line in lines), *behind])
    for series, rows in behind.items():
        axes.plot(*zip(*rows, strict=True), **styles[series] | PALE)
    for line in lines:
        x = [size.spread(ratio).mean for size in line.sizes]
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


def _interval(size: Size, accuracy: Callable[[Point], Accuracy]) -> tuple[float, float]:
    """Wilson's interval for one seed, mean ± standard deviation for several."""
    spread = size.spread(lambda point: accuracy(point).share)
    if spread.std is None:
        return accuracy(size.point).interval
    return spread.mean - spread.std, spread.mean + spread.std


def _told(line: Line, accuracy: Callable[[Point], Accuracy], ratio: Callable[[Point], float]) -> str:
    first, last = (line.sizes[i] for i in (0, -1))
    ends = [
        f"{size.spread(lambda p: accuracy(p).share).mean:.1%} at {size.spread(ratio).mean:.3g}"
        for size in ([first] if first is last else [first, last])
    ]
    return f"{line.label} {' to '.join(ends)}"


def security(lines: Sequence[Line]) -> list[Picture]:
    """Accuracy against the radius of the attack: a picture for each method, its sizes from light to dark."""
    made = []
    for line in lines:
        sizes = [Size(held) for size in line.sizes if (held := tuple(r for r in size.results if r.point.curve))]
        if not sizes:
            continue
        told = "; ".join(f"{_size(size)}: {_radii(size)}" for size in sizes)

        def draw(figure: Figure, line: Line = line, sizes: list[Size] = sizes) -> None:
            axes = figure.subplots()
            entries = []
            for size, style in zip(sizes, _shades(len(sizes)), strict=True):
                entries.append((_size(size), style))
                for number, result in enumerate(size.results):
                    curve = result.point.curve
                    assert curve is not None
                    shares = [correct / curve.n for correct in curve.correct]
                    axes.plot(curve.eps, shares, **style, alpha=1 if number == 0 else 0.4)
            eps = line.sizes[0].point.eps
            axes.axvline(eps, color="0.4", linewidth=1, linestyle=":")
            axes.annotate(f" eps {eps:.3g}", (eps, 1), color="0.3", fontsize=8, va="top")
            axes.set(title=line.label, xlabel="radius eps of the attack", ylabel="accuracy", ylim=(0, 1.02))
            percent_axis(axes.yaxis)
            key(figure, entries)

        alt = f"Accuracy of {line.label} against the radius of the attack. {told}"
        made.append(picture(f"security-{line.label}", alt, draw, height=3.1, width=NARROW))
    return made


def training(lines: Sequence[Line]) -> list[Picture]:
    """Validation accuracies, loss and violation by epoch: a picture for each method, its sizes from light to dark."""
    made = []
    for line in lines:
        violated = any(epoch.violation for result in line.results for epoch in result.history)

        def draw(figure: Figure, line: Line = line, violated: bool = violated) -> None:
            panels = figure.subplots(3 if violated else 2, sharex=True, height_ratios=[2, 1, 1][: 3 if violated else 2])
            _training(panels, line.sizes)
            panels[0].set(title=line.label, ylabel="accuracy")
            shades = zip(line.sizes, _shades(len(line.sizes)), strict=True)
            key(figure, [(_size(size), {"color": shade["color"]}) for size, shade in shades])

        last = "; ".join(
            f"{_size(size)} ends at {e.clean_accuracy:.1%} clean, {e.robust_accuracy:.1%} robust, loss {e.loss:.3g}"
            for size in line.sizes
            for e in [size.results[0].history[-1]]
        )
        alt = f"Training of {line.label}: accuracy on validation data and loss by epoch. {last}"
        made.append(picture(f"training-{line.label}", alt, draw, height=4.2 if violated else 3.5, width=NARROW))
    return made


def _training(panels: Sequence[Axes], sizes: Sequence[Size]) -> None:
    for size, style in zip(sizes, _shades(len(sizes)), strict=True):
        plain = {"color": style["color"]}
        for number, result in enumerate(size.results):
            x, rows = list(_epochs(result)), result.history
            thin = {"alpha": 1.0 if number == 0 else 0.4} | plain
            panels[0].plot(x, [row.robust_accuracy for row in rows], **thin)
            panels[0].plot(x, [row.clean_accuracy for row in rows], **thin, linestyle="--", linewidth=1)
            panels[1].plot(x, [row.loss for row in rows], **thin)
            for panel in panels[2:]:
                panel.plot(x, [row.violation or math.nan for row in rows], **thin)
    percent_axis(panels[0].yaxis)
    panels[0].set_ylim(0, 1.02)
    panels[1].set_ylabel("loss")
    for panel in panels[2:]:
        panel.set(yscale="log", ylabel="violation")
        log_ticks(panel.yaxis, 4)
    panels[-1].set_xlabel("epoch, with those of the networks before")
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _epochs(result: Result) -> Iterator[int]:
    """Counted over all stages; the history holds the last of them only where others were trained apart."""
    before = result.point.epochs - len(result.history)
    yield from range(before + 1, result.point.epochs + 1)


def _shades(n: int) -> list[dict[str, Any]]:
    """From light to dark on a scale whose lightness rises evenly; markers besides, to tell neighbours apart."""
    scale = mpl.colormaps["viridis"]
    return [
        {"color": scale(0.85 - 0.85 * i / max(n - 1, 1)) if n > 1 else scale(0.3), "marker": "osD^vPX*"[i % 8]}
        for i in range(n)
    ]


def _size(size: Size) -> str:
    return f"density {size.point.density:g}"


def _radii(size: Size) -> str:
    curve = size.point.curve
    assert curve is not None
    return ", ".join(f"{c / curve.n:.1%} at {eps:.3g}" for eps, c in zip(curve.eps, curve.correct, strict=True))
