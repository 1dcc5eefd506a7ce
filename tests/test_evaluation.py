"""The evaluation's loop: worst cases, restarts, interruptions, refusals."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import random
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoAttack, DeepFool, FastGradientMethod, ProjectedGradientDescent, SquareAttack
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.preprocessing import Preprocessor
from torch import nn

from art_atmc import PGD, CompressedClassifier
from art_atmc.attacks.base import Adversary, Problem
from art_atmc.evaluation import (
    APGD,
    DLR,
    WRM,
    Access,
    Attack,
    Built,
    Evaluation,
    Finding,
    Severity,
    Square,
    StraightThrough,
    Suite,
    evaluate,
    quick,
    thorough,
)
from art_atmc.evaluation.fingerprints import classifier_hash, model_hash, seed_of

LOOP = sys.modules["art_atmc.evaluation.evaluate"]  # the package's attribute of this name is the function
FINDING = Finding("stub", Severity.PASSED, "nothing was checked")


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """The self-checks, which have tests of their own, replaced by one that notes what it was asked."""
    calls = []

    def self_checks(*args, **options):
        calls.append((args, options))
        return (FINDING,)

    monkeypatch.setattr(LOOP, "self_checks", self_checks)
    return calls


@dataclasses.dataclass(frozen=True)
class Shift(Adversary):
    """Moves every input by the same amount; notes how many it was given."""

    by: float
    sizes: list = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, problem, x, y):
        self.sizes.append(len(x))
        return x + self.by


@dataclasses.dataclass(frozen=True)
class Drawn(Adversary):
    """A random point of the ball."""

    eps: float

    def __call__(self, problem, x, y):
        return (x + self.eps * (2 * torch.rand(x.shape, generator=problem.generator) - 1)).clamp(0, 1)


@dataclasses.dataclass(frozen=True)
class Interrupted(Adversary):
    """Somebody presses Ctrl-C while it runs, as long as ``armed`` holds anything."""

    armed: list = dataclasses.field(default_factory=lambda: [True], compare=False)

    def __call__(self, problem, x, y):
        if self.armed:
            raise KeyboardInterrupt
        return x


def line(weight: float = 1.0, **options) -> PyTorchClassifier:
    """On one number: class 0 for x > 0, else class 1."""
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[weight], [-weight]])
    options = {"loss": nn.CrossEntropyLoss(), "input_shape": (1,), "nb_classes": 2, "device_type": "cpu"} | options
    return PyTorchClassifier(model, **options)


class Halved(Preprocessor):
    """In numpy, so without a gradient."""

    def __init__(self, by: float = 2):
        super().__init__(apply_fit=False, apply_predict=True)
        self.by = by

    def __call__(self, x, y=None):
        return x / self.by, y


X = np.array([[0.1], [0.3], [0.6], [-0.1]], dtype=np.float32)
Y = np.zeros(4, dtype=np.int64)  # the last one is misclassified


def suite_of(*attacks, eps=0.5, norm=math.inf, name="mine") -> Suite:
    return Suite(name, eps, norm, attacks)


def run(*attacks, classifier=None, x=X, y=Y, eps=None, **options) -> Evaluation:
    """Within the radius of the widest attack, or 0.5 where none has one."""
    radii = (getattr(getattr(attack, "method", attack), "eps", 0) for attack in attacks)
    eps = eps or max(radii, default=0) or 0.5
    return evaluate(classifier or line(), x, y, suite=suite_of(*attacks, eps=eps), verbose=False, **options)


@pytest.fixture(scope="module")
def trained(digits):
    """A network trained for a moment on digits, with examples that it did not see."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(288, 10)
    )
    x, y = (torch.from_numpy(part) for part in digits)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:1000]), y[:1000]).backward()
        optimizer.step()
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu")
    return classifier, digits[0][1000:1200], digits[1][1000:1200]


def test_worst_case_is_taken_example_by_example():
    result = run(Attack("down", Shift(-0.2)), Attack("further", Shift(-0.4)), Attack("up", Shift(0.5)))
    assert result["down"].correct.tolist() == [False, True, True, False]
    assert result["further"].correct.tolist() == [False, False, True, False]
    assert result["up"].correct.tolist() == result.clean.tolist() == [True, True, True, False]
    assert result.worst_case.tolist() == [False, False, True, False]
    assert result.robust_accuracy == 0.25
    assert result.clean_accuracy == 0.75


def test_attacks_that_fool_different_examples_add_up(trained):
    classifier, x, y = trained
    attacks = (Attack("a", Drawn(0.5)), Attack("b", Drawn(0.5)))
    result = run(*attacks, classifier=classifier, x=x, y=y)
    alone = [run(attack, classifier=classifier, x=x, y=y).worst_case for attack in attacks]
    np.testing.assert_array_equal(result.worst_case, alone[0] & alone[1])
    assert result.robust_accuracy < min(outcome.mean() for outcome in alone)


