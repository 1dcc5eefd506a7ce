"""The examples run as they stand, and the page about them leaves none out."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {"plug_in.py": "art_atmc_structured", "export_onnx.py": "onnxscript"}


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs_and_says_what_it_did(script, tmp_path, monkeypatch, capsys):
    if script in NEEDS:
        pytest.importorskip(NEEDS[script])
    monkeypatch.chdir(tmp_path)  # the scripts write where they are run
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert capsys.readouterr().out


def test_page_about_the_examples_leaves_none_out():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in EXAMPLES.glob("*.py") if f"]({path.name})" not in page]
