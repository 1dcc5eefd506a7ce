"""Recipes, sweeps and searches on digits: short, but real trainings."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from art_atmc import CompressedModel, Quantization, Sparsity
from art_atmc.evaluation import Evaluation
from art_atmc.experiments import curve as curves
from art_atmc.experiments import study as module
from art_atmc.experiments import train_and_test as one_network
from art_atmc.experiments.point import Examples, Point, points
from art_atmc.experiments.recipes import RECIPES, Schedule
from art_atmc.experiments.settings import Settings
from art_atmc.experiments.study import Study
from art_atmc.experiments.sweep import Search, _trials, search, sweep

SETTINGS = Settings.resolved("digits", epochs=4, max_iter=2, lr=0.1, suite="test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every recipe once, at density 0.2 and 3 bits."""
    folder = tmp_path_factory.mktemp("study")
    study = Study(SETTINGS, folder, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "STEPS", 4)
        found = sweep(study, study.grid(list(RECIPES), [0.2], [3], [0]))
    return study, folder, {point.recipe: point for point in found}


def test_every_recipe_ends_on_a_point_that_obeys_its_constraints(folder):
    study, path, found = folder
    assert list(found) == list(RECIPES)
    for name, point in found.items():
        model = CompressedModel.load(path / study.stage(name, 0.2, 3, 0).name / "model.atmc")
        model.verify()
        weights = model.weights()
        assert point.nnz == weights.nnz()
        assert point.file_bytes == model.file_bytes
        assert point.epochs == 4
        if RECIPES[name].sparse:
            assert point.nnz <= 0.2 * point.dense_size
            assert Sparsity(0.2).violation(weights) == 0
        else:
            assert (point.density, point.bits, point.paper_ratio) == (1, 32, 1)
        if RECIPES[name].coded:
            assert Quantization(3).violation(weights) == 0
            assert point.paper_ratio < 0.05
        elif RECIPES[name].sparse:
            assert point.paper_ratio == point.nnz / point.dense_size
        assert bool(model.index.factored) == RECIPES[name].factored


def test_figures_are_those_of_the_evaluation(folder):
    study, path, found = folder
    for name, point in found.items():
        evaluation = Evaluation.load(path / study.stage(name, 0.2, 3, 0).name / "evaluation.json")
        assert not evaluation.missing
        assert (point.clean.correct, point.robust.correct) == (evaluation.clean.sum(), evaluation.worst_case.sum())
        assert set(point.attacks) == {"PGD-2", "paper-2", "Square-100"}
        assert point.robust.correct <= min(accuracy.correct for accuracy in point.attacks.values())
        low, high = point.clean.interval
        assert low <= point.clean.share <= high


def test_curves_begin_at_the_clean_accuracy_and_fall(folder):
    study, path, found = folder
    point = found["DA"]
    x, y = study.dataset.x_test, study.dataset.y_test
    classifier = CompressedModel.load(path / "DA-e4-s0" / "model.atmc").classifier()
    right = int((classifier.predict(x).argmax(1) == y).sum())
    assert point.curve.n == len(x)
    assert point.curve.correct[0] == point.clean.correct == right
    assert point.curve.eps[4] == SETTINGS.eps
    assert point.curve.correct[-1] < right / 2
    shown = Examples.load(path / "DA-e4-s0")
    assert np.abs(shown.x_adv - shown.x).max() <= SETTINGS.eps + 1e-6
    assert np.array_equal(classifier.predict(shown.x_adv).argmax(1), shown.predicted_adv)
    assert np.array_equal(shown.x, x[:8])


def test_the_pruned_keep_the_support_of_the_dense_network_they_start_from(folder):
    study, path, _ = folder
    for dense, pruned in (("DA-e2-s0", "AP"), ("ND-e2-s0", "NAP")):
        before = Sparsity(0.2).project(CompressedModel.load(path / dense / "model.atmc").weights())
        after = CompressedModel.load(path / study.stage(pruned, 0.2, 3, 0).name / "model.atmc").weights()
        for name, weight in after.items():
            assert not (weight[before[name] == 0] != 0).any()
            assert not torch.equal(weight, before[name])


