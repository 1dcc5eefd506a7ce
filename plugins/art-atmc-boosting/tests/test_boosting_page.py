"""The page of the documentation: its code runs and prints what it shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "plugins" / "boosting.md"
FENCED = re.compile(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def test_the_page_runs_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = FENCED.findall(PAGE.read_text())
    assert len(blocks) >= 4
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, PAGE.name, "exec"), namespace)
        assert re.sub(r"[\d.]+", "#", printed.getvalue()) == re.sub(r"[\d.]+", "#", shown)
        for ours, theirs in zip(*(re.findall(r"\d+\.?\d*", text) for text in (printed.getvalue(), shown)), strict=True):
            # Training rounds otherwise on another machine.
            np.testing.assert_allclose(float(ours), float(theirs), rtol=0.2, atol=0.2)
