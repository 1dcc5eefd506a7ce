"""End to end on digits: train under a structured constraint, take out what is zero, predict the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from art_atmc_structured import (
    BlockSparsity,
    ChannelSparsity,
    FilterSparsity,
    NMSparsity,
    remove_filters,
)
from torch import nn

from art_atmc import PGD, ATMCTrainer, CompressedModel, Constraint, Quantization, compressible
from art_atmc.data import Dataset, load
from art_atmc.networks import digits_cnn

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def trained(digits: Dataset, *constraints: Constraint) -> ATMCTrainer:
    torch.manual_seed(0)
    model = digits_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )
    attack = PGD(eps=0.1, eps_step=0.05, max_iter=2)
    trainer = ATMCTrainer(classifier, attack, constraints, factored=False, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=4, batch_size=32)
    return trainer


def accuracy(classifier: PyTorchClassifier, digits: Dataset) -> float:
    return float((classifier.predict(digits.x_test).argmax(1) == digits.y_test).mean())


def test_half_the_filters_are_trained_away_removed_and_not_missed(digits: Dataset) -> None:
    trainer = trained(digits, FilterSparsity(density=0.5), Quantization(bits=4))
    robust = trainer.get_classifier()
    assert accuracy(robust, digits) > 0.9
    removal = remove_filters(robust.model, torch.from_numpy(digits.x_train[:8]))
    filters = [int(w.flatten(1).any(1).sum()) for w in compressible(robust.model).values()]
    assert sum(filters[:3]) <= 112
    assert [after for _, after in removal.widths.values()] == [n for n in filters[:3] if n not in (32, 64, 128)]
    small = PyTorchClassifier(removal.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))
    expected = robust.predict(digits.x_test)
    np.testing.assert_allclose(small.predict(digits.x_test), expected, atol=1e-4)
    assert (small.predict(digits.x_test).argmax(1) == expected.argmax(1)).all()
    # Nothing is padded in this network, so that weights are taken away but none is changed: the codebooks hold.
    stored = CompressedModel.of(small, [Quantization(bits=4)])
    assert stored.file_bytes < CompressedModel.of(robust).file_bytes
    assert trainer.compress().manifest.constraints[0] == repr(FilterSparsity(density=0.5))


@pytest.mark.parametrize(
    "constraint",
    [
        ChannelSparsity(0.5, per_layer=True),
        BlockSparsity(0.3, rows=4, columns=4),
        NMSparsity(2, 4),
    ],
    ids=lambda c: type(c).__name__,
)
def test_the_others_hold_exactly_and_learn(digits: Dataset, constraint: Constraint) -> None:
    robust = trained(digits, constraint).get_classifier()
    assert constraint.violation(compressible(robust.model)) == 0
    assert accuracy(robust, digits) > 0.6
    x = torch.from_numpy(digits.x_test)
    removal = remove_filters(robust.model, x[:8])
    assert removal.widths or not isinstance(constraint, ChannelSparsity)
    with torch.no_grad():
        assert torch.equal(removal.model(x).argmax(1), robust.model(x).argmax(1))


def test_factored_training_is_refused_with_the_remedy() -> None:
    model = digits_cnn()
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        clip_values=(0, 1),
    )
    attack = PGD(eps=0.1, eps_step=0.05, max_iter=1)
    with pytest.raises(ValueError, match=r"are factored.*ATMCTrainer\(..., factored=False\)"):
        ATMCTrainer(classifier, attack, [FilterSparsity(0.5)])
    ATMCTrainer(classifier, attack, [FilterSparsity(0.5)], factored=False)
