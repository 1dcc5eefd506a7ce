"""The sum, its classifier, and the theory, against explicit expressions and exhaustive search."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from art_atmc_boosting import (
    Ensemble,
    EnsembleClassifier,
    PairWeights,
    SoftCapped,
    margin_cross_entropy,
    rounds_needed,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from art_atmc import PGD
from art_atmc.evaluation import Smoothing, Suite, evaluate

torch.set_num_threads(1)


def members(number: int = 3, cap: float | None = None, seed: int = 0) -> list[nn.Module]:
    torch.manual_seed(seed)
    made = [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(number)]
    return [SoftCapped(one, cap) for one in made] if cap else list(made)


def classifier(ensemble: Ensemble) -> EnsembleClassifier:
    return EnsembleClassifier(ensemble, nn.CrossEntropyLoss(), (4,), 3, clip_values=(0, 1), device_type="cpu")


def inputs(number: int = 50) -> np.ndarray:
    return np.random.default_rng(0).random((number, 4), dtype=np.float32)


def test_the_sum_and_its_gradient_are_those_of_the_explicit_expression() -> None:
    parts = members()
    ensemble = Ensemble(parts, [1.0, 0.5, 2.0])
    x, y = torch.from_numpy(inputs()), torch.arange(50) % 3
    explicit = parts[0](x) + 0.5 * parts[1](x) + 2.0 * parts[2](x)
    assert torch.equal(ensemble(x), explicit)
    x.requires_grad_()
    explicit = parts[0](x) + 0.5 * parts[1](x) + 2.0 * parts[2](x)
    (expected,) = torch.autograd.grad(cross_entropy(explicit, y, reduction="sum"), x)
    gradient = classifier(ensemble).loss_gradient(inputs(), np.eye(3)[y.numpy()]) * 50
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_prefixes_are_the_sums_of_the_first_members_bitwise() -> None:
    made = classifier(Ensemble(members(), [1.0, 0.5, 2.0]))
    x = inputs()
    staged = list(made.staged_predict(x))
    for k in (1, 2, 3):
        alone = classifier(made.model.prefix(k)).predict(x)
        assert np.array_equal(made.predict(x, stages=k), alone)
        assert np.array_equal(staged[k - 1], alone)
    truth = alone.argmax(1)
    assert made.staged_accuracy(x, truth)[-1] == made.staged_accuracy(x, np.eye(3)[truth])[-1] == 1.0
    for wrong in (0, 4, True + 3.5):
        with pytest.raises(ValueError, match="from 1 to 3"):
            made.predict(x, stages=wrong)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 20), st.lists(st.floats(0.01, 5), min_size=4, max_size=4))
def test_early_answers_are_those_of_all_members(seed: int, cap: float, weights: list[float]) -> None:
    parts = members(4, cap, seed)
    for part in parts:  # confident ones, so that some answers come early
        part.network[2].weight.data.mul_(30)
    made = classifier(Ensemble(parts, weights))
    early = made.predict_early(inputs(), batch_size=16)
    assert np.array_equal(early.classes, made.predict(inputs()).argmax(1))
    assert early.stages.min() >= 1
    assert early.stages.max() <= 4


def test_a_first_member_that_outweighs_the_others_answers_alone_and_unbounded_ones_are_refused() -> None:
    parts = members(2, cap=1.0)
    parts[0].network[2].weight.data.mul_(30)
    made = classifier(Ensemble(parts, [1.0, 1e-4]))
    assert (made.predict_early(inputs()).stages == 1).mean() > 0.9
    made.model.reweight([1e-4, 1.0])
    assert (made.predict_early(inputs()).stages == 2).all()
    with pytest.raises(ValueError, match=r"members \[1\] have no bound.*SoftCapped"):
        classifier(Ensemble(members(2))).predict_early(inputs())


def test_members_are_added_dropped_and_reweighted() -> None:
    parts = members()
    ensemble = Ensemble(parts[:2], [1.0, 0.5])
    ensemble.add(parts[2], 2.0)
    assert torch.equal(ensemble.weights, torch.tensor([1.0, 0.5, 2.0]))
    assert len(ensemble) == 3
    assert ensemble.drop(1) is parts[1]
    x = torch.from_numpy(inputs())
    assert torch.equal(ensemble(x), parts[0](x) + 2.0 * parts[2](x))
    ensemble.drop(-1)
    with pytest.raises(ValueError, match="at least one member"):
        ensemble.drop(0)
    for weights in ([1.0, 1.0], [0.0], [math.nan], [-1.0]):
        with pytest.raises(ValueError, match="1 finite numbers above 0"):
            ensemble.reweight(weights)


def test_networks_that_are_one_or_share_parameters_are_refused() -> None:
    one, other = members(2)
    with pytest.raises(ValueError, match="members 0 and 1 are one network"):
        Ensemble([one, one])
    shared = copy.deepcopy(other)
    shared[0] = one[0]
    with pytest.raises(ValueError, match="members 0 and 2"):
        Ensemble([one, other, shared])
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([])
    Ensemble([one, other])


def test_members_with_other_classes_or_inputs_are_refused() -> None:
    for stranger, message in ((nn.Linear(4, 2), r"member 1 answers.*\(2, 2\)"), (nn.Linear(5, 3), "member 1 takes no")):
        with pytest.raises(ValueError, match=message):
            classifier(Ensemble([nn.Linear(4, 3), stranger]))
    with pytest.raises(TypeError, match="must be an Ensemble"):
        classifier(nn.Linear(4, 3))  # type: ignore[arg-type]


def test_classifiers_are_joined_where_they_agree() -> None:
    def one(clip: tuple[float, float]) -> PyTorchClassifier:
        return PyTorchClassifier(nn.Linear(4, 3), nn.CrossEntropyLoss(), (4,), 3, clip_values=clip, device_type="cpu")

    first, second = one((0, 1)), one((0, 1))
    joined = EnsembleClassifier.of([first, second])
    expected = (first.predict(inputs()) + second.predict(inputs())) / 2
    np.testing.assert_allclose(joined.predict(inputs()), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="clip_values"):
        EnsembleClassifier.of([first, one((0, 2))])


def test_arts_attacks_run_on_any_numbers_and_copies_leave_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = classifier(Ensemble(members()))
    x_adv = FastGradientMethod(made, eps=0.1).generate(inputs().astype(np.float64))
    assert np.abs(x_adv - inputs()).max() <= 0.1 + 1e-6
    assert made.class_gradient(inputs().astype(np.float64)).shape == (50, 3, 4)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert isinstance(twin, EnsembleClassifier)
        assert np.array_equal(twin.predict(inputs()), made.predict(inputs()))
    assert not list(tmp_path.iterdir())


def test_frozen_members_stay_in_evaluation_mode() -> None:
    parts = [nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)) for _ in range(2)]
    parts[0].requires_grad_(False)
    ensemble = Ensemble(parts).train()
    assert not parts[0].training
    assert not parts[0][0].training
    assert parts[1].training
    before = parts[0][0].running_mean.clone()  # type: ignore[union-attr, operator]
    ensemble(torch.rand(8, 4))
    assert torch.equal(before, parts[0][0].running_mean)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1e4, 1e4))
def test_margin_cross_entropy_of_two_classes_is_that_of_swapped_logits(seed: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 10 * torch.randn(5, 2, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (5,), generator=generator)
    swapped = cross_entropy(logits.flip(1).neg().flip(1), 1 - y, reduction="none")
    torch.testing.assert_close(margin_cross_entropy(logits, y), swapped)
    torch.testing.assert_close(margin_cross_entropy(logits + shift, y), swapped, rtol=1e-5, atol=1e-6)


def test_margin_cross_entropy_is_the_mean_over_wrong_labels_and_finite() -> None:
    logits, y = torch.tensor([[1.0, -2.0, 0.5], [1e4, -1e4, 0.0]]), torch.tensor([2, 1])
    by_hand = [
        -sum(math.log(math.exp(-logits[0, j]) / sum(math.exp(-v) for v in logits[0])) for j in (0, 1)) / 2,
    ]
    assert margin_cross_entropy(logits, y)[0].item() == pytest.approx(by_hand[0], rel=1e-5)
    assert margin_cross_entropy(logits, y).isfinite().all()
    assert torch.equal(margin_cross_entropy(logits, torch.eye(3)[y]), margin_cross_entropy(logits, y))


# Threshold stumps under an attack within the maximum norm: what a stump answers in the worst case has a closed form.


def stump_votes(x: np.ndarray, y: np.ndarray, eps: float, feature: int, threshold: float, sign: int) -> np.ndarray:
    """The label that the stump gives in the worst case; for two classes, one wrong label is the other."""
    margin = sign * (x[:, feature] - threshold) * np.where(y == 1, 1, -1) - eps
    return np.where(margin > 0, y, 1 - y)


def stumps(x: np.ndarray) -> list[tuple[int, float, int]]:
    found = []
    for feature in range(x.shape[1]):
        values = np.unique(x[:, feature])
        cuts = [*(values[:-1] + values[1:]) / 2, values[0] - 1]
        found += [(feature, float(cut), sign) for cut, sign in itertools.product(cuts, (-1, 1))]
    return found


def test_boosted_robust_stumps_make_no_robust_error_within_the_bound_on_rounds() -> None:
    # A square in the middle: one stump can't tell it, the vote of several can.
    x = np.array([[i, j] for i in (0.0, 1.0, 2.0) for j in (0.0, 1.0, 2.0, 3.0)])
    y = ((x[:, 0] >= 1) & (x[:, 1] >= 1)).astype(np.int64)
    eps = 0.2
    options = stumps(x)
    answers = [torch.from_numpy(stump_votes(x, y, eps, *option)) for option in options]
    weights = PairWeights(torch.from_numpy(y), 2)
    assert max((a.numpy() == y).mean() for a in answers) < 1
    chosen, alphas, edges = [], [], []
    while True:
        best = max(range(len(options)), key=lambda i: weights.edge(answers[i]))
        edges.append(weights.edge(answers[best]))
        assert edges[-1] > 0
        weights.update(answers[best])
        chosen.append(best)
        alphas.append(math.atanh(edges[-1]))
        vote = sum(a * (2 * (answers[i].numpy() == y) - 1) for a, i in zip(alphas, chosen, strict=True))
        assert len(chosen) <= rounds_needed(min(edges), 12, 2)
        if (vote > 0).all():
            break
    assert len(chosen) > 1

    def answer(points: np.ndarray) -> np.ndarray:
        total = sum(
            a * s * np.where(points[:, f] > t, 1, -1)
            for a, (f, t, s) in zip(alphas, (options[i] for i in chosen), strict=True)
        )
        return np.asarray(total > 0).astype(np.int64)

    # Exhaustively: stumps are constant between thresholds, so a grid of the ball finds every answer in it.
    steps = np.linspace(-eps, eps, 9) * 0.999
    for dx, dy in itertools.product(steps, steps):
        assert np.array_equal(answer(x + np.array([dx, dy])), y)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_pair_weights_are_those_of_the_explicit_loop(seed: int) -> None:
    generator = np.random.default_rng(seed)
    y, votes = generator.integers(0, 4, 7), generator.integers(0, 4, 7)
    weights = PairWeights(torch.from_numpy(y), 4)
    expected = {(i, j): 1 / 21 for i in range(7) for j in range(4) if j != y[i]}
    for _ in range(2):
        margin = {(i, j): int(votes[i] == y[i]) - int(votes[i] == j) for i, j in expected}
        edge = sum(expected[p] * margin[p] for p in expected)
        assert weights.edge(torch.from_numpy(votes)) == pytest.approx(edge)
        constant = [sum(w * (int(y[i] == c) - int(j == c)) for (i, j), w in expected.items()) for c in range(4)]
        assert weights.guess() == pytest.approx(max(constant))
        if not -0.99 < edge < 0.99:
            return
        weights.update(torch.from_numpy(votes))
        scaled = {p: w * ((1 - edge) / (1 + edge)) ** (margin[p] / 2) for p, w in expected.items()}
        expected = {p: w / sum(scaled.values()) for p, w in scaled.items()}
        for (i, j), weight in expected.items():
            assert float(weights.values[i, j]) == pytest.approx(weight)
    assert weights.values[torch.arange(7), torch.from_numpy(y)].sum() == 0


def test_evaluation_certifies_the_sum() -> None:
    """Two linear members whose sum is 3 a + 4 b; smoothing leaves a linear classifier as it is."""
    parts = [nn.Linear(2, 2, bias=False) for _ in range(2)]
    for part, direction in zip(parts, ([4.0, -1.0], [2.0, 9.0]), strict=True):
        part.weight.data = torch.stack([torch.tensor(direction), -torch.tensor(direction)])
    made = EnsembleClassifier.of(
        [PyTorchClassifier(part, nn.CrossEntropyLoss(), (2,), 2, device_type="cpu") for part in parts]
    )
    x, y = np.array([[0.2, 0.1], [-0.1, 0.0], [0.02, 0.0]], dtype=np.float32), np.array([0, 1, 1])
    suite = Suite("one", 0.05, 2, (PGD(0.05, 0.05, 2, norm=2),))
    found = evaluate(made, x, y, suite=suite, certificates=[Smoothing(0.25, draws=2000)], verbose=False).certificates[0]
    exact = np.abs(x @ np.array([3.0, 4.0])) / 5
    assert (found.radii <= exact + 1e-6).all()
    np.testing.assert_allclose(found.radii[:2], exact[:2], atol=0.05)
    assert found.correct.tolist() == [True, True, False]
