"""Certificates: exact ones of linear networks as oracles, and their place in an evaluation."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from rich.console import Console
from scipy.stats import binomtest, norm
from torch import nn

from art_atmc import PGD, Problem
from art_atmc.evaluation import Attack, Certificate, Certified, Evaluation, Smoothing, Suite, evaluate

W = np.array([3.0, 4.0])
X = np.array([[0.2, 0.1], [-0.1, 0.0], [0.02, 0.0], [3.0, 3.0]], dtype=np.float32)
Y = np.array([0, 1, 1, 0])  # the third is misclassified
LENGTHS = np.abs(X @ W)


def linear(single: bool = False) -> PyTorchClassifier:
    """Class 0 where 3 a + 4 b > 0, else 1."""
    weights = torch.tensor(-W if single else np.stack([W, -W]), dtype=torch.float32).reshape(-1, 2)
    model = nn.Linear(2, len(weights), bias=False)
    model.weight.data = weights
    loss = nn.BCEWithLogitsLoss() if single else nn.CrossEntropyLoss()
    return PyTorchClassifier(model, loss, (2,), 2, device_type="cpu")


@dataclasses.dataclass(frozen=True)
class Exact(Certificate):
    """Of a linear network of two outputs in the maximum norm: the margin over the weights' dual norm."""

    norm = math.inf
    name = "exact"
    shown = (0.01,)

    def __call__(self, problem, x, batch_size):
        logits = problem.answers(x).numpy()
        return Certified(logits.argmax(axis=1), np.abs(logits[:, 0]) / np.abs(W).sum())


@dataclasses.dataclass(frozen=True)
class Interrupted(Exact):
    armed: list = dataclasses.field(default_factory=lambda: [True], compare=False)

    def __call__(self, problem, x, batch_size):
        if self.armed:
            raise KeyboardInterrupt
        return super().__call__(problem, x, batch_size)


def suite(eps: float = 0.03, norm: float = math.inf) -> Suite:
    return Suite("mine", eps, norm, (Attack("PGD", PGD(eps, eps / 2, 5, norm)),))


def run(*certificates, classifier=None, given=None, **options) -> Evaluation:
    options = {"x": X, "y": Y, "suite": given or suite(), "verbose": False, "certificates": certificates} | options
    return evaluate(classifier or linear(), **options)


def shown(result: Evaluation) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(result)
    return console.file.getvalue()  # type: ignore[attr-defined]


def without_seconds(result: Evaluation) -> dict[str, Any]:
    content = json.loads(result.to_json())
    for row in content["attacks"] + content["certificates"]:
        row.pop("seconds")
    return content


@pytest.mark.parametrize("single", [False, True])
def test_smoothed_radii_of_a_linear_network_are_below_and_near_the_exact_ones(single):
    """Smoothing leaves a linear classifier as it is, and its radius is the distance to the hyperplane."""
    found = run(Smoothing(0.25, draws=2000), classifier=linear(single)).certificates[0]
    exact = LENGTHS / 5
    assert found.correct.tolist() == [True, True, False, True]
    assert (found.radii <= exact + 1e-6).all()
    np.testing.assert_allclose(found.radii[:2], exact[:2], atol=0.05)
    assert (found.accuracy(0.0), found.accuracy(0.1), found.accuracy(10.0)) == (0.75, 0.5, 0.0)
    assert found.average_radius == pytest.approx(found.radii[[0, 1, 3]].sum() / 4)
    assert found.certified(0.1).tolist() == [True, False, False, True]


def test_bound_is_clopper_and_pearsons():
    """With no miss the radius is the reach, by the closed form; else the bound is that of the exact binomial test."""
    found = run(Smoothing(0.25, draws=500)).certificates[0]
    assert found.radii[3] == pytest.approx(0.25 * norm.ppf(0.001 ** (1 / 500)))
    bounds = [
        binomtest(k, 500, alternative="greater").proportion_ci(0.999, method="exact").low for k in range(250, 500)
    ]
    assert np.abs(0.25 * norm.ppf(bounds) - found.radii[0]).min() < 1e-9


def test_examples_near_the_boundary_are_abstained_from():
    x = np.array([[1e-4, 0.0], [4.0, 4.0]], dtype=np.float32)
    found = run(Smoothing(0.25, draws=100), x=x, y=np.array([0, 0])).certificates[0]
    assert found.correct.tolist() == [False, True]
    assert found.radii[0] == 0


def test_certificate_is_no_part_of_the_worst_case_and_changes_no_attack():
    alone, beside = run(), run(Smoothing(0.25, draws=50), Exact())
    assert [row.name for row in beside.certificates] == ["Smoothing 0.25", "exact"]
    assert without_seconds(alone)["attacks"] == without_seconds(beside)["attacks"]
    assert alone.worst_case.tolist() == beside.worst_case.tolist()
    assert beside.trustworthy == alone.trustworthy


def test_exact_certificate_meets_the_attacks_of_its_norm():
    """The lower and the upper bound are the same where both are exact."""
    for eps in (0.01, 0.05, 0.12):
        result = run(Exact(), given=suite(eps))
        assert result.certificates[0].certified(eps).tolist() == result.worst_case.tolist()