def test_restarts_equal_an_explicit_loop(trained):
    classifier, x, y = trained
    method, seed = PGD(0.2, 0.05, 1), 5
    result = run(Attack("p", method, restarts=4), classifier=classifier, x=x, y=y, seed=seed, batch_size=64)
    model = classifier.model.eval()
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    standing, after = model(x).argmax(1) == y, []
    for restart in range(4):
        generator = torch.Generator().manual_seed(seed_of(seed, f"p {restart}"))
        for rows in standing.nonzero()[:, 0].split(64):
            adv = method(Problem(model, clip_values=(0, 1), generator=generator), x[rows], y[rows])
            standing[rows] = model(adv).argmax(1) == y[rows]
        after.append(int(standing.sum()))
    np.testing.assert_array_equal(result["p"].correct, standing.numpy())
    assert after[0] > after[-1]  # restarts fooled some


def test_only_examples_that_stand_are_attacked():
    shift = Shift(-0.2)
    run(Attack("down", shift, restarts=3), batch_size=2)
    assert shift.sizes == [2, 1, 2, 2]  # the misclassified one never, the fooled one once


def test_nothing_is_attacked_where_nothing_stands():
    shift = Shift(-0.2)
    result = run(Attack("down", shift, restarts=2), y=np.array([1, 1, 1, 0]))
    assert shift.sizes == []
    assert result.robust_accuracy == 0


def test_points_outside_the_ball_do_not_count_and_are_named():
    result = run(Attack("far", Shift(-0.5001), restarts=2), Attack("near", Shift(-0.5)))
    assert result["far"].correct.tolist() == result.clean.tolist()
    assert result["far"].rejected == 6
    assert (result["near"].rejected, result["near"].accuracy) == (0, 0.25)


def test_points_outside_the_clip_values_do_not_count():
    classifier = line(clip_values=(0.0, 1.0))
    result = run(Attack("down", Shift(-0.2)), classifier=classifier, x=X[:3], y=Y[:3])
    assert result["down"].accuracy == 1
    assert result["down"].rejected == 1


def test_points_that_are_not_numbers_do_not_count():
    assert run(Attack("nan", Shift(math.nan)))["nan"].correct.tolist() == [True, True, True, False]


def test_unbounded_attack_may_leave_the_ball_but_is_no_part_of_the_worst_case():
    result = run(Attack("far", Shift(-0.7), bounded=False), Attack("up", Shift(0.1)))
    assert result["far"].accuracy == 0
    assert result["far"].rejected == 0
    assert result.robust_accuracy == result.clean_accuracy


def test_lines_may_have_balls_of_their_own_and_count():
    wide, near = Attack("wide", Shift(-0.35), ball=(0.5, 2)), Attack("near", Shift(-0.35), ball=(0.1, 1))
    result = run(wide, near, eps=0.1)
    assert result["wide"].correct.tolist() == [False, False, True, False]
    assert result["near"].rejected == 3
    assert result.worst_case.tolist() == [False, False, True, False]
    assert Evaluation.from_json(result.to_json())["wide"].ball == (0.5, "2")
    with pytest.raises(ValueError, match="ball's radius"):
        Attack("x", Shift(0.1), ball=(0, 2))
    with pytest.raises(ValueError, match="above"):
        suite_of(Attack("x", PGD(0.6, 0.1, 1, norm=2), ball=(0.5, 2)), eps=0.1)


def test_output_that_is_nan_is_a_wrong_one():
    class Root(nn.Module):
        def forward(self, x):
            return torch.cat([x.sqrt(), -x], dim=1)

    classifier = PyTorchClassifier(Root(), nn.CrossEntropyLoss(), (1,), 2, device_type="cpu")
    assert run(Attack("down", Shift(-0.2)), classifier=classifier, x=X[:3], y=Y[:3])["down"].correct[0].item() is False


def test_transferred_examples_are_made_on_the_dense_classifier():
    dense = line(-1.0)  # its gradient shows the other way
    attack = Attack("transfer", PGD(0.2, 0.1, 2, random_start=False), Access.TRANSFER)
    assert run(attack, dense=line(2.0)).worst_case.tolist() == [False, True, True, False]
    assert run(attack, dense=dense).worst_case.tolist() == [True, True, True, False]


def test_transfer_is_skipped_with_a_sentence_without_a_dense_classifier():
    result = run(Attack("transfer", Shift(0.1), Access.TRANSFER), Attack("up", Shift(0.1)))
    assert [attack.name for attack in result.attacks] == ["up"]
    assert result.missing == ()
    assert len(result.skipped) == 1
    assert "`dense`" in result.skipped[0]
    assert result.skipped[0].startswith("transfer:")


def test_attack_gives_the_same_alone_first_or_last(trained):
    classifier, x, y = trained
    pgd, other = Attack("p", PGD(0.06, 0.04, 2)), Attack("q", APGD(0.06, max_iter=3))
    runs = [
        run(*attacks, classifier=classifier, x=x, y=y, eps=0.06) for attacks in ((pgd,), (pgd, other), (other, pgd))
    ]
    for result in runs[1:]:
        np.testing.assert_array_equal(result["p"].correct, runs[0]["p"].correct)


