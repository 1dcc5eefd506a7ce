"""Pictures of each method on its own: accuracy by radius and by epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from art_atmc.experiments.point import Point
from art_atmc.experiments.recipes import RECIPES
from art_atmc.experiments.report.drawing import NARROW, Picture, heading, key, log_ticks, percent_axis, picture
from art_atmc.experiments.report.results import Line, Result, Size, conditions

__all__ = ["security", "training"]


def security(lines: Sequence[Line]) -> list[Picture]:
    """Accuracy against the radius of the attack: a picture for each method, its sizes from light to dark."""
    made = []
    for line in lines:
        sizes = [Size(held) for size in line.sizes if (held := tuple(r for r in size.results if r.point.curve))]
        if not sizes:
            continue
        radii = "; ".join(f"{_size(size)}: {_radii(size)}" for size in sizes)
        below = conditions(sizes[0].point, _attack_of(sizes[0]), "any eps")

        def draw(figure: Figure, line: Line = line, sizes: list[Size] = sizes, below: str = below) -> None:
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
            axes.set(xlabel="radius eps of the attack", ylabel="accuracy", ylim=(0, 1.02))
            heading(axes, line.label, below)
            percent_axis(axes.yaxis)
            key(figure, entries)

        alt = f"Accuracy of {line.label} ({below}) against the radius of the attack. {radii}"
        made.append(picture(f"security-{line.label}", alt, draw, height=3.3, width=NARROW))
    return made


def training(lines: Sequence[Line]) -> list[Picture]:
    """Validation accuracies, loss and violation by epoch, and the weights of several attacks where they were trained
    against: a picture for each method, its sizes from light to dark."""
    made = []
    for line in lines:
        epochs = [epoch for result in line.results for epoch in result.history]
        violated, weighed = any(epoch.violation for epoch in epochs), any(epoch.weights for epoch in epochs)
        below_first = violated + weighed
        point = line.sizes[0].point
        below = conditions(point, _trained_against(point))

        def draw(
            figure: Figure, line: Line = line, below: str = below, violated: bool = violated, weighed: bool = weighed
        ) -> None:
            ratios = [2, 1] + [1] * (violated + weighed)
            panels = list(figure.subplots(len(ratios), sharex=True, height_ratios=ratios))
            if weighed:
                _weights(panels.pop(), line.sizes)
            _training(panels, line.sizes)
            if weighed:
                panels[-1].set_xlabel("")
            panels[0].set_ylabel("accuracy")
            heading(panels[0], line.label, below)
            shades = zip(line.sizes, _shades(len(line.sizes)), strict=True)
            key(figure, [(_size(size), {"color": shade["color"]}) for size, shade in shades])

        last = "; ".join(
            f"{_size(size)} ends at {e.clean_accuracy:.1%} clean, {e.robust_accuracy:.1%} robust, loss {e.loss:.3g}"
            for size in line.sizes
            for e in [size.results[0].history[-1]]
        )
        alt = f"Training of {line.label} ({below}): accuracy and loss by epoch. {last}"
        if weighed:
            alt += f". Weights of the attacks: {_weights_at_the_end(line)}"
        made.append(picture(f"training-{line.label}", alt, draw, height=3.8 + 0.7 * below_first, width=NARROW))
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
    panels[-1].set_xlabel("epoch, counted from the first stage")
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _weights(panel: Axes, sizes: Sequence[Size]) -> None:
    """Of each attack, by the dashes of its line and its name at the end; of the first seed."""
    for size, style in zip(sizes, _shades(len(sizes)), strict=True):
        result = size.results[0]
        for number, name in enumerate(result.history[-1].weights):
            shares = [epoch.weights.get(name, math.nan) for epoch in result.history]
            dashes = ("-", "--", ":", "-.")[number % 4]
            panel.plot(list(_epochs(result)), shares, color=style["color"], linestyle=dashes)
            panel.annotate(
                f" {name}", (result.point.epochs, shares[-1]), fontsize=7, va="center", annotation_clip=False
            )
    panel.set(ylim=(0, None), ylabel="weights", xlabel="epoch, counted from the first stage")


def _weights_at_the_end(line: Line) -> str:
    last = {_size(size): size.results[0].history[-1].weights for size in line.sizes}
    return "; ".join(
        f"{size} {', '.join(f'{n} {w:.2f}' for n, w in weights.items())}" for size, weights in last.items()
    )


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


def _trained_against(point: Point) -> str | None:
    """The attack of the training, short where it is one of ours: ``PGD-7``; None for a recipe without."""
    if point.recipe in RECIPES and not RECIPES[point.recipe].adversarial:
        return None
    known = re.search(r"(\w+)\(eps=.*?max_iter=(\d+)", point.attack)
    return f"{known[1]}-{known[2]}" if known else point.attack


def _attack_of(size: Size) -> str:
    curve = size.point.curve
    assert curve is not None
    return curve.attack


def _radii(size: Size) -> str:
    curve = size.point.curve
    assert curve is not None
    return ", ".join(f"{c / curve.n:.1%} at {eps:.3g}" for eps, c in zip(curve.eps, curve.correct, strict=True))
