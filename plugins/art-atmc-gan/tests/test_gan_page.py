"""The documentation's code runs from top to bottom and prints what it shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "plugins" / "gan.md"
FENCED = re.compile(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
FRACTION = re.compile(r"\d*\.\d+")


def test_the_page_runs_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = FENCED.findall(PAGE.read_text())
    assert len(blocks) >= 4
    namespace = {"__name__": "__main__"}
    for code, shown in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, namespace)
        printed = output.getvalue()
        assert FRACTION.sub("#", printed) == FRACTION.sub("#", shown)
        for ours, theirs in zip(FRACTION.findall(printed), FRACTION.findall(shown), strict=True):
            assert float(ours) == pytest.approx(float(theirs), abs=0.05)  # training rounds otherwise elsewhere