def test_seed_decides_everything_random(trained):
    classifier, x, y = trained
    attack = Attack("random", Drawn(0.5), restarts=3)
    first, again, other = (run(attack, classifier=classifier, x=x, y=y, seed=seed).worst_case for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_random_defence_is_judged_the_same_for_the_same_seed():
    class Noisy(nn.Module):
        def forward(self, x):
            x = x + 0.3 * torch.randn_like(x)
            return torch.cat([x, -x], dim=1)

    classifier = PyTorchClassifier(Noisy(), nn.CrossEntropyLoss(), (1,), 2, device_type="cpu")
    x, y = np.full((100, 1), 1.0, np.float32), np.zeros(100, np.int64)
    torch.manual_seed(0)
    first = run(Attack("down", Shift(-0.8)), classifier=classifier, x=x, y=y, eps=1.0).worst_case
    torch.manual_seed(0)
    again = run(Attack("down", Shift(-0.8)), classifier=classifier, x=x, y=y, eps=1.0).worst_case
    assert 0 < first.mean() < 1
    np.testing.assert_array_equal(first, again)


def test_classifier_and_global_random_numbers_come_back_as_they_were(trained):
    classifier, x, y = trained
    classifier.model.train()
    classifier.model[1].eval()
    modes = [module.training for module in classifier.model.modules()]
    gradients = [p.grad for p in classifier.model.parameters()]
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    attacks = PGD(0.05, 0.02, 2), FastGradientMethod(classifier, eps=0.05, num_random_init=2), Square(0.05, max_iter=3)
    run(*attacks, classifier=classifier, x=x[:20], y=y[:20])
    assert [module.training for module in classifier.model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.state_dict().items())
    assert all(p.requires_grad for p in classifier.model.parameters())
    assert all(p.grad is gradient for p, gradient in zip(classifier.model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    classifier.model.eval()


def test_judge_is_the_network_in_evaluation_mode_with_its_preprocessing(trained, digits):
    plain, x, y = trained
    shifted = PyTorchClassifier(
        plain.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing=(0.5, 2.0), device_type="cpu"
    )
    plain.model.train()
    expected = plain.predict(x).argmax(axis=1) == y
    result = run(PGD(0.1, 0.04, 5, random_start=False), classifier=shifted, x=2 * x + 0.5, y=y)
    np.testing.assert_array_equal(result.clean, expected)
    assert result.robust_accuracy < result.clean_accuracy


def test_one_hot_labels_and_tensors_are_taken(trained):
    classifier, x, y = trained
    expected = run(PGD(0.05, 0.02, 3), classifier=classifier, x=x, y=y).worst_case
    for labels in (np.eye(10)[y], np.eye(10)[y] > 0, y[:, None], y.astype(np.float64), torch.from_numpy(y), list(y)):
        np.testing.assert_array_equal(
            run(PGD(0.05, 0.02, 3), classifier=classifier, x=x, y=labels).worst_case, expected
        )
    inputs = torch.from_numpy(x)
    np.testing.assert_array_equal(run(PGD(0.05, 0.02, 3), classifier=classifier, x=inputs, y=y).worst_case, expected)


def test_compressed_classifier_and_art_attacks_are_taken(trained):
    plain, x, y = trained
    classifier = CompressedClassifier.of(plain)
    art = ProjectedGradientDescent(plain, eps=0.05, eps_step=0.02, max_iter=3)  # of the same model
    result = run(
        art,
        Attack("built", Built(FastGradientMethod, {"eps": 0.05})),
        Attack("once", FastGradientMethod(classifier, eps=0.05)),
        classifier=classifier,
        x=x[:50],
        y=y[:50],
        eps=0.05,
    )
    assert [attack.rejected for attack in result.attacks] == [0, 0, 0]
    np.testing.assert_array_equal(result["built"].correct, result["once"].correct)
    assert result["ProjectedGradientDescent"].parameters["max_iter"] == 3


def test_self_checks_get_what_was_found(asked):
    twin = nn.Identity()
    result = run(Attack("down", Shift(-0.2)), classifier=line(clip_values=(-1.0, 1.0)), twin=twin)
    assert result.findings == (FINDING,)
    (network, x, y), options = asked[0]
    assert torch.equal(network(x).argmax(dim=1) == y, torch.tensor([True, True, True, False]))
    assert (options["eps"], options["norm"], options["twin"]) == (0.5, math.inf, twin)
    assert [attack.name for attack in options["attacks"]] == ["down"]
    assert options["clean"].tolist() == result.clean.tolist()
    assert isinstance(options["generator"], torch.Generator)
    assert set(result.others) == {"twin"}


def test_self_checks_find_nothing_wrong_with_an_honest_network(trained, monkeypatch):
    monkeypatch.undo()
    classifier, x, y = trained
    attacks = Attack("PGD", PGD(0.05, 0.0125, 10)), Square(0.05, max_iter=20)
    result = run(*attacks, classifier=classifier, x=x[:64], y=y[:64], eps=0.05)
    assert len(result.findings) > 3
    assert result.trustworthy


def test_progress_is_shown_on_stderr_unless_told_otherwise(capsys):
    evaluate(line(), X, Y, suite=suite_of(Attack("down", Shift(-0.2))))
    shown = capsys.readouterr()
    assert "down" in shown.err
    assert shown.out == ""
    run(Attack("down", Shift(-0.2)))
    assert capsys.readouterr() == ("", "")


# Interruptions


def test_interrupted_evaluation_goes_on_where_it_stopped(tmp_path, asked):
    file, first, armed = tmp_path / "evaluation.json", Shift(-0.2), [True]
    attacks = (Attack("down", first), Attack("stops", Interrupted(armed)), Attack("up", Shift(0.2)))
    with pytest.raises(KeyboardInterrupt):
        run(*attacks, checkpoint=file)
    partial = Evaluation.load(file)
    assert [attack.name for attack in partial.attacks] == ["down"]
    assert partial.missing == ("stops", "up")
    assert not partial.trustworthy
    assert asked == []
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    armed.clear()
    whole = run(*attacks, checkpoint=file)
    assert len(first.sizes) == 1  # not run again
    assert [attack.name for attack in whole.attacks] == ["down", "stops", "up"]
    assert whole.missing == ()
    assert whole.trustworthy
    assert Evaluation.load(file).to_json() == whole.to_json()


def test_resumed_evaluation_equals_an_uninterrupted_one(tmp_path, trained):
    classifier, x, y = trained
    armed = [True]
    attacks = (PGD(0.05, 0.02, 2), Attack("stops", Interrupted(armed)), Square(0.05, max_iter=5))
    options = {"classifier": classifier, "x": x, "y": y, "eps": 0.05, "checkpoint": tmp_path / "e.json"}
    with pytest.raises(KeyboardInterrupt):
        run(*attacks, **options)
    armed.clear()
    resumed = run(*attacks, **options)
    whole = run(*attacks, **options | {"checkpoint": None})
    assert without_seconds(resumed) == without_seconds(whole)


def without_seconds(result: Evaluation) -> dict:
    content = json.loads(result.to_json())
    for attack in content["attacks"]:
        del attack["seconds"]
    return content


def test_finished_evaluation_is_read_and_not_repeated(tmp_path, asked):
    shift = Shift(-0.2)
    first = run(Attack("down", shift), checkpoint=tmp_path / "e.json")
    again = run(Attack("down", shift), checkpoint=tmp_path / "e.json")
    assert (len(shift.sizes), len(asked)) == (1, 1)
    assert again.to_json() == first.to_json()


def test_interruption_of_the_self_checks_keeps_the_attacks(tmp_path, monkeypatch):
    shift = Shift(-0.2)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LOOP, "self_checks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(Attack("down", shift), checkpoint=tmp_path / "e.json")
    assert run(Attack("down", shift), checkpoint=tmp_path / "e.json").findings == (FINDING,)
    assert len(shift.sizes) == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"x": X + 0.01}, "data"),
        ({"y": np.array([0, 0, 0, 1])}, "data"),
        ({"classifier": line(2.0)}, "model"),
        ({"classifier": line(preprocessing=(1.0, 1.0))}, "model"),
        ({"classifier": line(preprocessing=(0.001, 1.0))}, "model"),
        ({"classifier": line(loss=nn.MultiMarginLoss())}, "model"),
        ({"classifier": line(clip_values=(-1.0, 1.0))}, "clip_values"),
        ({"eps": 0.6}, "eps"),
        ({"seed": 1}, "seed"),
        ({"batch_size": 2}, "batch_size"),
        ({"dense": line(3.0)}, "others"),
        ({"twin": nn.Linear(1, 2)}, "others"),
    ],
)
def test_checkpoint_of_other_arguments_is_refused_by_name(tmp_path, changed, named):
    file = tmp_path / "e.json"
    run(Attack("down", Shift(-0.2)), checkpoint=file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=f"differs in: {named}") as refused:
        run(Attack("down", Shift(-0.2)), checkpoint=file, **changed)
    assert "or another file" in str(refused.value)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (Attack("down", Shift(-0.3)), "attack down"),
        (Attack("down", Shift(-0.2), restarts=2), "attack down"),
        (Attack("down", Shift(-0.2), bounded=False), "attack down"),
        (Attack("up", Shift(-0.2)), "names of the attacks"),
    ],
)
def test_checkpoint_of_other_attacks_is_refused_by_name(tmp_path, attack, named):
    run(Attack("down", Shift(-0.2)), checkpoint=tmp_path / "e.json")
    with pytest.raises(ValueError, match=named):
        run(attack, checkpoint=tmp_path / "e.json")


