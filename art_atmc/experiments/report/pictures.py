"""Pictures of one network: where its weights are, which values they have, and what an attack does to its inputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from art_atmc.experiments.point import Examples, Point
from art_atmc.experiments.report.drawing import (
    NARROW,
    SMALL,
    Picture,
    heading,
    log_ticks,
    percent_axis,
    picture,
    small_lines,
)
from art_atmc.experiments.report.results import Result, conditions
from art_atmc.files.size_report import Report, WeightReport

__all__ = ["adversarial", "codebooks", "densities", "examined"]

CODEBOOKS: Final = 12
FACTORS: Final = {"U": "#56B4E9", "V": "#E69F00", "C": "#0072B2", "W": "#0072B2"}


def examined(found: Sequence[Result]) -> Result | None:
    """The network to look into: of those with a codebook the most robust one, the smaller file among equals.

    Where there is no codebook, of the sparse ones; None where all are dense.
    """
    coded = [result for result in found if result.point.bits < 32]
    compressed = coded or [result for result in found if result.point.density < 1]
    return max(compressed, key=lambda r: (r.point.robust.share, -r.point.file_bytes), default=None)


def densities(report: Report, network: str) -> Picture:
    """Share of each layer's weights that is kept, by factor.

    :param network: what to call it.
    """
    weights = report.weights
    names = [weight.name.removesuffix(".weight") for weight in weights]
    shares = [_shares(weight) for weight in weights]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        left = np.zeros(len(weights))
        for factor in [name for name in FACTORS if any(name in share for share in shares)]:
            widths = np.array([share.get(factor, 0.0) for share in shares])
            axes.barh(names, widths, 0.7, left=left, color=FACTORS[factor], label=factor, edgecolor="white")
            left += widths
        for row, weight in enumerate(weights):
            axes.annotate(f" {_nnz(weight):,}", (left[row], row), va="center", fontsize=8)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="non-zeros over the dense layer's weights", xlim=(0, 1.15 * max(*left, 0.01)))
        heading(axes, "Density of each layer", network)
        percent_axis(axes.xaxis)
        if len({factor for share in shares for factor in share}) > 1:
            figure.legend(loc="outside upper right", ncols=3)

    each = "; ".join(f"{n} {sum(s.values()):.2%} ({_nnz(w):,})" for n, s, w in zip(names, shares, weights, strict=True))
    alt = f"Share of the weights of {network} that is kept in each layer, and their number: {each}"
    return picture("density", alt, draw, height=1.5 + 0.28 * len(weights))


def codebooks(report: Report, values: Mapping[str, Tensor], network: str) -> list[Picture]:
    """How many weights have which value: a picture for each layer, those with the most non-zeros.

    :param values: of the tensors by name.
    :param network: what to call it.
    """
    largest = sorted(filter(_nnz, report.weights), key=_nnz, reverse=True)[:CODEBOOKS]
    made = []
    for weight in filter(largest.__contains__, report.weights):
        counts = {}
        for tensor in weight.tensors:
            flat = values[tensor.name].double().numpy().ravel()
            if tensor.nnz:
                counts[_factor(tensor.name, weight)] = np.unique(flat[flat != 0], return_counts=True)
        name = weight.name.removesuffix(".weight")
        each = "; ".join(
            f"{factor}: {len(codes)} values from {codes[0]:.3g} to {codes[-1]:.3g} on {counts.sum():,} weights"
            for factor, (codes, counts) in counts.items()
        )
        alt = f"Codebook of {name} in {network}: each non-zero value and how many weights have it. {each}"
        draw = functools.partial(_codebook, titles=(name, network), counts=counts)
        made.append(picture(f"codebook-{name}", alt, draw, height=1.1 + 1.1 * len(counts), width=NARROW))
    return made


def _codebook(
    figure: Figure, titles: tuple[str, str], counts: dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]
) -> None:
    rows = figure.subplots(len(counts), sharex=True, squeeze=False)[:, 0]
    for axes, (factor, (codes, number)) in zip(rows, counts.items(), strict=True):
        axes.vlines(codes, 0.5, number, color=FACTORS[factor], linewidth=1.5 if len(codes) < 100 else 0.8)
        axes.plot(codes, number, "o", color=FACTORS[factor], markersize=3.5 if len(codes) < 100 else 1.5)
        axes.set(yscale="log", ylim=(0.5, 2 * max(*number, 5)), ylabel="count")
        if len(counts) > 1:
            axes.annotate(factor, (0.98, 0.95), xycoords="axes fraction", ha="right", va="top", color=FACTORS[factor])
        log_ticks(axes.yaxis, 4)
        axes.axvline(0, color="0.4", linewidth=0.8)
    heading(rows[0], *titles)
    rows[-1].set_xlabel("value of the weight")


def adversarial(examples: Examples, point: Point) -> list[Picture]:
    """Test images beside what the attack made of them, one picture each.

    :param point: of the network that was attacked.
    """
    attack = point.curve.attack if point.curve else "the attack"
    below = f"{point.label}; {conditions(point, attack)}"
    made = []
    for number, (x, x_adv, y, before, after) in enumerate(
        zip(examples.x, examples.x_adv, examples.y, examples.predicted, examples.predicted_adv, strict=True), 1
    ):
        perturbation = x_adv - x
        most = float(np.abs(perturbation).max())
        alt = (
            f"Test example {number} of class {y} ({below}): predicted {before} ({_verdict(before, y)}); perturbation "
            f"of at most {most:.3g} in a pixel; afterwards predicted {after} ({_verdict(after, y)})"
        )

        def draw(
            figure: Figure,
            x: NDArray[np.float32] = x,
            x_adv: NDArray[np.float32] = x_adv,
            scaled: NDArray[np.float32] = perturbation / (2 * most or 1) + 0.5,
            titles: tuple[str, ...] = (
                f"clean: {before} {_mark(before, y)}",
                f"± {most:.3g}",
                f"adversarial: {after} {_mark(after, y)}",
            ),
            conditions: str = f"class {y}; {below}",
        ) -> None:
            panels = figure.subplots(1, 3)
            for axes, image, title in zip(panels, (x, scaled, x_adv), titles, strict=True):
                axes.imshow(_pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_title(title, color="#B00020" if title.endswith("✗") else "black", loc="center")
                axes.set_axis_off()
            figure.supxlabel(small_lines(conditions, NARROW), fontsize=SMALL, color="0.35")

        made.append(picture(f"adversarial-{number}", alt, draw, height=1.8, width=NARROW))
    return made


def _pixels(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) for three channels, else the (H, W) mean of the channels."""
    clipped = image.clip(0, 1)
    return clipped.transpose(1, 2, 0) if len(image) == 3 else clipped.mean(axis=0)


def _mark(predicted: int, y: int) -> str:
    return "✓" if predicted == y else "✗"


def _verdict(predicted: int, y: int) -> str:
    return "correct" if predicted == y else "misclassified"


def _factor(name: str, weight: WeightReport) -> str:
    return "W" if name == weight.name else name[-1]


def _shares(weight: WeightReport) -> dict[str, float]:
    dense = int(np.prod(weight.shape))
    return {_factor(t.name, weight): t.nnz / dense for t in weight.tensors if t.nnz}


def _nnz(weight: WeightReport) -> int:
    return sum(tensor.nnz for tensor in weight.tensors)
