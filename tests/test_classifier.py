"""The classifier that is handed back behaves in ART wherever a PyTorchClassifier does."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from art import config
from art.attacks.evasion import (
    AutoAttack,
    BoundaryAttack,
    FastGradientMethod,
    HopSkipJump,
    ProjectedGradientDescent,
    SquareAttack,
)
from torch import nn

from art_atmc import PGD, ATMCTrainer, CompressedClassifier, Quantization, Sparsity, compressible, decompose
from art_atmc.compression.factors import decomposed


@pytest.fixture
def robust(make_classifier, digits):
    trainer = ATMCTrainer(
        make_classifier(), PGD(eps=0.1, eps_step=0.05, max_iter=2), [Sparsity(0.3), Quantization(4)], verbose=False
    )
    trainer.fit(digits[0][:600], digits[1][:600], nb_epochs=3, batch_size=64)
    return trainer.get_classifier()


def same(a, b, x):
    return np.allclose(a.predict(x), b.predict(x), atol=1e-6)


def files():
    from pathlib import Path

    return sorted(Path(config.ART_DATA_PATH).glob("*"))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8])
def test_inputs_of_any_numeric_type_are_predicted(robust, digits, dtype):
    x = digits[0][:5].astype(dtype)
    assert np.allclose(robust.predict(x), robust.predict(x.astype(np.float32)), atol=1e-6)
    assert robust.loss_gradient(x, np.eye(10)[digits[1][:5]]).shape == x.shape
    assert robust.class_gradient(x, label=3).shape == (5, 1, 1, 8, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attack", [HopSkipJump, BoundaryAttack])
def test_decision_based_attacks_run_on_numpy_2(robust, digits, attack):
    settings = {"max_iter": 1, "verbose": False} | ({"max_eval": 20, "init_eval": 5} if attack is HopSkipJump else {})
    assert attack(robust, targeted=False, **settings).generate(digits[0][:2]).shape == (2, 1, 8, 8)


@pytest.mark.filterwarnings("ignore")
def test_gradient_and_score_attacks_run(robust, digits):
    x, y = digits[0][:20], digits[1][:20]
    for attack in (
        ProjectedGradientDescent(robust, eps=0.2, eps_step=0.1, max_iter=3, verbose=False),
        FastGradientMethod(robust, eps=0.2),
        SquareAttack(robust, eps=0.2, max_iter=10, verbose=False),
    ):
        adv = attack.generate(x, y)
        assert (robust.predict(adv).argmax(1) == y).mean() < (robust.predict(x).argmax(1) == y).mean()
    pgd = ProjectedGradientDescent(robust, verbose=False)
    assert type(pgd._attack).__name__ == "ProjectedGradientDescentPyTorch"  # not the slow numpy path


@pytest.mark.filterwarnings("ignore")
def test_auto_attack_runs_where_its_dependency_is_installed(robust, digits):
    pytest.importorskip("multiprocess", reason="ART's AutoAttack imports it")
    attack = AutoAttack(robust, eps=0.1, attacks=[FastGradientMethod(robust, eps=0.1)])
    assert attack.generate(digits[0][:5], digits[1][:5]).shape == (5, 1, 8, 8)


def test_deepcopy_is_independent_and_leaves_no_file(robust, digits):
    before, left = robust.predict(digits[0][:20]), files()
    clone = copy.deepcopy(robust)
    assert type(clone) is CompressedClassifier
    assert same(clone, robust, digits[0][:20])
    with torch.no_grad():
        for p in clone.model.parameters():
            p.zero_()
    assert np.array_equal(robust.predict(digits[0][:20]), before)
    in_optimizer = {id(p) for g in clone.optimizer.param_groups for p in g["params"]}
    assert in_optimizer == {id(p) for p in clone.model.parameters()}
    assert files() == left


def test_pickle_round_trip_keeps_factors_and_leaves_no_file(robust, digits):
    left = files()
    restored = pickle.loads(pickle.dumps(robust))
    assert same(restored, robust, digits[0][:20])
    assert list(decomposed(restored.model)) == list(decomposed(robust.model))
    assert np.array_equal(restored.clip_values, robust.clip_values)
    assert files() == left


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam])
def test_clone_for_refitting_has_fresh_weights_and_the_same_settings(make_classifier, digits, optimizer):
    classifier = make_classifier(preprocessing=(0.5, 0.25))
    decompose(classifier.model)
    parameters = list(classifier.model.parameters())
    classifier._optimizer = optimizer([{"params": parameters[:2], "lr": 0.3}, {"params": parameters[2:]}], lr=0.1)
    robust = CompressedClassifier.of(classifier)
    clone = robust.clone_for_refitting()
    assert type(clone) is CompressedClassifier
    assert type(clone.optimizer) is optimizer
    assert [g["lr"] for g in clone.optimizer.param_groups] == [0.3, 0.1]
    assert list(decomposed(clone.model)) == list(decomposed(robust.model))
    assert not same(clone, robust, digits[0][:20])
    assert np.allclose(clone.preprocessing.mean, 0.5)
    before = clone.predict(digits[0][:20])
    clone.fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert not np.allclose(clone.predict(digits[0][:20]), before)


def test_reset_draws_fresh_weights_that_spend_only_the_dense_budget(robust):
    robust.model.norm.running_mean.fill_(7)
    robust.reset()
    weights = compressible(robust.model)
    assert weights.nnz() == weights.dense_size
    assert (robust.model.norm.running_mean == 0).all()


def test_clone_without_optimizer_says_so():
    classifier = CompressedClassifier(nn.Linear(2, 2), nn.CrossEntropyLoss(), (2,), 2)
    with pytest.raises(ValueError, match="no optimizer"):
        classifier.clone_for_refitting()
    assert copy.deepcopy(classifier).optimizer is None


def test_save_writes_factors_that_load_safely(robust, digits, tmp_path):
    robust.save("small", str(tmp_path))
    state = torch.load(tmp_path / "small.model", weights_only=True)
    other = copy.deepcopy(robust)
    other.reset()
    other.model.load_state_dict(state)
    assert same(other, robust, digits[0][:20])


def test_of_keeps_preprocessing_and_shares_model_and_optimizer(make_classifier, digits):
    for preprocessing in (None, (0.5, 0.25), (0.0, 1.0)):
        classifier = make_classifier(preprocessing=preprocessing)
        taken = CompressedClassifier.of(classifier)
        assert taken.model is classifier.model
        assert taken.optimizer is classifier.optimizer
        assert same(taken, classifier, digits[0][:20])


def test_weights_are_formed_once_a_predict(robust, digits, monkeypatch):
    from art_atmc.compression.factors import LowRankPlusSparse

    formed = []
    forward = LowRankPlusSparse.forward
    monkeypatch.setattr(LowRankPlusSparse, "forward", lambda *a: formed.append(1) or forward(*a))
    robust.predict(digits[0][:100], batch_size=10)
    assert len(formed) == 2  # one a layer, not one a layer and batch