def test_checkpoint_that_is_none_is_refused_and_kept(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(ValueError, match=r"notes.txt is not an evaluation of schema 1"):
        run(Attack("down", Shift(-0.2)), checkpoint=file)
    assert file.read_text() == "mine"
    with pytest.raises(ValueError, match="does not exist; make it first"):
        run(Attack("down", Shift(-0.2)), checkpoint=tmp_path / "nowhere" / "e.json")


# Refusals, each before any attack is run; the accepted cases are all of the above.


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"x": X[:0], "y": Y[:0]}, ValueError, "x is empty"),
        ({"y": Y[:3]}, ValueError, "x has 4 examples and y has 3"),
        ({"y": np.array([0, 1, 2, 0])}, ValueError, "from 0 to 1"),
        ({"y": np.array([0, 1, -1, 0])}, ValueError, "from 0 to 1"),
        ({"y": np.array([0, 0.5, 0, 0])}, ValueError, "whole numbers"),
        ({"y": np.array(["a"] * 4)}, ValueError, "give class indices, as np.unique"),
        ({"y": np.array([["a", "b"]] * 4)}, ValueError, "give class indices, as np.unique"),
        ({"y": np.full((4, 2), 0.5)}, ValueError, "0 and 1 only"),
        ({"y": np.zeros((4, 2))}, ValueError, "sum to 1"),
        ({"y": np.zeros((4, 3), int)}, ValueError, r"one-hot labels \(n, 2\)"),
        ({"y": 0}, ValueError, "single number"),
        ({"x": X[:, 0]}, ValueError, "the classifier takes"),
        ({"x": X[:, :, None]}, ValueError, "the classifier takes"),
        ({"x": np.where(X > 0.5, np.nan, X)}, ValueError, "NaN"),
        ({"x": np.where(X > 0.5, np.inf, X)}, ValueError, "infinite"),
        ({"x": np.array([["a"]] * 4)}, ValueError, "give real numbers"),
        ({"classifier": line(clip_values=(0.0, 1.0))}, ValueError, "outside the classifier's clip values"),
        ({"classifier": nn.Linear(1, 2)}, TypeError, "`classifier` must be an ART PyTorchClassifier"),
        ({"dense": nn.Linear(1, 2)}, TypeError, "`dense` must be an ART PyTorchClassifier"),
        ({"suite": "thorogh"}, TypeError, "must be 'quick', 'standard', 'thorough' or a Suite, got 'thorogh'"),
        ({"suite": "quick"}, ValueError, "`suite`='quick' needs a radius; give `eps`"),
        ({"suite": "quick", "eps": -1}, ValueError, "`eps` must be positive"),
        ({"suite": "quick", "eps": 0.1, "norm": 3}, ValueError, "`norm` must be 1, 2 or inf"),
        ({"eps": 0.1}, TypeError, "`eps` and `norm` go with the name of a suite"),
        ({"norm": 2}, TypeError, "`eps` and `norm` go with the name of a suite"),
        ({"seed": 0.5}, ValueError, "`seed` must be an integer"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1"),
        ({"batch_size": 2.5}, ValueError, "`batch_size` must be an integer of at least 1"),
    ],
)
def test_bad_input_is_refused_before_any_attack(changed, error, text, tmp_path):
    shift = Shift(-0.2)
    arguments = {"classifier": line(), "x": X, "y": Y, "suite": suite_of(Attack("down", shift))}
    file = tmp_path / "e.json"
    with pytest.raises(error, match=text):
        evaluate(**arguments | changed, checkpoint=file, verbose=False)
    assert shift.sizes == []
    assert not file.exists()


