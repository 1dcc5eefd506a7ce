"""The command line as a user meets it: in processes of its own, on digits and on a file of the user's."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from art_atmc.cli import main
from art_atmc.experiment import Experiment
from art_atmc.networks import NETWORKS

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def art_atmc(*arguments):
    command = [sys.executable, "-W", "error", "-m", "art_atmc.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "digits"
    finished = art_atmc("train", "--data", "digits", "--output", output, "--epochs", 4, "--density", 0.1, "--quiet")
    assert finished.returncode == 0, finished.stderr
    return finished, output


def test_train_prints_one_table(run):
    finished, _ = run
    assert "dense" in finished.stdout
    assert "compressed" in finished.stdout
    assert "52,768" in finished.stdout
    assert " 5,276 " in finished.stdout


def test_metrics_hold_what_was_done_and_found(run):
    metrics = json.loads((run[1] / "metrics.json").read_text())
    assert metrics["schema"] == 1
    assert metrics["settings"]["constraints"] == ["Sparsity(density=0.1)", "Quantization(bits=4)"]
    assert metrics["data"]["train"] + metrics["data"]["validation"] + metrics["data"]["test"] == 1797
    for kind in ("dense", "compressed"):
        low, high = metrics[kind]["robust_interval"]
        assert low < metrics[kind]["robust_accuracy"] < high
        assert metrics[kind]["robust_accuracy"] <= metrics[kind]["clean_accuracy"]
        assert metrics[kind]["attack"] == {
            "name": "PGD", "eps": 0.1, "eps_step": pytest.approx(0.125 / 7), "max_iter": 7, "norm": "inf",
            "random_start": True, "restarts": 1, "momentum": 0.0,
        }  # fmt: skip
    small = metrics["compressed"]
    assert small["nnz"] <= small["k"] == 5276
    assert sum(t["nnz"] for t in small["tensors"]) == small["nnz"]
    assert max(t["distinct"] for t in small["tensors"]) <= 16
    assert 0 < small["paper_ratio"] < 0.1
    assert metrics["dense"]["paper_bits"] == 32 * 52768


def test_history_has_a_line_an_epoch(run):
    rows = [json.loads(line) for line in (run[1] / "history.jsonl").read_text().splitlines()]
    assert [(row["model"], row["epoch"]) for row in rows] == [
        (m, e) for m in ("dense", "compressed") for e in (1, 2, 3, 4)
    ]


def test_weights_on_disk_are_those_that_were_counted(run):
    metrics = json.loads((run[1] / "metrics.json").read_text())
    state = load_file(run[1] / "compressed.safetensors")
    factors = [t for name, t in state.items() if "parametrizations" in name]
    assert sum(int(t.count_nonzero()) for t in factors) == metrics["compressed"]["nnz"]
    dense = NETWORKS["digits-cnn"](10)
    dense.load_state_dict(load_file(run[1] / "dense.safetensors"))


def test_results_are_not_overwritten_unasked(run):
    with pytest.raises(FileExistsError, match="--overwrite"):
        Experiment("digits").run(run[1])


def test_a_file_of_ones_own_trains_and_a_seed_reproduces(tmp_path):
    generator = np.random.default_rng(0)
    y = np.arange(200) % 3
    x = (generator.random((200, 1, 8, 8)) * 0.3 + y[:, None, None, None] * 0.3).astype(np.float32)
    np.savez(tmp_path / "own.npz", x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:])
    results = []
    for name in ("a", "b"):
        experiment = Experiment(
            str(tmp_path / "own.npz"), network="digits-cnn", density=0.2, bits=32, epochs=2, dense=False
        )
        metrics = experiment.run(tmp_path / name, verbose=False)
        assert "dense" not in metrics
        results.append(load_file(tmp_path / name / "compressed.safetensors"))
    assert all(torch.equal(t, results[1][name]) for name, t in results[0].items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--density", "0"), "`density` must be in (0, 1]"),
        (("--bits", "40"), "`bits` must be an integer"),
        (("--eps", "-1"), "`eps`"),
        (("--norm", "3"), "`--norm` must be"),
        (("--network", "vgg"), "`--network` must be one of"),
        (("--network", "lenet"), "takes images of shape (1, 28, 28), but digits holds (1, 8, 8)"),
        (("--epochs", "0"), "`--epochs`"),
        (("--clean-share", "1"), "`clean_share`"),
        (("--data", "mnist"), "--data-dir"),
        (("--data", "nowhere.npz", "--network", "lenet"), "nowhere.npz"),
    ],
)
def test_bad_settings_end_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    command = ["art-atmc", "train", "--data", "digits", "--output", str(tmp_path / "out"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_zero_is_not_taken_for_a_default():
    for settings in ({"eps": 0.0}, {"eps_step": 0.0}, {"test_max_iter": 0}):
        with pytest.raises(ValueError, match="must be"):
            Experiment("digits", **settings)


def test_help_answers_in_half_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "train" in art_atmc("--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: what a user waits on an idle machine, whatever else this one is doing.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("module", ["art_atmc", "art_atmc.cli"])
def test_importing_the_package_imports_neither_torch_nor_art(module):
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {{'torch', 'art', 'sklearn', 'numpy', 'scipy'}}))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_public_names_are_all_there():
    import art_atmc

    for name in art_atmc.__all__:
        assert getattr(art_atmc, name).__doc__, name
    assert {
        "ATMCTrainer", "ObjectiveTrainer", "Adversarial", "TRADES", "PGD", "Constraint", "Sparsity", "Quantization",
        "Solver", "ProjectedGradient", "ADMM", "enforced", "decompose", "recompose", "compressible",
        "CompressedClassifier",
    } <= set(art_atmc.__all__)  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'Sparsty'"):
        art_atmc.Sparsty
