"""What an evaluation found: every example under every attack, and how to read it; as JSON and as a table."""

from __future__ import annotations

import dataclasses
import enum
import os
from functools import reduce
from typing import ClassVar, Final, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, JsonValue, TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from art_atmc.evaluation.certificates import CertificateResult, certified_table
from art_atmc.evaluation.outcomes import Outcomes, share
from art_atmc.evaluation.suites import Access
from art_atmc.support.atomic import write_file
from art_atmc.support.reading import read_json, readable, validated
from art_atmc.support.terminal import as_text, plain_text

__all__ = ["AttackResult", "Evaluation", "Finding", "Severity"]

SCHEMA: Final = 1


class Severity(enum.Enum):
    """How far a self-check casts doubt on the figures."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"


@final
@dataclasses.dataclass(frozen=True)
class Finding:
    """What a self-check says.

    :param check: its name.
    :param sentence: what was seen, in figures, and what to do about it.
    """

    check: str
    severity: Severity
    sentence: str


@final
@dataclasses.dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack of the suite achieved.

    :param access: what it used of the classifier.
    :param bounded: whether it counts in the worst case.
    :param parameters: of the attack, ``type`` among them.
    :param correct: (n,) examples that are classified correctly, clean and after the attack.
    :param rejected: number of attempts that left the ball or the clip values; such an example does not count.
    :param seconds: that it took.
    :param ball: radius and norm, where they are not the suite's.
    """

    name: str
    access: Access
    bounded: bool
    restarts: int
    parameters: dict[str, JsonValue]
    correct: Outcomes = dataclasses.field(repr=False)
    rejected: int
    seconds: float
    ball: tuple[float, str] | None = None

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The figures of a classifier, with all that is needed to check or to repeat them.

    :param suite: name of the suite.
    :param eps: radius of the ball that all bounded attacks keep to that have none of their own.
    :param norm: its norm: ``"1"``, ``"2"`` or ``"inf"``.
    :param seed: of everything random.
    :param batch_size: examples at a time, on which random numbers depend.
    :param data: SHA-256 of inputs (float32) and labels (int64).
    :param model: SHA-256 of the weights and buffers, and of preprocessing, defences and loss where there are any.
    :param others: the same of the classifiers that examples are transferred from or gradients are taken from.
    :param clean: (n,) examples that are classified correctly without an attack.
    :param attacks: in the order of the suite.
    :param missing: names of the attacks and certificates that did not run yet: an interrupted evaluation.
    :param skipped: attacks that could not run, and why.
    :param findings: of the self-checks.
    :param versions: of the libraries.
    :param clip_values: smallest and largest valid input.
    :param certificates: lower bounds beside the attacks' upper ones; no part of the worst case.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    suite: str
    eps: float
    norm: str
    seed: int
    batch_size: int
    data: str
    model: str
    others: dict[str, str]
    clean: Outcomes = dataclasses.field(repr=False)
    attacks: tuple[AttackResult, ...]
    missing: tuple[str, ...]
    skipped: tuple[str, ...]
    findings: tuple[Finding, ...]
    versions: dict[str, str]
    clip_values: JsonValue = None
    certificates: tuple[CertificateResult, ...] = ()
    schema: Literal[1] = SCHEMA

    def __post_init__(self) -> None:
        if not len(self.clean):
            raise ValueError("`clean` is empty; an evaluation needs at least one example")
        found: list[NDArray[np.bool_] | NDArray[np.float64]] = [attack.correct for attack in self.attacks]
        found += [part for row in self.certificates for part in (row.correct, row.radii)]
        if lengths := sorted({len(part) for part in found} - {len(self.clean)}):
            raise ValueError(f"`clean` holds {len(self.clean)} examples, but there are outcomes of {lengths}")

    def __getitem__(self, name: str) -> AttackResult:
        """The result of the attack of this name.

        :raises KeyError: when there is none, naming those that there are.
        """
        for attack in self.attacks:
            if attack.name == name:
                return attack
        raise KeyError(f"there is no attack {name!r}; there are {', '.join(a.name for a in self.attacks)}")

    @property
    def worst_case(self) -> NDArray[np.bool_]:
        """(n,) examples that withstand every bounded attack."""
        return reduce(np.logical_and, (a.correct for a in self.attacks if a.bounded), self.clean)

    @property
    def clean_accuracy(self) -> float:
        return float(self.clean.mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of the examples that withstand every bounded attack of the suite."""
        return float(self.worst_case.mean())

    @property
    def trustworthy(self) -> bool:
        """Whether the suite ran in full and no self-check failed."""
        return not self.missing and all(finding.severity is not Severity.FAILED for finding in self.findings)

    def to_json(self) -> str:
        return TypeAdapter(Evaluation).dump_json(self, indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """
        :raises ValueError: when ``text`` is no evaluation, or one of a newer version.
        """
        with readable("this", f"an evaluation of schema {SCHEMA}"):
            return validated(cls, text)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON, whole or not at all."""
        write_file(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what :meth:`save` wrote.

        :raises OSError: when it can't be read.
        :raises ValueError: naming the file, when it is no evaluation.
        """
        return read_json(path, cls, f"an evaluation of schema {SCHEMA}", "delete it and evaluate again")

    def table(self) -> Table:
        """One row an attack: accuracy, examples that it alone fools, attempts outside the set; fits 80 columns."""
        unbounded = any(not a.bounded for a in self.attacks)
        table = Table(
            title=plain_text(f"{self.suite}: {len(self.clean)} examples, norm {self.norm}, eps {self.eps:.4g}"),
            caption="alone: misclassified under no other attack\noutside: attempts outside the ball, not counted"
            + "\n* keeps to no ball, no part of the worst case" * unbounded,
            caption_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for column in ("attack", "accuracy", "95 % interval", "alone", "outside", "seconds"):
            named = column == "attack"  # a long name goes on in the next line
            table.add_column(column, justify="left" if named else "right", no_wrap=not named, overflow="fold")
        table.add_row("clean", *share(self.clean), "", "", "")
        for attack in self.attacks:
            name = plain_text(attack.name if attack.bounded else f"{attack.name} *")
            alone = str(self._fooled_alone(attack)) if attack.bounded else ""
            table.add_row(name, *share(attack.correct), alone, str(attack.rejected or ""), f"{attack.seconds:.1f}")
        table.add_row("worst case", *share(self.worst_case), "", "", "", style="bold")
        return table

    def _fooled_alone(self, attack: AttackResult) -> int:
        """Number of the examples that are misclassified under this attack and under no other one."""
        others = (a.correct for a in self.attacks if a.bounded and a is not attack)
        return int((reduce(np.logical_and, others, self.clean) & ~attack.correct).sum())

    def __str__(self) -> str:
        return as_text(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table()
        if self.certificates:
            yield certified_table(self.certificates, self.eps, self.norm)
        if self.missing:
            yield plain_text(f"not run yet: {', '.join(self.missing)}")
        for name in self.skipped:
            yield plain_text(f"skipped: {name}")
        colours = {Severity.PASSED: "green", Severity.WARNING: "yellow", Severity.FAILED: "red"}
        for finding in self.findings:
            yield Text.assemble(
                (finding.severity.value, colours[finding.severity]), plain_text(f" {finding.check}: {finding.sentence}")
            )
