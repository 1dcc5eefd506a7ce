"""The panels of the ATMC paper's main figure again: the same data, network, attack and sizes, beside its points."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Final, final

from rich.table import Table

from art_atmc.experiments.paper import curves, interpolated
from art_atmc.experiments.point import Point
from art_atmc.experiments.settings import Settings
from art_atmc.support.statistics import Spread
from art_atmc.support.terminal import figures, plain_text

__all__ = ["PANELS", "Distance", "Panel", "distances", "markdown", "table"]


@final
@dataclasses.dataclass(frozen=True)
class Panel:
    """What the paper trained.

    :param eps: radius of the attack, in units of [0, 1].
    :param max_iter: its steps, in training and in the test.
    :param densities: those whose 8-bit networks have the sizes of the paper's curve.
    :param clean_share: share of the clean loss in the released code.
    :param epochs: of a matched run that the documentation recommends where there is a GPU.
    """

    data: str
    network: str
    eps: float
    max_iter: int
    densities: tuple[float, ...]
    clean_share: float
    batch_size: int
    lr: float
    epochs: int

    def settings(
        self,
        data_dir: Path | None,
        budget: int | None = None,
        max_iter: int | None = None,
        training: str = "paper",
        precision: str | None = None,
    ) -> Settings:
        """The panel's conditions.

        :param budget: epochs of every network in all; by default the recommended number.
        :param max_iter: steps of the attack *in training*, to save time; the test always has the paper's.
        :param training: how to train, where not as the released code did.
        :param precision: of the training.
        """
        preset = dataclasses.asdict(self)
        for name in ("data", "densities"):
            del preset[name]
        preset |= {"test_max_iter": self.max_iter, "suite": "test"}
        return Settings.resolved(
            self.data,
            preset=preset,
            training=training,
            data_dir=data_dir,
            epochs=budget,
            max_iter=max_iter,
            precision=precision,
        )


# fmt: off
PANELS: Final[Mapping[str, Panel]] = MappingProxyType({
    "mnist": Panel(
        "mnist", "lenet", 76 / 255, 16, (0.2, 0.1, 0.05, 0.025, 0.01, 0.006, 0.003, 0.0015),
        clean_share=0.5, batch_size=64, lr=0.05, epochs=50,
    ),
    "cifar10": Panel(
        "cifar10", "resnet34", 4 / 255, 7, (0.1, 0.05, 0.01, 0.005, 0.003, 0.001),
        clean_share=0.5, batch_size=128, lr=0.05, epochs=200,
    ),
})
# fmt: on


@final
@dataclasses.dataclass(frozen=True)
class Distance:
    """A point of ours beside the paper's curve.

    :param series: the paper's curve that is compared with; None where it has none, or none at this size.
    :param paper: its clean and robust accuracy at the point's size by the paper's count.
    """

    point: Point
    series: str | None = None
    paper: tuple[float, float] | None = None

    @property
    def difference(self) -> tuple[float, float] | None:
        """Ours minus the paper's: clean, and robust under the worst case of our attacks."""
        if self.paper is None:
            return None
        return self.point.clean.share - self.paper[0], self.point.robust.share - self.paper[1]


def distances(points: Iterable[Point]) -> list[Distance]:
    """Every point beside the paper's curve of its method, at its own size, linear in the logarithm of the size.

    ATMC with another codebook than 8 bits is compared with the paper's 8-bit curve, at the same size.
    """
    return [_distance(point) for point in points]


def _distance(point: Point) -> Distance:
    known = curves(point.data, point.eps, point.norm)
    series = point.series if point.series in known else "ATMC-8" if point.series.startswith("ATMC") else None
    if series is None or series not in known:
        return Distance(point)
    rows = known[series]
    paper = (rows[0][1], rows[0][2]) if len(rows) == 1 else interpolated(rows, point.paper_ratio)
    return Distance(point, series, paper)


HEAD: Final = ("network", "epochs", "size, paper's count", "file", "clean, %", "robust, %", "paper", "difference")


def _cells(distance: Distance) -> tuple[str, ...]:
    point = distance.point
    clean, robust = (f"{100 * a.share:.1f} [{100 * a.interval[0]:.1f}, {100 * a.interval[1]:.1f}]"
                     for a in (point.clean, point.robust))  # fmt: skip
    paper, difference = "", ""
    if distance.paper and distance.difference:
        paper = f"{100 * distance.paper[0]:.1f} / {100 * distance.paper[1]:.1f} ({distance.series})"
        difference = f"{100 * distance.difference[0]:+.1f} / {100 * distance.difference[1]:+.1f}"
    epochs = " + ".join(str(n) for _, n in point.stages)
    size = f"{point.paper_ratio:.4f}"
    return point.label, epochs, size, f"{point.file_bytes / 1000:,.1f} kB", clean, robust, paper, difference


def markdown(rows: Iterable[Distance]) -> str:
    """For documentation."""
    lines = [HEAD, ("---",) * len(HEAD), *(_cells(row) for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def table(rows: Iterable[Distance]) -> Table:
    """For a terminal of 80 columns: a row a network, over all its seeds, beside the paper's point where it has one."""
    rows = list(rows)
    groups: dict[str, list[Distance]] = defaultdict(list)
    for row in rows:
        groups[row.point.label].append(row)
    compared = any(row.paper for row in rows)
    point = rows[0].point
    seeds = max(len(group) for group in groups.values())
    notes = [
        f"robust: worst case of {', '.join(point.attacks)}",
        "size: share of the dense network's, by the paper's count",
    ]
    notes += [f"in %: mean ± standard deviation of {seeds} seeds"] if seeds > 1 else []
    notes += ["difference: ours minus the paper's, clean / robust, at the same size"] if compared else []
    notes += [f"{row.point.label}: {sentence}" for row in rows for sentence in row.point.doubts]
    made = figures(
        f"{point.data}, {point.robust.n} test images, eps {point.eps:.3g}, norm {point.norm}",
        "\n".join(notes),
        ("network", "size", "file", "clean", "robust", *(("paper", "difference") if compared else ())),
    )
    for label, group in groups.items():
        _, _, size, file, _, _, paper, _ = _cells(group[0])
        figures_of = [_percent([share(row.point) for row in group]) for share in (_clean, _robust)]
        gaps = [row.difference for row in group if row.difference]
        gap = " / ".join(f"{100 * fmean(part):+.1f}" for part in zip(*gaps, strict=True))
        made.add_row(plain_text(label), size, file, *figures_of, *((paper.partition(" (")[0], gap) if compared else ()))
    return made


def _clean(point: Point) -> float:
    return point.clean.share


def _robust(point: Point) -> float:
    return point.robust.share


def _percent(shares: Sequence[float]) -> str:
    spread = Spread.of(shares)
    return f"{100 * spread.mean:.1f}" + ("" if spread.std is None else f" ± {100 * spread.std:.1f}")
