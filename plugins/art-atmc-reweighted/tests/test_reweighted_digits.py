"""End to end on digits: single weights, filters, and a codebook on top."""

from __future__ import annotations

import functools

import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from art_atmc_reweighted import Reweighted, reweighted
from art_atmc_structured import FilterSparsity, remove_filters
from torch import nn

from art_atmc import ADMM, PGD, ATMCTrainer, Constraint, Quantization, Sparsity, compressible
from art_atmc.compression import SolverFactory
from art_atmc.data import Dataset, load
from art_atmc.networks import digits_cnn

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def trained(digits: Dataset, solver: SolverFactory, *constraints: Constraint, factored: bool = False) -> ATMCTrainer:
    torch.manual_seed(0)
    model = digits_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )
    attack = PGD(eps=0.1, eps_step=0.05, max_iter=2)
    trainer = ATMCTrainer(classifier, attack, constraints, factored=factored, solver=solver, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=3, batch_size=32)
    return trainer


def accuracy(trainer: ATMCTrainer, digits: Dataset) -> float:
    return float((trainer.predict(digits.x_test).argmax(1) == digits.y_test).mean())


@pytest.mark.parametrize("factored", [False, True])
def test_single_weights_go_down_to_the_density(digits: Dataset, factored: bool) -> None:
    trainer = trained(digits, Reweighted, Sparsity(0.1), factored=factored)
    weights = compressible(trainer.get_classifier().model)
    assert weights.nnz() == Sparsity(0.1).budget(weights)
    assert accuracy(trainer, digits) > 0.8


def test_filters_go_and_can_be_removed(digits: Dataset) -> None:
    trainer = trained(digits, functools.partial(Reweighted, updates=2), FilterSparsity(0.5))
    model = trainer.get_classifier().model
    filters = [int(weight.flatten(1).any(1).sum()) for weight in compressible(model).values()]
    assert sum(filters[:3]) <= 112
    assert remove_filters(model, torch.from_numpy(digits.x_train[:8])).widths
    assert accuracy(trainer, digits) > 0.8


def test_a_codebook_comes_on_top(digits: Dataset) -> None:
    trainer = trained(digits, reweighted, Sparsity(0.1), Quantization(4))
    assert [type(solver) for solver in trainer.solvers] == [Reweighted, ADMM]
    weights = compressible(trainer.get_classifier().model)
    assert weights.nnz() <= Sparsity(0.1).budget(weights)
    assert all(weight.unique().numel() <= 17 for weight in weights.values())
    assert accuracy(trainer, digits) > 0.8
