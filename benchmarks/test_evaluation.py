"""Evaluation: PGD with restarts by `evaluate` against ART's, and how long the quick suite takes."""

from __future__ import annotations

import math
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_atmc import PGD
from art_atmc.attacks.base import Problem
from art_atmc.data import load
from art_atmc.evaluation import Attack, Finding, Severity, Suite, evaluate, quick
from art_atmc.networks import digits_cnn, lenet

STEPS, RESTARTS, N = 20, 5, 1000


@pytest.fixture
def no_self_checks(monkeypatch):
    """ART has none: they are left out of the comparison."""
    finding = Finding("none", Severity.PASSED, "left out")
    monkeypatch.setattr(sys.modules["art_atmc.evaluation.evaluate"], "self_checks", lambda *_, **__: (finding,))


def digits():
    """1,000 digits, and the CNN trained on the 797 others against PGD."""
    data = load("digits", None)
    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    return trained(digits_cnn, x[N:], y[N:], eps=0.1, epochs=15), x[:N], y[:N]


def images():
    """1,000 made images of MNIST's shape: ten smooth patterns under noise, and LeNet trained on 1,000 others."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((10, 1, 7, 7), dtype=np.float32))
    patterns = F.interpolate(coarse, size=28, mode="bilinear").numpy()
    y = rng.integers(0, 10, 2 * N)
    x = (patterns[y] + 0.25 * rng.standard_normal((2 * N, 1, 28, 28), dtype=np.float32)).clip(0, 1)
    return trained(lenet, x[N:], y[N:], eps=0.1, epochs=3), x[:N], y[:N]


def trained(make, x, y, eps, epochs):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            adv = PGD(eps, eps / 2, 3)(Problem(model, clip_values=(0, 1)), x[rows], y[rows])
            optimizer.zero_grad()
            F.cross_entropy(model(adv), y[rows]).backward()
            optimizer.step()
    return PyTorchClassifier(
        model.eval(), nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type="cpu"
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside ART
@pytest.mark.parametrize(("problem", "eps"), [(digits, 0.1), (images, 0.1)])
def test_pgd_with_restarts_against_art(compare, no_self_checks, problem, eps):
    """Three rounds with a seed each: one draw of random starts moves either accuracy by 0.2 points."""
    classifier, x, y = problem()
    step = 2.5 * eps / STEPS
    suite = Suite("one", eps, math.inf, (Attack("PGD", PGD(eps, step, STEPS), restarts=RESTARTS),))
    art = ProjectedGradientDescent(
        classifier, eps=eps, eps_step=step, max_iter=STEPS, num_random_init=RESTARTS, batch_size=256, verbose=False
    )
    accuracies: dict[str, list[float]] = {"ours": [], "ART": []}

    def ours():
        result = evaluate(classifier, x, y, suite=suite, batch_size=256, seed=len(accuracies["ours"]), verbose=False)
        accuracies["ours"].append(result.robust_accuracy)

    def theirs():
        np.random.seed(len(accuracies["ART"]))
        # ART wants to know the labels, or it takes the predictions for them; it judges an attack by its last run.
        accuracies["ART"].append(float((classifier.predict(art.generate(x, y)).argmax(axis=1) == y).mean()))

    ratio = compare(
        f"PGD-{STEPS} x{RESTARTS} on {N:,} {problem.__name__}, against ART's",
        ours,
        theirs,
        at_most=1 / 2,
        rounds=3,
    )
    print(f"accuracies: {accuracies}, {1 / ratio:.1f} times as fast")
    means = {name: float(np.mean(found)) for name, found in accuracies.items()}
    assert 0.2 < means["ours"] < 0.98
    assert abs(means["ours"] - means["ART"]) <= 0.002 + 1e-9


def test_quick_suite_takes_less_than_a_minute(benchmark, report):
    classifier, x, y = digits()

    def measure():
        started = time.perf_counter()
        result = evaluate(classifier, x, y, suite=quick(0.1), dense=classifier, verbose=False)
        return result, time.perf_counter() - started

    result, seconds = benchmark.pedantic(measure, rounds=1)
    attacks = sum(attack.seconds for attack in result.attacks)
    print("\n" + ", ".join(f"{a.name} {a.accuracy:.3f} ({a.seconds:.1f} s)" for a in result.attacks))
    print(f"self-checks {seconds - attacks:.1f} s")
    report(f"quick suite on {N:,} digits", seconds, 60, " s")
    assert result.trustworthy
