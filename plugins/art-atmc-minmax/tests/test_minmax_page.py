"""The page of the documentation, whose code runs and prints what it shows; and names, as the command line has them."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from art_atmc_minmax import Generalized, MinMax, Transformations

from art_atmc import PGD
from art_atmc.plugins import parse

torch.set_num_threads(1)
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "plugins" / "minmax.md"
FENCED = re.compile(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*")


def test_attack_and_objective_come_by_name() -> None:
    attack = parse("minmax:eps=0.1,domains=(identity,flip_lr),max_iter=7,gamma=inf", "attack")
    assert isinstance(attack, MinMax)
    assert isinstance(attack.domains, Transformations)
    assert attack.domains.names == ("identity", "flip_lr")
    objective = parse("generalized:gamma=0,per_example=true", "objective", attacks=(PGD(0.1, 0.05, 1),))
    assert isinstance(objective, Generalized)
    assert objective.gamma == 0
    with pytest.raises(ValueError, match="no transformations rotated"):
        parse("minmax:eps=0.1,domains=(rotated,)", "attack")


@pytest.mark.skipif(not PAGE.exists(), reason="the page is part of the repository")
def test_the_page_runs_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for code, shown in FENCED.findall(PAGE.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert NUMBER.sub("#", printed.getvalue()) == NUMBER.sub("#", shown)
        for ours, page in zip(NUMBER.findall(printed.getvalue()), NUMBER.findall(shown), strict=True):
            assert float(ours) == pytest.approx(float(page), abs=0.2 if "." in page else 20)