def test_clip_values_of_single_inputs_are_respected():
    model = nn.Linear(2, 2)
    clip = np.array([0.0, 0.0], np.float32), np.array([1.0, 2.0], np.float32)
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (2,), 2, clip_values=clip, device_type="cpu")
    result = run(PGD(0.1, 0.1, 1), classifier=classifier, x=np.array([[1.0, 2.0]], np.float32), y=Y[:1])
    assert result.clip_values == [[0.0, 0.0], [1.0, 2.0]]
    with pytest.raises(ValueError, match="1 of 2 examples leave"):
        run(PGD(0.1, 0.1, 1), classifier=classifier, x=np.array([[1, 2], [2, 1]], np.float32), y=Y[:2])


def test_number_of_classes_that_the_network_does_not_have_is_refused():
    classifier = PyTorchClassifier(nn.Linear(1, 3), nn.CrossEntropyLoss(), (1,), 2, device_type="cpu")
    with pytest.raises(ValueError, match=r"\(2, 3\).*nb_classes=2"):
        run(Attack("down", Shift(-0.2)), classifier=classifier)


def test_outputs_that_are_not_finite_are_refused():
    with pytest.raises(FloatingPointError, match="outputs on clean examples"):
        run(Attack("down", Shift(-0.2)), classifier=line(math.nan))


