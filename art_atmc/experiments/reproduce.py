"""The panels of the ATMC paper's main figure again: the same data, network, attack and sizes, beside its points."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from art_atmc.experiments.experiment import Experiment
from art_atmc.experiments.paper import curves, interpolated
from art_atmc.experiments.point import Point

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

    def experiment(self, data_dir: Path, budget: int | None = None, max_iter: int | None = None) -> Experiment:
        """The panel's conditions.

        :param budget: epochs of every network in all; by default the recommended number.
        :param max_iter: steps of the attack *in training*, to save time; the test always has the paper's.
        """
        return Experiment(
            self.data,
            data_dir=data_dir,
            network=self.network,
            eps=self.eps,
            max_iter=self.max_iter if max_iter is None else max_iter,
            test_max_iter=self.max_iter,
            clean_share=self.clean_share,
            epochs=self.epochs if budget is None else budget,
            batch_size=self.batch_size,
            lr=self.lr,
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
    """For a terminal; with the paper's points where there are any."""
    rows = list(rows)
    compared = any(row.paper for row in rows)
    notes = "size: share of the dense network's, by the paper's count"
    if compared:
        notes += "\ndifference: ours minus the paper's, clean / robust, at the same size"
    made = Table(caption=notes, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("network", "size", "file", "clean", "robust", *(("paper", "difference") if compared else ())):
        made.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for row in rows:
        name, _, size, file, clean, robust, paper, difference = _cells(row)
        cells = (name, size, file, clean.partition(" ")[0], robust.partition(" ")[0])
        made.add_row(*cells, *((paper.partition(" (")[0], difference) if compared else ()))
    return made
