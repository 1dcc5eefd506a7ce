"""What an evaluation says: statistics, outcomes as JSON and as a table, fingerprints, and the suites."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoAttack, DeepFool, HopSkipJump, ProjectedGradientDescent, SquareAttack
from art.estimators.classification import PyTorchClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.optimize import brentq
from torch import nn

import art_atmc.evaluation
from art_atmc import PGD, decompose
from art_atmc.attacks.art import ARTAttack
from art_atmc.evaluation import (
    APGD,
    DLR,
    SUITES,
    WRM,
    Access,
    Attack,
    AttackResult,
    Built,
    Evaluation,
    Finding,
    Severity,
    Spread,
    Square,
    Suite,
    paper,
    quick,
    thorough,
    wilson,
)
from art_atmc.evaluation.fingerprints import data_hash, model_hash, parameters, plain, seed_of
from art_atmc.support.versions import versions


def outcomes(text: str) -> np.ndarray:
    return np.array([character == "1" for character in text])


def row(name: str, correct: str, **changed) -> AttackResult:
    values: dict[str, Any] = {
        "name": name,
        "access": Access.GRADIENTS,
        "bounded": True,
        "restarts": 1,
        "parameters": {"type": "PGD", "eps": 0.1, "norm": "inf", "list": [1, None, True]},
        "correct": outcomes(correct),
        "rejected": 0,
        "seconds": 1.25,
    }
    return AttackResult(**values | changed)


def result(clean: str = "1110", *attacks: AttackResult, **changed) -> Evaluation:
    values: dict[str, Any] = {
        "suite": "mine",
        "eps": 0.1,
        "norm": "inf",
        "seed": 0,
        "batch_size": 256,
        "data": "d" * 64,
        "model": "m" * 64,
        "others": {"dense": "o" * 64},
        "clean": outcomes(clean),
        "attacks": attacks,
        "missing": (),
        "skipped": (),
        "findings": (Finding("steps", Severity.PASSED, "more steps fool more"),),
        "versions": versions(),
        "clip_values": [0.0, 1.0],
    }
    return Evaluation(**values | changed)


def shown(evaluation: Evaluation, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(evaluation)
    return console.file.getvalue()  # type: ignore[attr-defined]


# Statistics


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_wilson_bounds_solve_the_equation_of_the_score_test(n, share, confidence):
    """The bounds are the p at which the observed share is z standard errors away."""
    correct = round(share * n)
    low, high = wilson(correct, n, confidence)
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    seen = correct / n

    def surplus(p: float) -> float:
        return (seen - p) ** 2 - z**2 * p * (1 - p) / n

    nearly = 1e-9  # at 0 and 1 the share itself solves the equation, too
    assert low == pytest.approx(brentq(surplus, 0, seen - nearly) if correct else 0, abs=1e-6)
    assert high == pytest.approx(brentq(surplus, seen + nearly, 1) if correct < n else 1, abs=1e-6)
    assert 0 <= low <= seen + nearly
    assert seen - nearly <= high <= 1


@pytest.mark.parametrize("wrong", [(1, 0), (-1, 3), (4, 3), (1, 3, 0), (1, 3, 1)])
def test_wilson_refuses_what_is_no_count_or_confidence(wrong):
    with pytest.raises(ValueError, match="must be"):
        wilson(*wrong)


def test_spread_is_that_of_the_seeds():
    spread = Spread.of([0.5, 0.7, 0.9])
    assert (spread.n, spread.min, spread.max) == (3, 0.5, 0.9)
    assert (spread.mean, spread.std) == pytest.approx((0.7, 0.2))
    assert Spread.of(np.array([0.5])).std is None  # type: ignore[arg-type]
    assert str(Spread.of([0.5])) == "0.500 (one seed)"
    with pytest.raises(ValueError, match="at least one seed"):
        Spread.of([])


# The result


def test_figures_follow_from_the_outcomes():
    evaluation = result("1110", row("a", "0110"), row("b", "1100"), row("far", "0000", bounded=False))
    assert evaluation.clean_accuracy == 0.75
    assert evaluation.worst_case.tolist() == [False, True, False, False]
    assert evaluation.robust_accuracy == 0.25
    assert evaluation["b"].accuracy == 0.5
    with pytest.raises(KeyError, match="no attack 'c'; there are a, b, far"):
        evaluation["c"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"missing": ("a",)}, False),
        ({"findings": (Finding("x", Severity.WARNING, ""),)}, True),
        ({"findings": (Finding("x", Severity.PASSED, ""), Finding("y", Severity.FAILED, ""))}, False),
    ],
)
def test_result_is_trustworthy_when_whole_and_no_check_failed(changed, expected):
    assert result(**changed).trustworthy is expected


@given(
    st.lists(st.text("01", min_size=7, max_size=7), min_size=1, max_size=5), st.text(max_size=20), st.floats(1e-6, 9)
)
@settings(max_examples=40, deadline=None)
def test_json_gives_the_same_back(texts, sentence, eps):
    attacks = tuple(row(f"{i}", text, seconds=eps) for i, text in enumerate(texts[1:]))
    evaluation = result(
        texts[0], *attacks, eps=eps, skipped=(sentence,), findings=(Finding("x", Severity.FAILED, sentence),)
    )
    again = Evaluation.from_json(evaluation.to_json())
    assert again.to_json() == evaluation.to_json()
    np.testing.assert_array_equal(again.clean, evaluation.clean)
    for mine, theirs in zip(again.attacks, evaluation.attacks, strict=True):
        np.testing.assert_array_equal(mine.correct, theirs.correct)
        assert dataclasses.replace(mine, correct=theirs.correct).__dict__ == theirs.__dict__
    assert again.findings == evaluation.findings
    assert (again.eps, again.versions, again.clip_values) == (eps, evaluation.versions, [0.0, 1.0])


def test_json_can_be_read_without_this_package():
    content = json.loads(result("1110", row("a", "0110")).to_json())
    assert content["schema"] == 1
    assert content["clean"] == "1110"
    assert content["attacks"][0]["correct"] == "0110"
    assert content["attacks"][0]["access"] == "gradients"
    assert content["attacks"][0]["parameters"]["list"] == [1, None, True]
    assert {"python", "torch", "numpy", "art-atmc", "adversarial-robustness-toolbox"} <= set(content["versions"])


def broken(**changed) -> str:
    return json.dumps(json.loads(result("1110", row("a", "0110")).to_json()) | changed)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "wrong: "),
        ("[]", "wrong: "),
        ("{}", "suite"),
        (broken(clean="11x0"), "clean"),
        (broken(clean="111"), "4"),
        (broken(clean=""), "empty"),
        (broken(eps="wide"), "eps"),
        (broken(surplus=1), "surplus"),
        (broken(schema=2), "schema 1, .*another version of art-atmc"),
        (broken(findings=[{"check": "x", "severity": "odd", "sentence": ""}]), "findings.0.severity"),
        ("[" * 100_000, "wrong: "),
    ],
)
def test_text_that_is_no_evaluation_is_refused(text, named, tmp_path):
    file = tmp_path / "e.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=named):
        Evaluation.from_json(text)
    with pytest.raises(ValueError, match=r"e\.json"):
        Evaluation.load(file)


def test_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "e.json"
    result("1110").save(file)
    before = file.read_text()
    assert Evaluation.load(file).to_json() == before
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        result("0000").save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]
    assert file.read_text() == before


def test_outcomes_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"`clean` holds 4 examples, but there are outcomes of \[3\]"):
        result("1110", row("a", "011"))


def test_table_fits_a_terminal_and_shows_every_attack():
    names = ["clean", *(attack.name for attack in thorough(0.1).attacks), "worst case"]
    rows = [row(name, "1" * 1000, seconds=12345.6, rejected=1000) for name in names[1:-1]]
    rows[2] = dataclasses.replace(rows[2], bounded=False)
    text = shown(result("1" * 1000, *rows))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(name in text for name in names)
    assert "100.0%" in text
    assert "keeps to no ball" in text


def test_print_shows_the_table_and_no_outcomes():
    made = result("1111", row("first", "0011"))
    assert "50.0%" in str(made)
    assert "\x1b" not in str(made)
    assert max(map(len, str(made).splitlines())) <= 80
    assert "array" not in repr(made)


def test_table_counts_what_only_one_attack_fools():
    text = shown(result("1111", row("first", "0011"), row("second", "0111"), row("third", "1110")))
    counts = {words[0]: words for line in text.splitlines() if (words := line.split())}
    assert [counts[name][-2] for name in ("first", "second", "third")] == ["1", "0", "1"]


def test_findings_and_gaps_are_printed_as_they_are():
    finding = Finding("chance", Severity.FAILED, "accuracy in [red]brackets[/red] and [/bold]")
    text = shown(result(missing=("PGD [x]",), skipped=("transfer: no dense",), findings=(finding,)))
    assert "failed chance: accuracy in [red]brackets[/red] and [/bold]" in text
    assert "not run yet: PGD [x]" in text
    assert "skipped: transfer: no dense" in text


# Fingerprints


def test_data_hash_sees_values_order_shape_and_labels_but_not_the_type():
    x, y = torch.rand(3, 2, 2), torch.tensor([0, 1, 2])
    same = data_hash(x, y)
    assert data_hash(x.double(), y.int()) == same
    others = [(x + 1e-3, y), (x.flip(0), y), (x.reshape(3, 4), y), (x, y.flip(0)), (x[:2], y[:2])]
    assert len({same, *(data_hash(*other) for other in others)}) == 6


def test_model_hash_sees_weights_buffers_and_names_but_not_their_memory():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    same = model_hash(model)
    assert model_hash(model.to(memory_format=torch.channels_last)) == same  # type: ignore[call-overload]
    seen = {same}
    model[1].num_batches_tracked += 1  # type: ignore[assignment]
    seen.add(model_hash(model))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1e-3
    seen.add(model_hash(model))
    seen.add(model_hash(nn.ModuleDict({"a": model})))
    seen.add(model_hash(model.half()))
    decompose(model.float())
    seen.add(model_hash(model))
    assert len(seen) == 6


def test_seeds_of_attacks_differ_and_fit_a_generator():
    seeds = {seed_of(seed, name) for seed in (0, 1) for name in ("PGD 0", "PGD 1", "APGD 0")}
    assert len(seeds) == 6
    assert seed_of(0, "PGD 0") == seed_of(0, "PGD 0")
    for seed in seeds:
        torch.Generator().manual_seed(seed)


def test_parameters_are_plain_and_complete():
    classifier = PyTorchClassifier(
        nn.Linear(2, 2), nn.CrossEntropyLoss(), (2,), 2, clip_values=(0, 1), device_type="cpu"
    )
    art = ProjectedGradientDescent(classifier, eps=0.5, eps_step=0.1, norm=np.inf, verbose=False)
    for method in (PGD(0.1, 0.1, 2), APGD(0.1, 2, 5, DLR(2)), art, ARTAttack(art), Built(DeepFool, {"max_iter": 3})):
        assert json.loads(json.dumps(parameters(method))) == parameters(method)
    assert parameters(ARTAttack(art)) == parameters(art)
    assert parameters(art)["eps"] == 0.5
    assert parameters(art)["norm"] == "inf"
    assert parameters(APGD(0.1, 2, 5, DLR(2)))["objective"] == {"type": "DLR", "rank": 2}
    assert parameters(Built(DeepFool, {"max_iter": 3})) == {"type": "DeepFool", "max_iter": 3}
    several: Any = parameters(AutoAttack(classifier, attacks=[art]))["attacks"]
    assert [part["type"] for part in several] == ["ProjectedGradientDescent"]
    assert plain({"a": (np.arange(2), torch.tensor(1.5), math.nan, nn.Linear)}) == {"a": [[0, 1], 1.5, "nan", "Linear"]}


# Suites


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("norm", [math.inf, 2, 1])
def test_named_suites_hold_every_kind_of_attack_within_their_ball(name, norm):
    suite = SUITES[name](0.25, norm, 16)
    assert suite.name == name
    assert {attack.access for attack in suite.attacks} >= set(Access) - ({Access.OUTPUTS} if norm == 0 else set())
    for attack in suite.attacks:
        options = attack.method.options if isinstance(attack.method, Built) else vars(attack.method)
        assert attack.bounded == ("eps" in options)
        if attack.bounded:
            assert (options["eps"], options["norm"]) == (0.25, norm)
    assert suite.attacks[1].method == PGD(0.25, 1.25 * 0.25 / 16, 16, norm, random_start=False)


@pytest.mark.parametrize(
    ("name", "gradients", "queries"), [("quick", 97, 300), ("standard", 487, 1000), ("thorough", 2348, 5000)]
)
def test_suites_cost_what_their_documentation_says(name, gradients, queries):
    suite = SUITES[name](0.1, math.inf, 7)
    spent = {Square: 0, APGD: 0, PGD: 0, WRM: 0}
    for attack in suite.attacks:
        if not isinstance(attack.method, Built):
            starts = isinstance(attack.method, APGD)  # it asks for the gradient of its start, too
            spent[type(attack.method)] += attack.restarts * (attack.method.max_iter + starts)
    assert spent.pop(Square) == queries
    assert sum(spent.values()) == gradients
    assert f"{gradients:,} gradients and {queries:,} queries" in " ".join(
        getattr(art_atmc.evaluation, name).__doc__.split()
    )


def test_attack_lines_are_named_and_sorted_by_what_they_use():
    classifier = PyTorchClassifier(
        nn.Linear(2, 2), nn.CrossEntropyLoss(), (2,), 2, clip_values=(0, 1), device_type="cpu"
    )
    cases = [
        (PGD(0.1, 0.1, 7), "PGD-7", Access.GRADIENTS, 1),
        (PGD(0.1, 0.1, 7, restarts=3), "PGD-7 x3", Access.GRADIENTS, 3),
        (APGD(0.1), "APGD-100", Access.GRADIENTS, 1),
        (Square(0.1), "Square-1000", Access.OUTPUTS, 1),
        (Built(SquareAttack), "SquareAttack", Access.OUTPUTS, 1),
        (Built(AutoAttack), "AutoAttack", Access.GRADIENTS, 1),
        (DeepFool(classifier, verbose=False), "DeepFool", Access.GRADIENTS, 1),
        (HopSkipJump(classifier, verbose=False), "HopSkipJump", Access.OUTPUTS, 1),
        (WRM(), "WRM-7", Access.GRADIENTS, 1),
    ]
    for method, name, access, restarts in cases:
        line = Attack.of(method)
        assert (line.name, line.access, line.restarts) == (name, access, restarts)
        assert line.bounded == (not isinstance(method, WRM))
        assert Attack.of(line) is line
    assert Attack.of(PGD(0.1, 0.1, 7, restarts=3)).method.restarts == 1


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Attack("x", nn.Linear(1, 1)), TypeError, "expected an ART evasion attack"),
        (lambda: Attack("", PGD(0.1, 0.1, 1)), ValueError, "needs a `name`"),
        (lambda: Attack("x", PGD(0.1, 0.1, 1), restarts=0), ValueError, "`restarts`"),
        (lambda: quick(-1), ValueError, "`eps` must be positive"),
        (lambda: Suite("x", 0.1, 3, (PGD(0.1, 0.1, 1),)), ValueError, "`norm` must be 1, 2 or inf"),
        (lambda: Suite("x", 0.1, 2, ()), ValueError, "`attacks` is empty"),
        (lambda: Suite("x", 0.1, 2, (WRM(), WRM(2.0))), ValueError, r"share the names \['WRM-7'\]"),
        (lambda: Suite("x", 0, 3, ()), ValueError, "`eps`.*`norm`.*`attacks`"),
        (
            lambda: Suite("x", 0.1, math.inf, (PGD(0.2, 0.1, 1),)),
            ValueError,
            r"radius of \['PGD-1'\] is above `eps`=0.1",
        ),
        (
            lambda: Suite("x", 0.3, math.inf, (PGD(0.1, 0.1, 1), Square(0.1))),
            ValueError,
            "no attack reaches .*0.3.*0.1",
        ),
        (lambda: Suite("x", 0.3, 2, (PGD(0.1, 0.1, 1, 2), WRM())), ValueError, "no attack reaches the radius"),
        (lambda: quick(0.1).plus(Built(AutoAttack, {"eps": 0.3, "norm": "inf"})), ValueError, r"\['AutoAttack'\]"),
    ],
)
def test_lines_and_suites_refuse_what_makes_no_sense(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_suites_take_weaker_attacks_other_norms_and_inf_as_text():
    suite = Suite("x", 0.1, "inf", (PGD(0.05, 0.1, 1), APGD(3.0, 2), Built(DeepFool)))
    assert suite.norm == math.inf
    assert [attack.name for attack in suite.plus(paper(0.1, steps=16)).attacks][-1] == "paper-16"


def test_every_public_name_is_there():
    assert sorted(art_atmc.evaluation.__all__) == sorted(set(art_atmc.evaluation.__all__))
    assert all(hasattr(art_atmc.evaluation, name) for name in art_atmc.evaluation.__all__)