def test_a_second_sweep_trains_nothing(folder, monkeypatch):
    study, _, found = folder
    monkeypatch.setattr(one_network, "new_trainer", None)
    assert sweep(study, study.grid(["AP", "DA"], [0.2], [3], [0])) == [found["AP"], found["DA"]]


def test_points_come_sorted_and_survive_their_file(folder):
    _, path, found = folder
    read = points(path)
    assert [p.recipe for _, p in read] == sorted(found)
    assert all(p == found[p.recipe] for _, p in read)
    assert {p.label for _, p in read} >= {"DA", "ATMC-3 0.2", "ATMC-32 0.2", "AL0 0.2"}


def test_sizes_that_a_recipe_cannot_have_are_left_out(tmp_path, capsys, monkeypatch):
    study = Study(SETTINGS, tmp_path, curves=False, verbose=False)
    trained = []
    monkeypatch.setattr(Study, "point", lambda _, stage: trained.append(stage.name))
    stages = study.grid(["AL0", "ALR"], [0.2, 0.01], [32], [0])
    sweep(study, stages)
    assert set(trained) == {stage.name for stage in stages} - {study.stage("ALR", 0.01, 32, 0).name}
    assert "is left out: low rank needs 915 entries" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no network can be trained"):
        sweep(study, [study.stage("ALR", 0.01, 32, 0), study.stage("AL0", 1e-6, 32, 0)])
    with pytest.raises(ValueError, match="low rank needs"):
        search(study, Search("ALR", (0.01, 0.2)))


def test_other_conditions_in_one_folder_are_refused(folder):
    study, _, _ = folder
    other = dataclasses.replace(study, settings=dataclasses.replace(SETTINGS, lr=0.01))
    with pytest.raises(ValueError, match=r"lr=0\.1, not 0\.01; choose another `output`"):
        sweep(other, other.grid(["DA"], [0.2], [3], [0]))


def test_damaged_points_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no finished points"):
        points(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "point.json").write_text('{"recipe": "DA"}')
    with pytest.raises(ValueError, match=r"point\.json is not a point.*density"):
        points(tmp_path)


def test_a_point_of_a_newer_version_is_refused(folder, tmp_path):
    _, _, found = folder
    dataclasses.replace(found["DA"], schema=2).save(tmp_path)
    with pytest.raises(ValueError, match="schema 1, .*another version of art-atmc"):
        Point.load(tmp_path)


