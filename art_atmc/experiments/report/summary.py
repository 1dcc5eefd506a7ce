"""The words and figures of a report: headline, table, and what casts doubt on them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import final

from art_atmc.evaluation.result import Evaluation, Severity
from art_atmc.experiments.point import Accuracy, Point
from art_atmc.experiments.report.pictures import examined
from art_atmc.experiments.report.results import Line, Result, Size, listed

__all__ = ["Doubt", "Row", "doubts", "headline", "rows"]


@final
@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table, as text: one size over its seeds, or one network.

    :param seeds: how many; of one network the seed itself.
    :param clean: accuracy, then its interval or what it is a mean of; ``robust`` likewise.
    :param doubted: whether a self-check failed.
    """

    recipe: str
    density: str
    bits: str
    seeds: str
    epochs: str
    clean: tuple[str, str]
    robust: tuple[str, str]
    nnz: str
    paper_ratio: str
    file_bytes: str
    file_ratio: str
    doubted: bool

    @classmethod
    def of(cls, size: Size, label: str) -> Row:
        point = size.point
        return cls(
            recipe=label,
            density=f"{point.density:g}",
            bits=str(point.bits),
            seeds=str(len(size.points)),
            epochs=str(point.epochs),
            clean=_accuracy(size, lambda p: p.clean),
            robust=_accuracy(size, lambda p: p.robust),
            nnz=f"{size.spread(lambda p: p.nnz).mean:,.0f}",
            paper_ratio=f"{size.spread(lambda p: p.paper_ratio).mean:.3g}",
            file_bytes=f"{size.spread(lambda p: p.file_bytes).mean:,.0f}",
            file_ratio=f"{size.spread(lambda p: p.file_ratio).mean:.3g}",
            doubted=any(not result.evaluation.trustworthy for result in size.results),
        )


@final
@dataclasses.dataclass(frozen=True)
class Doubt:
    """A self-check that did not pass.

    :param failed: whether it failed; else it is a warning.
    :param networks: of which it says the same.
    """

    check: str
    sentence: str
    failed: bool
    networks: tuple[str, ...]


def rows(lines: Sequence[Line]) -> list[Row]:
    """A row for each size, over its seeds."""
    return [Row.of(size, line.label) for line in lines for size in line.sizes]


def seeds(lines: Sequence[Line]) -> list[Row]:
    """A row for each network of the sizes that have several."""
    several = [(line, size) for line in lines for size in line.sizes if len(size.results) > 1]
    return [
        dataclasses.replace(Row.of(Size((result,)), line.label), seeds=str(result.point.seed))
        for line, size in several
        for result in size.results
    ]


def doubts(found: Iterable[Result]) -> list[Doubt]:
    """What the self-checks found, what the suites did not run and what the trainings left, failures first.

    What is said twice is said once.
    """
    networks: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for result in found:
        for said in _said(result.evaluation, result.point):
            networks[said].append(f"{result.point.label}, seed {result.point.seed}")
    made = [Doubt(*said, networks=tuple(labels)) for said, labels in networks.items()]
    return sorted(made, key=lambda doubt: not doubt.failed)


def _said(evaluation: Evaluation, point: Point) -> Iterator[tuple[str, str, bool]]:
    if evaluation.missing:
        missing = ", ".join(evaluation.missing)
        yield "interrupted", f"{missing} did not run, so that the accuracy may be lower; evaluate it again", True
    for sentence in evaluation.skipped:
        yield "skipped attack", sentence, False
    for finding in evaluation.findings:
        if finding.severity is not Severity.PASSED:
            yield finding.check, finding.sentence, finding.severity is Severity.FAILED
    known = [finding.sentence for finding in evaluation.findings]
    for sentence in point.doubts:
        if not sentence.endswith(tuple(known)):  # those of the self-checks among them
            yield "training", sentence, False


def headline(found: Sequence[Result]) -> str:
    """What was trained on what against what, and the best that came of it."""
    points = [result.point for result in found]
    first = points[0]
    numbers = sorted({point.seed for point in points})
    opening = (
        f"{_counted(len(points), f'{first.network} network')} on {first.data}, trained with "
        f"{_counted(len(numbers), 'seed')} ({', '.join(map(str, numbers))}) and tested on {first.robust.n:,} examples, "
        f"attacked by {listed(first.attacks)} within eps {first.eps:.3g} (norm {first.norm})."
    )
    best = examined(found)
    if best is None:
        return opening
    point, kind = best.point, "with a codebook" if best.point.bits < 32 else "that is sparse"
    small = (
        f" The most robust one {kind}, {point.series} at density {point.density:g}, classifies {_share(point.clean)} "
        f"correctly without an attack and {_share(point.robust)} under attack; its file has {point.file_bytes:,} "
        f"bytes, 1/{1 / point.file_ratio:.0f} of the dense weights' {point.dense_bytes:,}."
    )
    dense = max((p for p in points if p.recipe == "DA"), key=lambda p: p.robust.share, default=None)
    if dense is None:
        return opening + small
    return f"{opening}{small} The dense network, DA, reaches {_share(dense.clean)} and {_share(dense.robust)}."


def _accuracy(size: Size, accuracy: Callable[[Point], Accuracy]) -> tuple[str, str]:
    spread = size.spread(lambda point: accuracy(point).share)
    if spread.std is None:
        low, high = accuracy(size.point).interval
        return f"{spread.mean:.1%}", f"{low:.1%} to {high:.1%}"
    return f"{spread.mean:.1%} ± {spread.std:.1%}", f"{spread.min:.1%} to {spread.max:.1%}"


def _share(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return f"{accuracy.share:.1%} ({low:.1%} to {high:.1%})"


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("s" if n != 1 else "")
