"""The documentation's code runs from top to bottom and prints what it shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "plugins" / "gan.md"
FENCED = re.compile(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def test_the_page_runs_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = FENCED.findall(PAGE.read_text())
    assert len(blocks) >= 4
    namespace = {"__name__": "__main__"}
    for code, shown in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, namespace)
        printed = output.getvalue()
        # Training rounds otherwise on another machine, and another channel may go; what is exact the page asserts.
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
        for ours, theirs in zip(numbers(printed), numbers(shown), strict=True):
            assert ours == pytest.approx(theirs, rel=0.1, abs=3)


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]