def test_dense_classifier_of_other_inputs_is_refused():
    other = PyTorchClassifier(nn.Linear(2, 2), nn.CrossEntropyLoss(), (2,), 2, device_type="cpu")
    with pytest.raises(ValueError, match="test \\(for `dense`\\) data"):
        run(Attack("down", Shift(-0.2)), dense=other)


def test_attacks_of_another_classifier_are_refused_together():
    ours, other = line(), line()
    attacks = (
        Attack("one", FastGradientMethod(other, eps=0.1)),
        Attack("two", DeepFool(other, verbose=False)),
        Attack("fits", DeepFool(ours, verbose=False)),
        Attack("three", FastGradientMethod(ours, eps=0.1), Access.TRANSFER),
    )
    with pytest.raises(ValueError, match=r"one \(for `classifier`\), two \(for `classifier`\), three \(for `dense`\)"):
        run(*attacks, classifier=ours, dense=other)
    accepted = Attack("three", FastGradientMethod(other, eps=0.1), Access.TRANSFER)
    assert len(run(attacks[2], accepted, classifier=ours, dense=other).attacks) == 2


@pytest.mark.parametrize("built", [False, True])
def test_autoattack_without_its_package_is_refused_before_any_attack(monkeypatch, built):
    classifier, shift = line(clip_values=(-1.0, 1.0)), Shift(-0.2)
    attack = Built(AutoAttack, {"eps": 0.1}) if built else AutoAttack(classifier, eps=0.1)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "multiprocess" else found(name, *a)
    )
    with pytest.raises(ImportError, match=r"pip install 'art-atmc\[evaluation\]'"):
        run(Attack("down", shift), Attack("auto", attack), classifier=classifier)
    with pytest.raises(ImportError, match="multiprocess"):
        evaluate(classifier, X, Y, suite=thorough(0.1), verbose=False)
    assert shift.sizes == []


def test_network_without_a_gradient_is_refused_for_attacks_that_need_one():
    hidden = line(preprocessing_defences=[Halved()])
    with pytest.raises(ValueError, match=r"PGD-2, WRM-7 need.*StraightThrough"):
        run(PGD(0.1, 0.1, 2), WRM(), Square(0.1), classifier=hidden)
    with pytest.raises(ValueError, match="no gradient"):
        run(Attack("t", PGD(0.1, 0.1, 2), Access.TRANSFER), dense=hidden)
    assert run(Square(0.2, max_iter=10), classifier=hidden).worst_case.tolist() == [False, True, True, False]
    art = ProjectedGradientDescent(hidden, eps=0.2, eps_step=0.1, max_iter=3, verbose=False)  # estimates one
    assert run(art, classifier=hidden).worst_case.tolist() == [False, True, True, False]


def test_straight_through_classifier_gives_hidden_gradients_back():
    class Rounded(nn.Module):
        def forward(self, x):
            x = (10 * x).round() / 10
            return torch.cat([x, -x], dim=1).detach()

    twin = line().model
    model = StraightThrough(Rounded(), twin)
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1,), 2, device_type="cpu")
    assert run(PGD(0.2, 0.1, 3), classifier=classifier).worst_case.tolist() == [False, True, True, False]


def test_hash_of_a_classifier_sees_defences_and_their_parameters():
    plain = line()
    others = [line(preprocessing_defences=[Halved(by)]) for by in (2, 3)]
    others += [line(preprocessing=(0.5, 1.0)), line(loss=nn.MultiMarginLoss()), line(loss=nn.MultiMarginLoss(2))]
    hashes = [classifier_hash(classifier) for classifier in (plain, *others)]
    assert len(set(hashes)) == 6
    assert hashes[0] == model_hash(plain.model) == classifier_hash(line())
    assert classifier_hash(line(preprocessing_defences=[Halved(3)])) == hashes[2]
    itself = Halved()
    itself.whole = [itself]  # a circle
    assert classifier_hash(line(preprocessing_defences=[itself])) not in hashes


class OneLogit(nn.Module):
    """The difference of two logits: the same network with one output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        return logits[:, 1:] - logits[:, :1]


class ZeroAndLogit(nn.Module):
    """Its two logits, in the form (0, z)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.single = OneLogit(network)

    def forward(self, x):
        return torch.cat([torch.zeros_like(x[:, :1]), self.single(x)], dim=1)


