"""The evaluation's loop: worst cases, restarts, interruptions, refusals."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import random
import sys

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoAttack, DeepFool, FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.preprocessing import Preprocessor
from torch import nn

from art_atmc import PGD, CompressedClassifier
from art_atmc.attacks.base import Adversary, Problem
from art_atmc.evaluation import (
    APGD,
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
from art_atmc.evaluation.fingerprints import seed_of

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
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1,), 2, device_type="cpu", **options)


X = np.array([[0.1], [0.3], [0.6], [-0.1]], dtype=np.float32)
Y = np.zeros(4, dtype=np.int64)  # the last one is misclassified


def suite_of(*attacks, eps=0.5, norm=math.inf, name="mine") -> Suite:
    return Suite(name, eps, norm, attacks)


def run(*attacks, classifier=None, x=X, y=Y, eps=0.5, **options) -> Evaluation:
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


def test_attacks_that_fell_different_examples_add_up(trained):
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
    assert after[0] > after[-1]  # restarts felled some


def test_only_examples_that_stand_are_attacked():
    shift = Shift(-0.2)
    run(Attack("down", shift, restarts=3), batch_size=2)
    assert shift.sizes == [2, 1, 2, 2]  # the misclassified one never, the felled one once


def test_nothing_is_attacked_where_nothing_stands():
    shift = Shift(-0.2)
    result = run(Attack("down", shift, restarts=2), y=np.array([1, 1, 1, 0]))
    assert shift.sizes == []
    assert result.robust_accuracy == 0


def test_points_outside_the_ball_fell_nothing_and_are_counted():
    result = run(Attack("far", Shift(-0.5001), restarts=2), Attack("near", Shift(-0.5)))
    assert result["far"].correct.tolist() == result.clean.tolist()
    assert result["far"].rejected == 6
    assert (result["near"].rejected, result["near"].accuracy) == (0, 0.25)


def test_points_outside_the_clip_values_fell_nothing():
    classifier = line(clip_values=(0.0, 1.0))
    result = run(Attack("down", Shift(-0.2)), classifier=classifier, x=X[:3], y=Y[:3])
    assert result["down"].accuracy == 1
    assert result["down"].rejected == 1


def test_points_that_are_not_numbers_fell_nothing():
    assert run(Attack("nan", Shift(math.nan)))["nan"].correct.tolist() == [True, True, True, False]


def test_unbounded_attack_may_leave_the_ball_but_is_no_part_of_the_worst_case():
    result = run(Attack("far", Shift(-0.7), bounded=False), Attack("up", Shift(0.1)))
    assert result["far"].accuracy == 0
    assert result["far"].rejected == 0
    assert result.robust_accuracy == result.clean_accuracy


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
    result = run(PGD(0.05, 0.02, 5, random_start=False), classifier=shifted, x=2 * x + 0.5, y=y, eps=0.1)
    np.testing.assert_array_equal(result.clean, expected)
    assert result.robust_accuracy < result.clean_accuracy


def test_one_hot_labels_and_tensors_are_taken(trained):
    classifier, x, y = trained
    expected = run(PGD(0.05, 0.02, 3), classifier=classifier, x=x, y=y).worst_case
    for labels in (np.eye(10)[y], y[:, None], y.astype(np.float64), torch.from_numpy(y), list(y)):
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
        ({"classifier": line(preprocessing=(1.0, 1.0))}, "clean"),
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
        ({"y": np.array(["a"] * 4)}, TypeError, "must hold numbers"),
        ({"y": np.array([True] * 4)}, TypeError, "must hold numbers"),
        ({"y": np.full((4, 2), 0.5)}, ValueError, "0 and 1 only"),
        ({"y": np.zeros((4, 2))}, ValueError, "sum to 1"),
        ({"y": np.zeros((4, 3), int)}, ValueError, r"one-hot labels \(n, 2\)"),
        ({"y": 0}, ValueError, "single number"),
        ({"x": X[:, 0]}, ValueError, "the classifier takes"),
        ({"x": X[:, :, None]}, ValueError, "the classifier takes"),
        ({"x": np.where(X > 0.5, np.nan, X)}, ValueError, "NaN"),
        ({"x": np.where(X > 0.5, np.inf, X)}, ValueError, "infinite"),
        ({"x": np.array([["a"]] * 4)}, ValueError, "give numbers"),
        ({"classifier": line(clip_values=(0.0, 1.0))}, ValueError, "outside the classifier's clip values"),
        ({"classifier": nn.Linear(1, 2)}, TypeError, "`classifier` must be an ART PyTorchClassifier"),
        ({"dense": nn.Linear(1, 2)}, TypeError, "`dense` must be an ART PyTorchClassifier"),
        ({"suite": "thorogh"}, TypeError, "'thorogh'; make one by art_atmc.evaluation.quick, standard, thorough"),
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


class Halved(Preprocessor):
    """In numpy, so without a gradient."""

    def __init__(self):
        super().__init__(apply_fit=False, apply_predict=True)

    def __call__(self, x, y=None):
        return x / 2, y


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
