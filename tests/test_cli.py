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

from art_atmc import CompressedModel
from art_atmc.cli import main
from art_atmc.data import load
from art_atmc.experiments.comparison import compare
from art_atmc.experiments.settings import Settings
from art_atmc.networks import NETWORKS

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def art_atmc(*arguments):
    command = [sys.executable, "-W", "error", "-m", "art_atmc.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs one command in this process, with the exit status it must have, and returns its output."""

    def run_command(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["art-atmc", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert end.value.code == status, printed.err
        return printed

    return run_command


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
    assert "…" not in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 80


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
            "name": "PGD", "eps": 0.1, "eps_step": pytest.approx(0.25 / 7), "max_iter": 7, "norm": "inf",
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
    small = CompressedModel.load(run[1] / "compressed.atmc")
    small.verify()
    assert small.weights().nnz() == metrics["compressed"]["nnz"]
    assert small.manifest.metrics["robust_accuracy"] == metrics["compressed"]["robust_accuracy"]
    assert metrics["compressed"]["file_bytes"] == (run[1] / "compressed.atmc").stat().st_size
    assert metrics["dense"]["file_bytes"] == (run[1] / "dense.safetensors").stat().st_size
    dense = NETWORKS["digits-cnn"](10)
    dense.load_state_dict(load_file(run[1] / "dense.safetensors"))


def test_the_accuracy_in_the_file_is_that_of_the_file(run):
    data = load("digits")
    classifier = CompressedModel.load(run[1] / "compressed.atmc").classifier(device_type="cpu")
    accuracy = (classifier.predict(data.x_test).argmax(1) == data.y_test).mean()
    assert accuracy == json.loads((run[1] / "metrics.json").read_text())["compressed"]["clean_accuracy"]


def test_inspect_shows_sizes_beside_the_real_bytes(run, command):
    shown = command("inspect", run[1] / "compressed.atmc", "--verify")
    assert "weights obey Sparsity(density=0.1), Quantization(bits=4)" in shown.err
    size = f"{(run[1] / 'compressed.atmc').stat().st_size:,}"
    for part in ("layers.fc1 ", "paper", "payload", size, "digits-cnn"):
        assert part in shown.out
    report = json.loads(command("inspect", run[1] / "compressed.atmc", "--json").out)
    assert report["totals"]["file_bytes"] == (run[1] / "compressed.atmc").stat().st_size


@pytest.mark.parametrize("suffix", ["onnx", "pt", "npz"])
def test_export_writes_what_others_read(run, command, tmp_path, suffix):
    if suffix == "onnx":
        pytest.importorskip("onnxscript")
    kind = {"onnx": "onnx", "pt": "state-dict", "npz": "npz"}[suffix]
    output = tmp_path / f"model.{suffix}"
    shown = command("export", run[1] / "compressed.atmc", "--output", output, "--format", kind)
    assert f"{output.stat().st_size:,} bytes" in shown.out
    if suffix == "pt":
        NETWORKS["digits-cnn"](10).load_state_dict(torch.load(output, weights_only=True))


def test_bench_times_the_ways_to_run(run, command):
    rows = json.loads(command("bench", run[1] / "compressed.atmc", "--json", "--seconds", 0.01).out)
    assert {row["batch_size"] for row in rows} == {1, 64}
    assert "dense torch" in command("bench", run[1] / "compressed.atmc", "--seconds", 0.01).out


def test_network_of_ones_own_is_built_from_its_name(run, command, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from art_atmc.networks import lenet\nnone = lambda: None\n")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "model.onnx"
    for network, message in (
        ("mine:lenet", "does not fit the compressed model"),
        ("mine:nothing", "can't be imported"),
        ("mine", "package.module:function, got mine"),
        ("mine:none", "must return a torch module, but returned a NoneType"),
    ):
        arguments = ("export", run[1] / "compressed.atmc", "--output", output, "--network", network)
        assert message in command(*arguments, status=2).err


def test_files_that_are_none_end_in_one_sentence(command, tmp_path):
    (tmp_path / "x.atmc").write_bytes(b"no such thing")
    for name, message in (("x.atmc", "no art-atmc file"), ("y.atmc", "No such file")):
        assert message in command("inspect", tmp_path / name, status=2).err


def test_plugins_are_listed_shown_and_checked(command):
    assert "sparsity" in command("plugins", "list").out
    names = {row["name"] for row in json.loads(command("plugins", "list", "--json").out)}
    assert {"sparsity", "quantization"} <= names
    assert "density: float" in command("plugins", "info", "sparsity").out
    assert "Sparsity(density=0.3) obeys" in command("plugins", "check", "sparsity:density=0.3").out
    assert "laws of an attack" in command("plugins", "check", "pgd:eps=0.1,eps_step=0.05,max_iter=2").out
    assert "laws of an objective" in command("plugins", "check", "trades:beta=2", "--kind", "objective").out
    assert "installed are" in command("plugins", "info", "nothing", status=2).err


def test_attacks_and_objectives_by_name_are_trained_with(tmp_path):
    pgd = "pgd:eps=0.05,eps_step=0.05,max_iter=1"
    named = Settings.resolved("digits", attack=(pgd,), objective="trades:beta=2", epochs=1, bits=32)
    assert repr(named.objective).startswith("TRADES(attack=PGD(eps=0.05")
    assert repr(named.attack) == repr(named.objective.attack)
    metrics = compare(named, tmp_path, dense=False, verbose=False)
    assert metrics["settings"]["own_attacks"] == [pgd]
    alone = Settings.resolved("digits", attack=(pgd,), clean_share=0.5)
    assert repr(alone.objective).startswith("Adversarial(attack=PGD(eps=0.05")
    usual = Settings.resolved("digits", objective="adversarial:clean_share=0.5")
    assert usual.objective == Settings.resolved("digits", clean_share=0.5).objective
    assert "own_attacks" not in Settings.resolved("digits").plain()
    for wrong, said in (
        ({"attack": (pgd, pgd)}, "given 2 times"),
        ({"attack": (pgd, pgd), "objective": "trades"}, "takes one `attack`, got 2"),
        ({"objective": "trades", "clean_share": 0.5}, "give `clean_share` to the objective"),
        ({"objective": "nothing"}, "there is no objective `nothing`"),
        ({"attack": ("pgd:eps=0.1",)}, "`eps_step` is missing"),
    ):
        with pytest.raises(ValueError, match=said):
            Settings.resolved("digits", **wrong)  # type: ignore[arg-type]


def test_constraints_by_name_are_those_of_the_options(tmp_path):
    named = Settings.resolved(
        "digits", constraint=("sparsity:density=0.1", "quantization:bits=3"), ignore=("layers.fc2",), epochs=1
    )
    assert named.constraints == Settings.resolved("digits", density=0.1, bits=3).constraints
    metrics = compare(named, tmp_path, dense=False, verbose=False)
    assert metrics["settings"]["constraints"] == ["Sparsity(density=0.1)", "Quantization(bits=3)"]
    assert "layers.fc2.weight.V" not in {tensor["name"] for tensor in metrics["compressed"]["tensors"]}


def test_a_file_of_ones_own_trains_and_a_seed_reproduces(tmp_path):
    generator = np.random.default_rng(0)
    y = np.arange(200) % 3
    x = (generator.random((200, 1, 8, 8)) * 0.3 + y[:, None, None, None] * 0.3).astype(np.float32)
    np.savez(tmp_path / "own.npz", x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:])
    results = []
    for name in ("a", "b"):
        settings = Settings.resolved(str(tmp_path / "own.npz"), network="digits-cnn", density=0.2, bits=32, epochs=2)
        metrics = compare(settings, tmp_path / name, dense=False, verbose=False)
        assert "dense" not in metrics
        results.append((tmp_path / name / "compressed.atmc").read_bytes())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--density", "0"), "--density must be in (0, 1]"),
        (("--bits", "40"), "--bits must be an integer"),
        (("--eps", "-1"), "--eps must be"),
        (("--norm", "3"), "'3' is not one of 'inf', '2', '1'"),
        (("--network", "vgg"), "--network must be one of"),
        (("--network", "lenet"), "takes images of shape (1, 28, 28), but digits holds (1, 8, 8)"),
        (("--epochs", "0"), "--epochs must be at least 1"),
        (("--clean-share", "1"), "--clean-share must be"),
        (("--constraint", "sparsity:density=0.1", "--bits", "4"), "either --constraint, or --density and --bits"),
        (("--constraint", "sparsity:densty=0.1"), "did you mean `density`"),
        (("--constraint", "sparsty:density=0.1"), "`sparsity`"),
        (
            ("--target", "roundness=3"),
            "nothing installed serves the targets roundness: install the plug-in art-atmc-dist",
        ),
        (("--target", "file-bytes"), "--target must be NAME=NUMBER"),
        (("--target", "file-bytes=1", "--target", "file-bytes=2"), "--target file-bytes is given twice"),
        (("--ignore", "fc9"), "match no weight"),
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


class Point:
    """An entry point whose function notes what it is given."""

    def __init__(self, name, value="plugin:serve"):
        self.name, self.value, self.given = name, value, []

    def load(self):
        return self

    def __call__(self, targets, settings, output, verbose):
        self.given.append((targets, settings, output, verbose))
        return {"target": targets, "density": 0.1, "file_bytes": 9, "clean_accuracy": 1, "robust_accuracy": 0.5}


def test_targets_are_handed_to_the_plugin_that_serves_them(tmp_path, monkeypatch, capsys):
    points = [Point("roundness"), Point("weight", "another:serve")]
    monkeypatch.setattr("art_atmc.cli.targets.metadata.entry_points", lambda group: points)
    command = ["art-atmc", "train", "--data", "digits", "--output", str(tmp_path), "--target", "roundness=3", "--quiet"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    ((targets, settings, output, verbose),) = points[0].given
    assert (targets, output, verbose) == ({"roundness": 3.0}, tmp_path, False)
    assert settings == Settings.resolved("digits")
    assert "asked for roundness 3: density 0.1, 9 bytes" in " ".join(capsys.readouterr().out.split())
    for more, message in (
        (("--density", "0.1"), "leave --density, --seeds and --overwrite out"),
        (("--target", "weight=1"), "belong to"),
    ):
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_zero_is_not_taken_for_a_default():
    for settings in ({"eps": 0.0}, {"eps_step": 0.0}, {"test_max_iter": 0}):
        with pytest.raises(ValueError, match="must be"):
            Settings.resolved("digits", **settings)


def test_help_takes_little_more_than_the_library_that_prints_it():
    def seconds(*command: str) -> float:
        """Processor time: what a user waits on an idle machine, whatever else this one is doing."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], capture_output=True, env=ENVIRONMENT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # In turns, as a machine's speed changes; the fastest of each was disturbed least. It is 1.6, with torch 9.
    pairs = [(seconds("-m", "art_atmc.cli", "--help"), seconds("-c", "import typer.rich_utils")) for _ in range(4)]
    help_, library = map(min, zip(*pairs, strict=True))
    assert help_ < 3 * library


@pytest.mark.parametrize("module", ["art_atmc", "art_atmc.cli"])
def test_importing_the_package_imports_neither_torch_nor_art(module):
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {{'torch', 'art', 'sklearn', 'numpy', 'scipy'}}))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_public_names_are_all_there():
    import art_atmc

    for name in dir(art_atmc):
        assert getattr(art_atmc, name).__doc__, name
    assert {
        "ATMCTrainer", "ObjectiveTrainer", "Adversarial", "TRADES", "PGD", "Constraint", "Sparsity", "Quantization",
        "Solver", "ProjectedGradient", "ADMM", "enforced", "decompose", "recompose", "compressible",
        "CompressedClassifier", "CompressedModel",
    } <= set(dir(art_atmc))  # fmt: skip
    with pytest.raises(AttributeError, match="attribute Sparsty"):
        art_atmc.Sparsty  # type: ignore[attr-defined]
