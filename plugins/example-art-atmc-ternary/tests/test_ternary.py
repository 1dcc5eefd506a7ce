from __future__ import annotations

import itertools
import re
from pathlib import Path

import art_atmc_ternary
import numpy as np
import pytest
import torch
from art_atmc_ternary import Ternary
from hypothesis import given, settings
from hypothesis import strategies as st

from art_atmc import PGD, ATMCTrainer, Sparsity, Weights, compressible
from art_atmc.plugins import from_repr, load
from art_atmc.testing import check_constraint

torch.set_num_threads(1)  # small networks run many times slower on two

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "write-a-constraint.md"
numbers = st.one_of(st.floats(-100, 100, width=32, allow_subnormal=False), st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]))


def project(tensor: torch.Tensor) -> torch.Tensor:
    return Ternary().project(Weights({"w": tensor}))["w"]


def least(values: list[float]) -> float:
    """The squared distance to the nearest ternary tensor, over every support; for each the best a is the mean."""
    distances = [
        sum(v * v for v in values) - sum(abs(v) for v in kept) ** 2 / max(len(kept), 1)
        for k in range(len(values) + 1)
        for kept in itertools.combinations(values, k)
    ]
    return min(distances)


def test_it_keeps_the_laws():
    def feasible(weights):
        return all(t[t != 0].abs().unique().numel() <= 1 for t in weights.values())

    def distance(weights):
        return sum(least(t.flatten().tolist()) for t in weights.values())

    check_constraint(Ternary(), feasible=feasible)
    small = Weights({"a": torch.tensor([[3.0, -2.0, 0.5], [0.0, 1.0, -4.0]]), "b": torch.tensor([0.1, -0.2, 5.0])})
    check_constraint(Ternary(), small, feasible=feasible, distance=distance)


@settings(max_examples=200, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=8))
def test_no_support_is_nearer(values):
    weights = Weights({"w": torch.tensor(values, dtype=torch.float64)})
    assert Ternary().violation(weights) == pytest.approx(least(values), rel=1e-9, abs=1e-9)


@given(st.lists(numbers, min_size=1, max_size=20), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_ternary_tensors_come_back_bit_for_bit(values, dtype):
    once = project(torch.tensor(values, dtype=dtype))
    assert once.unique().numel() <= 3
    assert torch.equal(project(once), once)


def test_it_is_found_by_its_name_and_its_repr():
    assert load("ternary") is Ternary
    assert from_repr(repr(Ternary())) == Ternary()


def test_the_documentation_shows_the_file_as_it_is():
    walk = PAGE.read_text().split("\n## The file, line by line")[1].split("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", walk, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    assert "\n\n".join(blocks) == Path(art_atmc_ternary.__file__).read_text()


def test_ternary_and_sparse_digits_train_end_to_end():
    from art.estimators.classification import PyTorchClassifier
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = (data.images[:, None] / 16).astype(np.float32), data.target.astype(np.int64)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    classifier = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0.0, 1.0)
    )
    trainer = ATMCTrainer(classifier, PGD(0.05, 0.02, 3), [Sparsity(0.3), Ternary()], factored=False, verbose=False)
    trainer.fit(x[:1200], y[:1200], nb_epochs=4, batch_size=32)
    robust = trainer.get_classifier()
    weights = compressible(robust.model).detach()
    assert all(t.unique().numel() <= 3 for t in weights.values())
    assert 0 < weights.nnz() <= 0.3 * weights.dense_size
    assert (robust.predict(x[1200:]).argmax(axis=1) == y[1200:]).mean() > 0.6
