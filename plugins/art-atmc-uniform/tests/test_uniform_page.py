"""The documentation's code runs from top to bottom and prints what it shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "plugins" / "uniform.md"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_runs_and_prints_what_it_shows() -> None:
    blocks = FENCED.findall(PAGE.read_text())
    assert sum(kind == "python" for kind, _ in blocks) >= 4
    printed, namespace = "", {"__name__": "__main__"}
    for kind, text in blocks:
        if kind == "python":
            assert printed == "", "output that the page does not show"
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(text, namespace)
            printed = output.getvalue()
        elif kind == "text":
            assert printed == text, "the page shows something else"
            printed = ""
