"""Strings of others on a terminal: shown as they are, never obeyed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutants import forge, samples
from rich.console import Console
from rich.table import Table

from art_atmc import CompressedModel
from art_atmc.evaluation import Access, AttackResult, Evaluation, Finding, Severity
from art_atmc.support.terminal import plain_text, printable

HOSTILE = [
    *("[/b]", "conv[ab]*", "[red]x[/red]", "[/", "\\["),
    *("\x1b[31m", "\x1b]0;title\x07", "\x9b31m", "\u202egnp", "a\nb", "a\rb"),
]


def drawn(shown):
    """What a colour terminal receives."""
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


@given(st.text())
def test_printable_text_steers_nothing_and_loses_nothing(text):
    shown = printable(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert shown == text or not all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("text", HOSTILE)
def test_cells_and_titles_hold_what_they_were_given(text):
    table = Table(title=plain_text(text))
    table.add_column(plain_text(text))
    table.add_row(plain_text(text))
    visible = printable(text).replace("\n", "\\n")
    received = drawn(table)
    assert received.count(visible) == 3
    assert all(c.isprintable() or c == "\n" for c in received)


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_metrics_of_a_file_are_shown_as_they_are(text, tmp_path):
    sample = samples()[1].model
    tensors = {text if name == "fc.weight" else name: tensor for name, tensor in sample.tensors.items()}
    fields = {
        "tensors": {text if name == "fc.weight" else name: entry for name, entry in sample.index.tensors.items()},
        "compressed": [text if name == "fc.weight" else name for name in sample.index.compressed],
        "positions": {},
    }
    manifest = sample.manifest.model_copy(update={"metrics": {text: text}, "ignore": [text], "constraints": [text]})
    index = sample.index.model_copy(update=fields)
    data = forge(manifest.model_dump_json(), index.model_dump_json(), samples()[1].payload)
    (tmp_path / "a.atmc").write_bytes(data)
    loaded = CompressedModel.load(tmp_path / "a.atmc")
    assert loaded.tensors == tensors
    visible = printable(text).replace("\n", "\\n")
    for received in (drawn(loaded.report().table()), drawn(loaded.manifest.table())):
        assert visible in received
        assert all(c.isprintable() or c == "\n" for c in received)


@pytest.mark.parametrize("text", HOSTILE)
def test_names_of_attacks_and_findings_are_shown_as_they_are(text):
    correct = np.array([True, False])
    attack = AttackResult(text, Access.GRADIENTS, True, 1, {}, correct, 0, 1.0)
    evaluation = Evaluation(
        text, 0.1, "inf", 0, 2, "", "", {}, correct, (attack,), (text,), (text,),
        (Finding(text, Severity.WARNING, text),), {},
    )  # fmt: skip
    received = drawn(evaluation)
    visible = printable(text).replace("\n", "\\n")
    assert received.count(visible) >= 5
    assert all(c.isprintable() or c == "\n" for c in received)