def test_the_reference_schedule_warm_starts_stage_by_stage(tmp_path):
    study = Study(SETTINGS, tmp_path, Schedule.REFERENCE, curves=False, verbose=False)
    (point,) = sweep(study, [study.stage("ATMC-b", 0.2, 3, 0)])
    assert point.stages == (("DA", 4), ("AL0", 4), ("ATMC-32", 4), ("ATMC-b", 3))
    assert point.curve is None
    trained = {path.parent.name for path in tmp_path.glob("*/model.atmc")}
    assert len(trained) == 4
    rows = [json.loads(line) for line in next(tmp_path.glob("*ATMC-b*/history.jsonl")).read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["ATMC-b"] * 3
    # Warm: its first epoch begins where the sparse network ended, far from a fresh network's loss.
    assert rows[0]["loss"] < json.loads((tmp_path / "DA-e4-s0" / "history.jsonl").read_text().splitlines()[0])["loss"]


WORKER = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from art_atmc.experiments.settings import Settings
from art_atmc.experiments.study import Study
from art_atmc.experiments.sweep import sweep
settings = Settings.resolved("digits", epochs=2, max_iter=1, batch_size=256, suite="test")
study = Study(settings, Path(sys.argv[1]), curves=False, verbose=False)
sweep(study, study.grid(["AP", "AL0", "ATMC-b"], [0.2, 0.1], [3], [0]))
"""


def test_processes_share_a_folder_and_a_killed_one_is_taken_over(tmp_path):
    def worker():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], env=environment)

    killed = worker()
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/model.atmc")) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    both = [worker(), worker()]
    assert [process.wait(timeout=240) for process in both] == [0, 0]
    assert len(points(tmp_path)) == 6
    assert (tmp_path / "DA-e1-s0" / "model.atmc").exists()


def test_a_search_uses_validation_figures_and_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    study = Study(SETTINGS, tmp_path, curves=False, verbose=False)
    wanted = Search("ATMC-b", (0.1, 0.3), (2, 4), trials=2)
    first = search(study, wanted)
    assert len(first) == 2
    more = search(study, dataclasses.replace(wanted, trials=3))
    assert len(more) == 3
    assert {p.density for p in first} <= {p.density for p in more}
    assert all(0.1 <= p.density <= 0.3 and 2 <= p.bits <= 4 for p in more)
    journal = (tmp_path / "journal.log").read_text()
    for point in more:
        assert repr(point.validation[1])[:8] in journal
    monkeypatch.setattr(one_network, "new_trainer", None)  # nothing is trained again
    assert search(study, dataclasses.replace(wanted, trials=3)) == more


@pytest.mark.parametrize(
    "content",
    [
        b"garbage\n",
        b"{}\n",
        b"[1]\n",
        b'{"op_code": 99}\n',
        b'{"op_code": 0, "worker_id": "a"}\n',
        b"\x00\xff",
    ],
)
def test_a_journal_that_is_none_is_named_with_what_to_do(tmp_path, content):
    optuna, path, wanted = pytest.importorskip("optuna"), tmp_path / "journal.log", Search("AL0", (0.01, 0.2))
    assert _trials(optuna, path, wanted).trials == []
    assert _trials(optuna, path, wanted).trials == []  # read back
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"journal.log is not a journal of Optuna.*delete it; finished networks are"):
        _trials(optuna, path, wanted)


def test_a_search_asks_again_for_what_a_killed_process_left(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    study = Study(SETTINGS, tmp_path, curves=False, verbose=False)
    wanted = Search("AL0", (0.1, 0.3), trials=1)

    def killed(*_, **__):
        raise SystemExit  # as a signal would: Optuna does not see the end of the trial

    monkeypatch.setattr(one_network, "evaluate", killed)
    with pytest.raises(SystemExit):
        search(study, wanted)
    begun = {path.parent.name for path in tmp_path.glob("*AL0*/model.atmc")}
    monkeypatch.undo()
    (point,) = search(study, wanted)
    assert begun == {study.stage("AL0", point.density, 32, 0).name}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("DA", (0.1, 0.2)), "needs a recipe that compresses: NAP"),
        (("AL0", (0.2, 0.1)), "0 < least <= greatest"),
        (("AL0", (0.1, 0.2), (2, 17)), "1..16 for bits"),
        (("AL0", (0.1, 0.2), (2, 4), 0), "`trials` must be at least 1"),
    ],
)
def test_searches_out_of_range_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Search(*arguments)


def test_optuna_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'art-atmc\[sweep\]'"):
        search(Study(SETTINGS, tmp_path, verbose=False), Search("AL0", (0.1, 0.2)))


def test_unknown_suites_are_refused():
    with pytest.raises(ValueError, match="`suite` must be one of pgd, test, quick"):
        Settings.resolved("digits", suite="slow")


def test_test_data_plays_no_part_in_training(tmp_path, monkeypatch):
    """Networks are the same, bit for bit, whatever the test data."""
    made = []
    for change in (0.0, 0.5):
        study = Study(SETTINGS, tmp_path / str(change), curves=False, verbose=False)
        original = module.load("digits")
        x_test = np.clip(original.x_test + change, 0, 1).astype(np.float32)
        monkeypatch.setattr(module, "load", lambda *_, d=dataclasses.replace(original, x_test=x_test): d)
        (point,) = sweep(study, [study.stage("AL0", 0.2, 3, 0)])
        model = CompressedModel.load(study.folder(study.stage("AL0", 0.2, 3, 0)) / "model.atmc")
        made.append((point, model.tensors))
        monkeypatch.undo()
    assert made[0][1] == made[1][1]
    assert made[0][0].clean != made[1][0].clean
