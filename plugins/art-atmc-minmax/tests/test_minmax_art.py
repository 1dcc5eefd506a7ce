"""The attacks in ART's idiom: its contract, its suites, its masks, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from art.exceptions import EstimatorError
from art_atmc_minmax import MinMax, MinMaxAttack, MinMaxTransformations, MinMaxUniversal, Models, union
from torch import nn

from art_atmc.evaluation import Attack, Suite, evaluate

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, classes))

    def forward(self, x):
        return self.layers(x)


def classifier(seed=0, shape=(1, 4, 4), classes=3, clip=(0.0, 1.0)):
    torch.manual_seed(seed)
    return PyTorchClassifier(Net(classes), nn.CrossEntropyLoss(), shape, classes, clip_values=clip, device_type="cpu")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.2, 0.8, size=(20, 1, 4, 4)).astype(np.float32)
    return x, classifier().predict(x).argmax(axis=1)


def made(kind, **options):
    options = {"eps": 0.2, "max_iter": 5, "verbose": False, "seed": 0, **options}
    if kind is MinMaxAttack:
        return MinMaxAttack([classifier(0), classifier(1)], **options)
    if kind is MinMaxUniversal:
        return MinMaxUniversal(classifier(), group_size=5, **options)
    return MinMaxTransformations(classifier(), ["identity", "flip_lr"], **options)


KINDS = [MinMaxAttack, MinMaxUniversal, MinMaxTransformations]


@pytest.mark.parametrize("kind", KINDS)
def test_arts_contract_is_kept(kind, data):
    x, y = data
    attack = made(kind)
    adv = attack.generate(x, y)
    assert adv.shape == x.shape
    assert adv.dtype == x.dtype
    assert np.abs(adv - x).max() <= 0.2 + 1e-6
    assert (adv >= 0).all() and (adv <= 1).all()  # noqa: PT018
    np.testing.assert_array_equal(adv, attack.generate(x, np.eye(3)[y]))
    assert {"eps", "gamma", "batch_size"} <= set(attack.attack_params)
    attack.set_params(eps=0.1, gamma=0)
    assert np.abs(attack.generate(x) - x).max() <= 0.1 + 1e-6  # labels of its own
    assert "eps=0.1" in repr(attack)
    with pytest.raises(ValueError, match="`eps`"):
        attack.set_params(eps=-1)
    with pytest.raises(ValueError, match="cannot be set"):
        attack.set_params(colour=1)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_change_nothing(kind, data):
    x, y = data
    whole = made(kind, random_start=False).generate(x, y)
    parts = made(kind, random_start=False, batch_size=7).generate(x, y)
    np.testing.assert_allclose(whole, parts, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_entries_stay(kind, data):
    x, y = data
    mask = np.zeros((1, 4, 4), dtype=np.float32)
    mask[:, :2] = 1
    moved = made(kind).generate(x, y, mask=mask) - x
    assert not moved[:, :, 2:].any()
    assert moved[:, :, :2].any()
    each = np.zeros(x.shape, dtype=bool)
    each[::2] = True
    if kind is not MinMaxUniversal:
        moved = made(kind, batch_size=3).generate(x, y, mask=each) - x
        assert not moved[1::2].any()
        assert moved[::2].any()
    for wrong in (np.ones((4, 4), dtype=int), -np.ones((4, 4)), np.ones((3, 4))):
        with pytest.raises(ValueError, match="`mask`"):
            made(kind).generate(x, y, mask=wrong)
    with pytest.raises(TypeError, match="unknown arguments"):
        made(kind).generate(x, y, colour=1)


def test_targets_are_needed_and_reached(data):
    x, y = data
    attack = made(MinMaxAttack, targeted=True, eps=0.8, max_iter=30)
    assert attack.targeted
    with pytest.raises(ValueError, match="targets"):
        attack.generate(x)
    adv = attack.generate(x, (y + 1) % 3)
    hit = [c.predict(adv).argmax(axis=1) == (y + 1) % 3 for c in attack.estimators]
    assert np.all(hit, axis=0).mean() > 0.3


def test_the_result_says_what_is_fooled_and_how_hard_it_was(data):
    x, y = data
    attack = made(MinMaxAttack, max_iter=20)
    adv = attack.generate(x, y)
    fooled = np.stack([c.predict(adv).argmax(axis=1) != y for c in attack.estimators], axis=1)
    np.testing.assert_array_equal(attack.result.fooled.numpy(), fooled)
    assert attack.result.success == pytest.approx(fooled.all(axis=1).mean())
    assert sum(d.weight for d in attack.result.difficulty) == pytest.approx(1, abs=1e-5)
    assert "all at once" in str(attack.result)
    axes = attack.result.draw()
    assert len(axes.lines) == 2
    assert attack.result.draw(axes) is axes


def test_min_max_fools_more_at_once_than_the_average(data):
    x, y = data
    classifiers = [classifier(k) for k in range(4)]
    at_once = {}
    for gamma in (1.0, math.inf):
        attack = MinMaxAttack(classifiers, eps=0.25, gamma=gamma, verbose=False, seed=0)
        attack.generate(x, y)
        at_once[gamma] = attack.result.success
    assert at_once[1.0] >= at_once[math.inf]


def test_universal_noise_is_shared(data):
    x, y = data
    attack = made(MinMaxUniversal)
    adv = attack.generate(x, y)
    assert attack.noise.shape == (4, 1, 4, 4)
    np.testing.assert_allclose(adv, np.clip(x + attack.noise.repeat(5, axis=0), 0, 1), atol=1e-6)
    assert attack.fooling_rate == pytest.approx(np.mean(classifier().predict(adv).argmax(axis=1) != y))
    everything = MinMaxUniversal(classifier(), eps=0.2, max_iter=2, verbose=False)
    assert everything.noise is None
    everything.generate(x, y)
    noise: Any = everything.noise
    assert noise.shape == (1, 1, 4, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_lines_of_a_suite(kind, data):
    x, y = data
    attack = made(kind)
    if kind is MinMaxUniversal:  # a suite leaves out what is fooled already, so that groups change
        attack = made(kind)
        attack.set_params(group_size=1)
    found = evaluate(attack.estimator, x, y, suite=Suite("one", 0.2, math.inf, [attack]), verbose=False)
    assert found.attacks[0].rejected == 0
    assert 0 <= found.worst_case.mean() < 1


def test_a_line_can_ask_for_all_networks_at_once(data):
    x, y = data
    small, dense = classifier(0), classifier(1)
    both = MinMax(0.2, Models([small, dense]), all_or_none=True, random_start=False)
    alone = MinMax(0.2, Models([small]), random_start=False)
    suite = Suite("pair", 0.2, math.inf, [Attack("both", both), Attack("alone", alone)])
    found = evaluate(small, x, y, suite=suite, verbose=False)
    assert found.attacks[0].accuracy >= found.worst_case.mean()


def test_the_union_counts_every_ball_with_its_own_radius(data):
    x, y = data
    suite = union({math.inf: 0.1, 2: 0.3, 1: 0.6}, pgd_iter=3, apgd_iter=3, restarts=1)
    found = evaluate(classifier(), x, y, suite=suite, verbose=False)
    assert [line.ball for line in found.attacks][::2] == [(0.1, "inf"), (0.3, "2"), (0.6, "1")]
    assert all(line.rejected == 0 for line in found.attacks)
    every = np.logical_and.reduce([line.correct for line in found.attacks])
    np.testing.assert_array_equal(found.worst_case, every)
    with pytest.raises(ValueError, match="`balls` is empty"):
        union({})


def test_what_drives_training(data):
    from art_atmc import Adversarial, ObjectiveTrainer

    x, y = data
    victim = classifier(3)
    victim._optimizer = torch.optim.SGD(victim.model.parameters(), lr=0.1)
    attack = MinMaxTransformations(victim, ["identity", "flip_lr"], eps=0.1, max_iter=2, verbose=False)
    trainer = ObjectiveTrainer(victim, Adversarial(attack), verbose=False)
    trainer.fit(x, y, nb_epochs=2, batch_size=10)
    assert len(trainer.history) == 2


def test_unlike_classifiers_are_named():
    first = classifier()
    for other, said in (
        (classifier(classes=4), "nb_classes of network 2 is 4, of network 1 3"),
        (classifier(shape=(1, 2, 8)), "input_shape of network 2"),
        (classifier(clip=(-1.0, 1.0)), "clip_values of network 2"),
    ):
        with pytest.raises(ValueError, match=said):
            MinMaxAttack([first, other])


def test_what_is_no_classifier_or_no_number_is_refused(data):
    x, y = data
    with pytest.raises(ValueError, match="`estimators` is empty"):
        MinMaxAttack([])
    with pytest.raises(EstimatorError):
        MinMaxAttack([Net()])
    with pytest.raises(TypeError, match="got str"):
        MinMaxAttack([classifier(), "another"])
    for options, said in (({"batch_size": 0}, "batch_size"), ({"seed": 1.5}, "seed"), ({"verbose": 1}, "verbose"),
                          ({"prior": (1.0, 1.0)}, "simplex"), ({"gamma": -1}, "gamma")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            made(MinMaxAttack, **options)
    with pytest.raises(ValueError, match="`group_size`"):
        MinMaxUniversal(classifier(), prior=(0.5, 0.5))
    with pytest.raises(ValueError, match="2 are left over"):
        MinMaxUniversal(classifier(), group_size=6, verbose=False).generate(x, y)
    with pytest.raises(ValueError, match="clip values"):
        made(MinMaxAttack).generate(2 * x + 1, y)
