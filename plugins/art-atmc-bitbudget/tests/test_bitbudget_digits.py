"""End to end on digits, and the page of the documentation, whose code runs and prints what it shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from art_atmc_bitbudget import BitBudget
from torch import nn

from art_atmc import PGD, ATMCTrainer, CompressedModel, Sparsity, compressible
from art_atmc.compression.paper_size import paper_bits
from art_atmc.data import load
from art_atmc.networks import digits_cnn

torch.set_num_threads(1)
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "plugins" / "bitbudget.md"
FENCED = re.compile(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def classifier() -> PyTorchClassifier:
    torch.manual_seed(0)
    model = digits_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )


@pytest.mark.parametrize("factored", [False, True])
def test_digits_train_and_are_saved_within_the_budget(factored: bool, tmp_path: Path) -> None:
    digits = load("digits")
    budget = BitBudget(total_bits=26_000)
    attack = PGD(eps=0.1, eps_step=0.05, max_iter=2)
    trainer = ATMCTrainer(classifier(), attack, [Sparsity(0.2), budget], factored=factored, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=3, batch_size=32)
    robust = trainer.get_classifier()
    weights = compressible(robust.model).detach()
    allocation = budget.allocation(weights)
    assert allocation.error == 0
    assert 0 < paper_bits(weights) <= allocation.bits <= 26_000
    assert (robust.predict(digits.x_test).argmax(1) == digits.y_test).mean() > 0.8

    trainer.compress().save(tmp_path / "digits.atmc")
    loaded = CompressedModel.load(tmp_path / "digits.atmc")
    assert repr(budget) in loaded.manifest.constraints
    loaded.verify()
    assert budget.violation(loaded.weights()) == 0
    assert all(torch.equal(t, weights[name]) for name, t in loaded.weights().items())


def test_a_budget_too_small_for_the_network_is_refused_before_training() -> None:
    attack = PGD(eps=0.1, eps_step=0.05, max_iter=1)
    with pytest.raises(ValueError, match=r"leaves 52 bits for 52768 weights.*give at least 0\.0012 bits a weight"):
        ATMCTrainer(classifier(), attack, [BitBudget(bits_per_weight=0.001)])
    ATMCTrainer(classifier(), attack, [BitBudget(bits_per_weight=0.01)])


def test_the_page_runs_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = FENCED.findall(PAGE.read_text())
    assert len(blocks) >= 3
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, PAGE.name, "exec"), namespace)
        assert re.sub(r"[\d.]+", "#", printed.getvalue()) == re.sub(r"[\d.]+", "#", shown)
        for ours, theirs in zip(*(re.findall(r"\d+\.?\d*", text) for text in (printed.getvalue(), shown)), strict=True):
            # Training rounds otherwise on another machine.
            np.testing.assert_allclose(float(ours), float(theirs), rtol=0.2, atol=0.2)
