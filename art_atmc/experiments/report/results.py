"""What a report is made of: the trained networks of a folder, read whole or left out with the reason."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, final

from art_atmc.evaluation.result import Evaluation
from art_atmc.experiments.point import Examples, Point, places
from art_atmc.experiments.recipes import RECIPES
from art_atmc.experiments.report.damage import Epoch, check, examples, history
from art_atmc.files.model import CompressedModel
from art_atmc.support.statistics import Spread

__all__ = ["LeftOut", "Line", "Result", "Size", "conditions", "lines", "listed", "results"]

CONDITIONS: Final[dict[str, Callable[[Point], object]]] = {
    "data": lambda point: point.data,
    "network": lambda point: point.network,
    "eps": lambda point: point.eps,
    "norm": lambda point: point.norm,
    "attack": lambda point: point.attack,
    "attacks of the test": lambda point: ", ".join(point.attacks),
    "number of test examples": lambda point: point.robust.n,
}
"""What points must have in common to be compared."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """A trained network with all its files but the model, which may be large."""

    folder: Path
    point: Point
    history: tuple[Epoch, ...]
    evaluation: Evaluation
    examples: Examples | None

    def model(self) -> CompressedModel:
        return CompressedModel.load(self.folder / "model.atmc")

    @classmethod
    def load(cls, folder: Path) -> Result:
        """
        :raises OSError: when a file can't be read.
        :raises ValueError: when a file is damaged, or is not of this point.
        """
        point = Point.load(folder)
        made = cls(folder, point, history(folder), Evaluation.load(folder / "evaluation.json"), examples(folder))
        made.model()  # its digest covers the whole file
        check(folder, point, made.history, made.evaluation)
        return made


@final
@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A folder whose point is not in the report, and why."""

    folder: str
    reason: str


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Size:
    """One recipe at one size: a network for each seed.

    :param results: at least one, by seed.
    """

    results: tuple[Result, ...]

    @property
    def point(self) -> Point:
        """Of the first seed: recipe, density, bits and epochs are those of all."""
        return self.results[0].point

    @property
    def points(self) -> list[Point]:
        return [result.point for result in self.results]

    def spread(self, figure: Callable[[Point], float]) -> Spread:
        return Spread.of([figure(point) for point in self.points])


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A curve of the trade-off: one recipe with one number of bits and of epochs.

    :param label: the paper's name of it.
    :param sizes: from large to small.
    """

    label: str
    sizes: tuple[Size, ...]

    @property
    def results(self) -> list[Result]:
        return [result for size in self.sizes for result in size.results]


def results(folder: Path) -> tuple[list[Result], list[LeftOut]]:
    """The points of ``folder`` with their files, in the order of :data:`art_atmc.experiments.recipes.RECIPES`.

    :returns: the points that are complete, and those that are left out.
    :raises FileNotFoundError: where there are none, complete or not.
    :raises ValueError: when none is complete, or when they are not comparable.
    """
    found: list[Result] = []
    left_out: list[LeftOut] = []
    for place in places(folder):
        try:
            found.append(Result.load(place))
        except (OSError, ValueError) as error:  # noqa: PERF203
            reason = str(error).replace(f"{place}/", "")
            left_out.append(LeftOut(str(place.relative_to(folder)), reason or type(error).__name__))
    if not found:
        reasons = "; ".join(f"{one.folder}: {one.reason}" for one in left_out)
        raise ValueError(f"{folder} holds no complete point ({reasons}); run the sweep again")
    found.sort(key=lambda result: _rank(result.point))
    _check_comparable(folder, found)
    return found, left_out


def lines(found: Iterable[Result]) -> list[Line]:
    """The results as curves; networks that differ in nothing but the seed are one size."""
    sizes: dict[tuple[str, str, int], dict[float, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in found:
        point = result.point
        sizes[point.series, point.schedule, point.epochs][point.density].append(result)
    names = [series for series, _, _ in sizes]
    return [
        Line(
            series if names.count(series) == 1 else f"{series}, {schedule} schedule, {epochs} epochs",
            tuple(Size(tuple(group)) for group in densities.values()),
        )
        for (series, schedule, epochs), densities in sizes.items()
    ]


def conditions(point: Point, attack: str | None, radius: str | None = None) -> str:
    """Under which conditions a figure of the point was measured: network, data, attack and radius.

    :param attack: as text; None for no attack.
    :param radius: as text, where it is not the study's.
    """
    where = f"{point.network} on {point.data}"
    if attack is None:
        return f"{where}; no attack"
    return f"{where}; {attack} within {radius or f'eps {point.eps:.3g}'} (norm {point.norm})"


def listed(names: Collection[str]) -> str:
    """
    >>> listed(["PGD-7", "paper-7", "Square-100"])
    'PGD-7, paper-7 and Square-100'
    """
    *others, last = names or ("nothing",)
    return f"{', '.join(others)} and {last}" if others else last


def _rank(point: Point) -> tuple[int, str, int, str, int, float, int]:
    names = list(RECIPES)
    known = names.index(point.recipe) if point.recipe in names else len(names)
    return known, point.recipe, -point.bits, point.schedule, point.epochs, -point.density, point.seed


def _check_comparable(folder: Path, found: Sequence[Result]) -> None:
    differing = []
    for name, condition in CONDITIONS.items():
        groups: dict[object, list[str]] = defaultdict(list)
        for result in found:
            groups[condition(result.point)].append(result.folder.name)
        if len(groups) > 1:
            differing.append(f"{name} is " + " and ".join(f"{value!r} in {_some(at)}" for value, at in groups.items()))
    if differing:
        raise ValueError(
            f"the points of {folder} can't be compared: {'; '.join(differing)}; keep one folder for each study"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