@pytest.fixture(scope="module")
def binary():
    """Forty vectors of two classes and a small network."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.rand(40, 6)
    with torch.no_grad():
        network[2].bias -= network(x).median(dim=0).values
        y = network(x).argmax(dim=1).numpy()
    y[:5] = 1 - y[:5]
    assert 5 < y.sum() < 35
    return network, x.numpy(), y


def classifiers_of(network):
    """With one output and with two; both answer alike, and the cross-entropies are the same function."""
    options = {"clip_values": (0, 1), "device_type": "cpu"}
    one = PyTorchClassifier(OneLogit(network), nn.BCEWithLogitsLoss(), (6,), 2, **options)
    return one, PyTorchClassifier(ZeroAndLogit(network), nn.CrossEntropyLoss(), (6,), 2, **options)


def test_classifier_of_one_output_is_judged_like_the_same_one_of_two(binary):
    network, x, y = binary
    attacks = (
        PGD(0.1, 0.05, 5, restarts=3),
        Attack("APGD-CE", APGD(0.1, max_iter=10)),
        Attack("APGD-DLR", APGD(0.1, max_iter=10, objective=DLR())),
        Square(0.1, max_iter=50),
        WRM(),
        Built(DeepFool),
        Attack("transfer", PGD(0.1, 0.05, 5), Access.TRANSFER),
    )
    one, two = (
        run(*attacks, classifier=classifier, dense=classifier, x=x, y=y) for classifier in classifiers_of(network)
    )
    assert one.clean.tolist() == two.clean.tolist()
    assert one.clean_accuracy == 35 / 40
    for attack in two.attacks:
        assert one[attack.name].correct.tolist() == attack.correct.tolist()
    assert {name: one[name].accuracy < one.clean_accuracy for name in ("PGD-5 x3", "APGD-CE", "Square-50")} == {
        "PGD-5 x3": True, "APGD-CE": True, "Square-50": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "labels", [lambda y: y, lambda y: y[:, None], lambda y: np.eye(2)[y], lambda y: y.astype(float)]
)
def test_classifier_of_one_output_takes_labels_of_every_form(binary, labels, monkeypatch):
    monkeypatch.undo()  # with the self-checks
    network, x, y = binary
    one, two = classifiers_of(network)
    result = evaluate(one, x, labels(y), suite="quick", eps=0.05, dense=two, verbose=False)
    assert result.missing == result.skipped == ()
    assert result.clean_accuracy == 35 / 40
    assert len(result.findings) > 5
    assert result.trustworthy


@pytest.mark.parametrize(
    ("model", "loss", "text"),
    [
        (nn.Linear(1, 1), nn.CrossEntropyLoss(), "always 0.*give BCEWithLogitsLoss"),
        (nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()), nn.BCELoss(), "leave the sigmoid out"),
        (nn.Sequential(nn.Linear(1, 1), nn.Flatten(0)), nn.BCEWithLogitsLoss(), r"shape \(2,\).*of shape \(N, 1\)"),
    ],
)
def test_single_outputs_that_are_no_logit_are_refused(model, loss, text):
    classifier = PyTorchClassifier(model, loss, (1,), 2, device_type="cpu")
    with pytest.raises(ValueError, match=text):
        run(Attack("down", Shift(-0.2)), classifier=classifier)


class Wrapped(nn.Module):
    """What some networks return in place of logits."""

    def __init__(self, wrap, model) -> None:
        super().__init__()
        self.wrap, self.network = wrap, model

    def forward(self, x):
        return self.wrap(self.network(x))


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda z: (z, z), "tuple"),
        (lambda z: {"logits": z}, "dict with logits"),
        (lambda z: None, "NoneType"),
        (lambda z: z.numpy(), "ndarray"),
    ],
)
@pytest.mark.parametrize("images", [False, True])
def test_network_that_returns_no_tensor_is_refused_in_one_sentence(wrap, named, images):
    inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()) if images else nn.Linear(1, 2)
    shape = (1, 3, 3) if images else (1,)
    classifier = PyTorchClassifier(Wrapped(wrap, inner), nn.CrossEntropyLoss(), shape, 2, device_type="cpu")
    with pytest.raises(TypeError, match=f"must return one tensor of logits, got a {named}; wrap it"):
        run(Attack("down", Shift(-0.2)), classifier=classifier, x=np.zeros((4, *shape), np.float32))


@pytest.mark.parametrize(
    "clip_values",
    [(np.zeros(3), np.ones(3)), (np.zeros(5), np.ones(5)), (np.zeros((1, 3, 2, 2)), np.ones((1, 3, 2, 2)))],
)
def test_clip_values_that_do_not_fit_the_inputs_are_refused_with_the_shape_that_does(clip_values):
    def classifier(clip_values):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        return PyTorchClassifier(model, nn.CrossEntropyLoss(), (3, 2, 2), 2, clip_values=clip_values, device_type="cpu")

    x = np.full((4, 3, 2, 2), 0.5, np.float32)
    with pytest.raises(ValueError, match=r"do not broadcast .*values for each channel have shape \(channels, 1, 1\)"):
        run(PGD(0.1, 0.1, 1), classifier=classifier(clip_values), x=x)
    per_channel = np.zeros((3, 1, 1), np.float32), np.ones((3, 1, 1), np.float32)
    assert run(PGD(0.1, 0.1, 1), classifier=classifier(per_channel), x=x).missing == ()


# Attacks that a classifier cannot have


def suite_with_autoattack(shift):
    return suite_of(Attack("down", shift), thorough(0.1).attacks[-1], eps=0.1)


@pytest.mark.parametrize(
    ("model", "shape", "classes", "reason"),
    [
        (nn.Linear(6, 3), (6,), 3, r"inputs of shape \(6,\) with 3 classes \(ValueError: .*image data"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (1, 8, 8), 2, r"shape \(1, 8, 8\) with 2 classes \(IndexError"),
    ],
)
def test_attacks_that_a_classifier_cannot_have_are_left_out_before_anything_runs(model, shape, classes, reason):
    pytest.importorskip("multiprocess")
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 1), device_type="cpu")
    shift, x = Shift(-0.05), np.full((4, *shape), 0.5, np.float32)
    y = classifier.predict(x).argmax(axis=1)
    result = evaluate(classifier, x, y, suite=suite_with_autoattack(shift), verbose=False)
    assert [attack.name for attack in result.attacks] == ["down"]
    assert result.missing == ()
    assert result.skipped[0].startswith("AutoAttack: it fails on inputs of")
    assert re.search(reason, result.skipped[0])


def test_attacks_that_a_classifier_can_have_are_run_although_others_of_their_kind_are_not():
    pytest.importorskip("multiprocess")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 3, clip_values=(0, 1), device_type="cpu")
    x = np.full((4, 1, 8, 8), 0.5, np.float32)
    options = {"eps": 0.1, "max_iter": 3}
    result = run(Built(SquareAttack, options), Built(AutoAttack, {"eps": 0.1}), classifier=classifier, x=x, eps=0.1)
    assert (result.skipped, result.missing) == ((), ())
    flat = PyTorchClassifier(nn.Linear(64, 3), nn.CrossEntropyLoss(), (64,), 3, clip_values=(0, 1), device_type="cpu")
    attacks = (Built(SquareAttack, options), Attack("built", SquareAttack(flat, eps=0.1, verbose=False)), Square(0.1))
    result = run(*attacks, classifier=flat, x=x.reshape(4, 64))
    assert [attack.name for attack in result.attacks] == ["Square-1000"]
    assert [name.partition(":")[0] for name in result.skipped] == ["SquareAttack", "built"]


def test_suite_of_which_nothing_can_run_is_refused_with_every_reason(tmp_path):
    attacks = Built(SquareAttack), Attack("transfer", Shift(0.1), Access.TRANSFER)
    with pytest.raises(
        ValueError, match=r"no attack .*SquareAttack: it fails on .*; transfer: its examples"
    ) as refused:
        run(*attacks, classifier=line(clip_values=(-1, 1)), checkpoint=tmp_path / "e.json")
    assert not list(tmp_path.iterdir())
    assert "\n" not in str(refused.value)


def test_rehearsal_leaves_the_attack_and_the_random_numbers_alone():
    classifier = line(clip_values=(-1.0, 1.0))
    attack = DeepFool(classifier, max_iter=7, verbose=False)
    before, state = dict(vars(attack)), torch.get_rng_state()
    result = run(Attack("deep", attack), classifier=classifier)
    assert dict(vars(attack)) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert result["deep"].accuracy < 0.75


# A suite by its name


def test_suite_by_name_is_that_suite(trained):
    classifier, x, y = trained
    named = evaluate(classifier, x[:20], y[:20], suite="quick", eps=0.05, verbose=False)
    made = evaluate(classifier, x[:20], y[:20], suite=quick(0.05), verbose=False)
    assert without_seconds(named) == without_seconds(made)
    half: Any = np.float32(0.5)
    euclidean = evaluate(classifier, x[:5], y[:5], suite="quick", eps=half, norm=2, verbose=False)
    assert (euclidean.norm, euclidean.eps) == ("2", 0.5)


def test_names_of_attacks_are_text_and_nothing_else(capsys):
    name = "PGD [/b] [red]x[/red]\x1b[31m"
    transfer = Attack("\x1b]0;title\x07", Shift(0), Access.TRANSFER)
    result = evaluate(line(), X, Y, suite=Suite("[/i]", 0.5, math.inf, [Attack(name, Shift(-0.2)), transfer]))
    written = capsys.readouterr().err
    assert "[/b] [red]x[/red]\\x1b[31m" in written
    assert "\x1b" not in str(result) + written
    assert "[/b]" in str(result)
    assert "[/i]: 4 examples" in str(result)
    assert "skipped: \\x1b]0;title" in str(result)


def test_quick_suite_runs_in_full_on_every_norm(trained):
    classifier, x, y = trained
    for eps, norm in ((0.05, math.inf), (0.5, 2), (2.0, 1)):
        result = evaluate(
            classifier, x[:40], y[:40], suite=quick(eps, norm), dense=classifier, batch_size=40, verbose=False
        )
        assert result.missing == result.skipped == ()
        assert [attack.name for attack in result.attacks if attack.rejected] == []
        assert result.robust_accuracy < result.clean_accuracy
        assert without_seconds(Evaluation.from_json(result.to_json())) == without_seconds(result)