def test_certificate_gives_the_same_alone_or_after_others_and_by_its_seed():
    smoothing = Smoothing(0.25, draws=60, sample_size=10)
    first = run(smoothing).certificates[0]
    np.random.seed(5)
    again = run(Smoothing(0.5, draws=60), smoothing).certificates[1]
    other = run(smoothing, seed=1).certificates[0]
    np.testing.assert_array_equal(first.radii, again.radii)
    assert not np.array_equal(first.radii, other.radii)
    problem = Problem(linear().model, generator=torch.Generator().manual_seed(0))
    before = np.random.get_state()[1].tolist()
    smoothing(problem, torch.from_numpy(X), batch_size=7)
    assert np.random.get_state()[1].tolist() == before
    assert smoothing(Problem(linear().model), torch.from_numpy(X), 7).radii.shape == (4,)


def test_table_shows_radii_and_the_radius_of_a_suite_of_the_same_norm():
    flat, round_ = run(Smoothing(0.25), Exact()), run(Smoothing(0.25, radii=(0.1,)), given=suite(0.07, 2))
    rows = [line.split()[:5] for line in shown(flat).splitlines() if line.startswith((" Smoothing", " exact"))]
    assert [row[-1] for row in rows if row[0] == "Smoothing"] == [
        f"{flat.certificates[0].accuracy(radius):.1%}" for radius in (0, 0.125, 0.25, 0.375)
    ]
    assert [row[2] for row in rows if row[0] == "exact"] == ["0.01", "0.03"]  # the suite's eps, too
    assert "0.07" in shown(round_).split("certificate")[1]
    assert "certificate" not in shown(run())


def test_results_come_back_from_their_file(tmp_path):
    result = run(Smoothing(0.25, draws=20, radii=(0.1,)))
    result.save(tmp_path / "e.json")
    again = Evaluation.load(tmp_path / "e.json")
    assert again.to_json() == result.to_json()
    assert again.certificates[0].parameters == {
        "type": "Smoothing", "scale": 0.25, "draws": 20, "sample_size": 100, "alpha": 0.001, "radii": [0.1],
    }  # fmt: skip
    np.testing.assert_array_equal(again.certificates[0].radii, result.certificates[0].radii)
    content = json.loads(result.to_json())
    del content["certificates"]  # as earlier versions wrote it
    assert Evaluation.from_json(json.dumps(content)).certificates == ()
    for broken in ([-0.1, 0, 0, 0], [0.1], "0000"):
        content = json.loads(result.to_json())
        content["certificates"][0]["radii"] = broken
        with pytest.raises(ValueError, match="distances|outcomes of|radii"):
            Evaluation.from_json(json.dumps(content))


def test_interrupted_evaluation_goes_on_with_the_certificate_that_is_missing(tmp_path):
    armed, file = [True], tmp_path / "e.json"
    certificates = Smoothing(0.25, draws=40), Interrupted(armed=armed)
    with pytest.raises(KeyboardInterrupt):
        run(*certificates, checkpoint=file)
    partial = Evaluation.load(file)
    assert [row.name for row in partial.certificates] == ["Smoothing 0.25"]
    assert partial.missing == ("exact",)
    assert not partial.trustworthy
    with pytest.raises(ValueError, match="differs in: certificate Smoothing 0.25"):
        run(Smoothing(0.25, draws=41), certificates[1], checkpoint=file)
    with pytest.raises(ValueError, match="differs in: names of the attacks and certificates"):
        run(certificates[0], checkpoint=file)
    armed.clear()
    whole = run(*certificates, checkpoint=file)
    assert whole.certificates[0].seconds == partial.certificates[0].seconds  # not run again
    assert without_seconds(whole) == without_seconds(run(*certificates))


def test_what_is_no_certificate_is_refused():
    with pytest.raises(TypeError, match="list of certificates"):
        run(PGD(0.1, 0.1, 1))
    with pytest.raises(TypeError, match="list of certificates"):
        evaluate(linear(), X, Y, suite=suite(), certificates=Exact())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"share the names \['exact'\]"):
        run(Exact(), Exact())


@pytest.mark.parametrize(
    "wrong", [{"scale": 0}, {"scale": math.nan}, {"draws": 0}, {"alpha": 1}, {"sample_size": 0.5}, {"radii": [-1]}]
)
def test_smoothing_refuses_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        Smoothing(**{"scale": 0.25} | wrong)


def test_smoothing_refuses_radii_that_no_example_reaches():
    reach = 0.25 * norm.ppf(0.001 ** (1 / 100))
    assert Smoothing(0.25, draws=100, radii=(reach - 1e-9,)).reach == pytest.approx(reach)
    with pytest.raises(ValueError, match="take more draws"):
        Smoothing(0.25, draws=100, radii=(reach + 1e-6,))
    assert Smoothing(0.25, draws=1).shown == (0.0,)  # nothing beyond the point itself


def test_outputs_that_are_not_finite_are_refused():
    class Root(nn.Module):
        def forward(self, x):
            return torch.cat([x.sqrt(), -x], dim=1)

    classifier = PyTorchClassifier(Root(), nn.CrossEntropyLoss(), (1,), 2, device_type="cpu")
    x = np.full((2, 1), 0.1, np.float32)
    with pytest.raises(FloatingPointError, match="noisy"):
        run(Smoothing(0.25), classifier=classifier, x=x, y=Y[:2], given=suite(0.05))
