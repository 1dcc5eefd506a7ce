"""What goes wrong on the command line: damaged folders, full disks, interruptions, networks of all kinds.

Whatever a user's files, machine or network do, a command ends in one sentence and exit status 2, or works.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from typing import Any

import pytest

from art_atmc import Sparsity
from art_atmc.cli import main
from art_atmc.cli.errors import sentence
from art_atmc.experiments import comparison, rehearsal, train_and_test
from art_atmc.experiments.comparison import compare
from art_atmc.experiments.doubts import doubts
from art_atmc.experiments.seeds import repeat
from art_atmc.experiments.settings import Settings
from art_atmc.files import CompressedModel

SHORT = ("--data", "digits", "--epochs", 2, "--max-iter", 1, "--batch-size", 256, "--density", 0.3)
DAMAGES = {
    "missing": None,
    "empty": b"",
    "random": bytes(range(255, 0, -1)),
    "other JSON": b'{"settings": {"data": 3}, "schema": 1}',
    "a list": b"[1, 2]",
    "not UTF-8": b'{"data": "\xff"}',
}


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs one command in this process and returns its exit status and what it printed."""

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["art-atmc", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return run_command


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of train and one of sweep."""
    made = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        for name, extra in (("train", ()), ("sweep", ("--recipe", "AL0", "--suite", "pgd"))):
            patch.setattr(
                sys, "argv", ["art-atmc", name, *map(str, (*SHORT, *extra)), "--output", str(made / name), "--quiet"]
            )
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 0
    return made


def commands(path, network):
    """Every command that reads, on a folder of train (with settings.json) or of sweep."""
    yield "inspect", network
    yield "export", network, "--output", path / "out.npz"
    yield "bench", network, "--seconds", 0.001
    yield "evaluate", network, "--examples", 2, "--quiet"
    yield "report", path, "--output", path / "page"
    if (path / "settings.json").exists():
        yield "train", *SHORT, "--output", path, "--quiet"
    else:
        yield "sweep", *SHORT, "--recipe", "AL0", "--suite", "pgd", "--output", path, "--quiet"


def damaged(whole, tmp_path, place, damage):
    """A copy of a folder with one damaged file."""
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    (copy / place).unlink()
    if DAMAGES[damage] is not None:
        (copy / place).write_bytes(DAMAGES[damage])
    return copy


def check_damage(run, folders, tmp_path, kind, place, damage, names):
    copy = damaged(folders / kind, tmp_path, place, damage)
    network = copy if kind == "train" else copy / AL0
    for one in commands(copy, network):
        if one[0] not in names:
            continue
        status, _, said = run(*one)
        assert status in (0, 2), (one, said)
        assert "Traceback" not in said
        if status == 2:
            assert said.count("\n") <= 3, said
            assert copy.name in said or place.rpartition("/")[2] in said, said


TRAIN = ("metrics.json", "settings.json", "compressed.atmc", "compressed/model.atmc", "compressed/point.json",
         "compressed/evaluation.json", "compressed/history.jsonl", "dense/model.atmc")  # fmt: skip
AL0 = "DA-e1.AL0-d0.3-e1-s0"
SWEEP = ("study.json", f"{AL0}/model.atmc", f"{AL0}/point.json", f"{AL0}/evaluation.json", f"{AL0}/history.jsonl",
         f"{AL0}/examples.npz")  # fmt: skip
PLACES = [*(("train", place) for place in TRAIN), *(("sweep", place) for place in SWEEP)]


@pytest.mark.parametrize(("kind", "place"), PLACES)
@pytest.mark.parametrize("damage", ["missing", "other JSON"])
def test_a_damaged_file_is_named_in_one_sentence(command, folders, tmp_path, kind, place, damage):
    check_damage(command, folders, tmp_path, kind, place, damage, {"inspect", "train", "sweep"})


@pytest.mark.slow
@pytest.mark.filterwarnings("default:left out of the report")
@pytest.mark.parametrize(("kind", "place"), PLACES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_is_a_traceback_in_any_command(command, folders, tmp_path, kind, place, damage):
    every = {"inspect", "export", "bench", "evaluate", "report", "train", "sweep"}
    check_damage(command, folders, tmp_path, kind, place, damage, every)


def test_train_and_inspect_count_alike(command, folders):
    row = json.loads((folders / "train" / "metrics.json").read_text())["compressed"]
    totals = json.loads(command("inspect", folders / "train", "--json")[1])["totals"]
    assert (totals["nnz"], 8 * totals["paper_bytes"]) == (row["nnz"], row["paper_bits"])
    assert totals["file_bytes"] == row["file_bytes"]


def test_whole_folders_serve_every_command(command, folders, tmp_path):
    for kind in ("train", "sweep"):
        copy = tmp_path / kind
        shutil.copytree(folders / kind, copy)
        network = copy if kind == "train" else copy / AL0
        for one in commands(copy, network):
            status, _, said = command(*one)
            assert status == 0, (one, said)


def test_a_folder_of_many_networks_says_which_to_name(command, folders):
    status, _, said = command("inspect", folders / "sweep")
    assert status == 2
    assert f"name one of its folders: DA-e1-s0, {AL0}" in said
    assert command("inspect", folders)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "model.pt", "--format", "onnx"), "--output of --format onnx must end in .onnx, got model.pt"),
        (("--output", "model.txt"), "must end in .onnx, .pt, .pth, .safetensors, .npz"),
        (("--output", "model.npz", "--dense"), "--dense says how an ONNX graph"),
    ],
)
def test_exports_that_contradict_themselves_are_refused(command, folders, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, said = command("export", folders / "train", *arguments)
    assert (status, message in said) == (2, True), said
    assert not list(tmp_path.iterdir())
    assert command("export", folders / "train", "--output", "model.pt")[0] == 0


def test_an_export_never_takes_the_place_of_its_input(command, folders, tmp_path):
    file = tmp_path / "model.npz"
    shutil.copy(folders / "train" / "compressed.atmc", file)
    assert "is the compressed model itself" in command("export", file, "--output", file)[2]
    CompressedModel.load(file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--eps", 0), "`eps` must be positive"),
        (("--examples", -350), "Invalid value for '--examples'"),
        (("--examples", 0), "Invalid value for '--examples'"),
        (("--norm", 3), "Invalid value for '--norm'"),
    ],
)
def test_evaluate_takes_zero_for_what_it_is(command, folders, arguments, message):
    status, _, said = command("evaluate", folders / "train", *arguments, "--quiet")
    assert status == 2
    assert message.replace("`eps`", "--eps") in said


def test_a_full_disk_is_noticed_before_anything_is_trained(tmp_path):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    command = [sys.executable, "-m", "art_atmc.cli", "train", *map(str, SHORT), "--output", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=limited, env=environment, timeout=300, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("art-atmc: ")
    assert ".rehearsal.atmc: File too large" in ended.stderr
    assert not list((tmp_path / "out").rglob("*.atmc"))


# Interruptions


QUICK = Settings.resolved("digits", epochs=1, max_iter=1, batch_size=256, density=0.3)


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_an_interrupted_train_keeps_what_is_finished(tmp_path, monkeypatch):
    whole = compare(QUICK, tmp_path / "whole", verbose=False)
    fit, trained = train_and_test.fit, list[Any]()

    def counted(trainer, settings, data):
        if settings.constraints and len(trained) == 1:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append(settings.recipe)
        fit(trainer, settings, data)

    monkeypatch.setattr(train_and_test, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        compare(QUICK, tmp_path / "cut", verbose=False)
    assert not (tmp_path / "cut" / "metrics.json").exists()
    again = compare(QUICK, tmp_path / "cut", verbose=False)
    assert trained == ["DA", "interrupted", "ATMC-b"]
    for kind in ("dense", "compressed"):
        assert {**again[kind], "seconds": 0} == {**whole[kind], "seconds": 0}
    monkeypatch.setattr(train_and_test, "fit", interrupted)
    assert compare(QUICK, tmp_path / "cut", verbose=False) == again  # nothing is left to do


def test_other_settings_in_a_folder_are_listed(tmp_path, monkeypatch):
    compare(QUICK, tmp_path, dense=False, verbose=False)
    other = Settings.resolved("digits", epochs=1, max_iter=2, batch_size=256, density=0.2)
    with pytest.raises(ValueError, match=r"max_iter=1, not 2; .*constraints=\['Sparsity\(density=0.3\)', .*`output`"):
        compare(other, tmp_path, dense=False, verbose=False)
    impossible = dataclasses.replace(other, data="nowhere.npz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        compare(impossible, tmp_path, overwrite=True, verbose=False)
    CompressedModel.load(tmp_path / "compressed.atmc")  # what cannot be done takes nothing away
    monkeypatch.setattr(comparison, "rehearse", lambda *_: None)
    found = compare(other, tmp_path, dense=False, overwrite=True, verbose=False)
    assert found["compressed"]["k"] < 0.21 * found["compressed"]["dense_size"]


def test_metrics_of_another_program_stay(tmp_path):
    (tmp_path / "metrics.json").write_text('{"loss": 1}')
    with pytest.raises(FileExistsError, match="results of another run"):
        compare(QUICK, tmp_path, verbose=False)
    assert (tmp_path / "metrics.json").read_text() == '{"loss": 1}'


def test_seeds_that_are_finished_are_kept(command, tmp_path, monkeypatch):
    first = repeat(QUICK, tmp_path, 2, dense=False, verbose=False)
    fit, trained = train_and_test.fit, list[Any]()
    monkeypatch.setattr(train_and_test, "fit", lambda t, s, d: (trained.append(s.seed), fit(t, s, d)))
    more = repeat(QUICK, tmp_path, 3, dense=False, verbose=False)
    assert trained == [2]
    assert more[:2] == first
    assert json.loads((tmp_path / "seeds.json").read_text())["compressed"]["nnz"]["n"] == 3
    with pytest.raises(ValueError, match="`seeds` must be at least 2"):
        repeat(QUICK, tmp_path, 1)
    status, _, said = command("report", tmp_path, "--output", tmp_path / "page")
    assert status == 0, said
    assert "3 seeds" in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "seed-0, seed-1, seed-2" in command("inspect", tmp_path)[2]


# Said before anything is trained


NETWORKS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 16), nn.Linear(16, 10)
    def forward(self, x):
        return self.b(self.a(x.flatten(1)).relu())

class Positional(Small):
    def __init__(self):
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(1, 64))
    def forward(self, x):
        return super().forward(x.flatten(1) + self.pos)

class Extra(Small):
    def get_extra_state(self): return {"version": 1}
    def set_extra_state(self, state): pass

class Dictionary(Small):
    def forward(self, x): return {"logits": super().forward(x)}

class Broken(Small):
    def forward(self, x): return self.nothing(x)

class Moody(Small):
    def forward(self, x):
        if self.training and torch.is_grad_enabled(): raise ZeroDivisionError("no mood")
        return super().forward(x)

def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
def none(): return {}["network"]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "faulty_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty_networks", raising=False)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("Extra", "can't be encoded"),
        ("Dictionary", "must return a tensor of logits, but returned a dict"),
        ("Broken", "does not take the inputs of digits, (1, 8, 8): AttributeError"),
        ("Moody", "a dry run shows that DA on the network faulty_networks:Moody can't be trained"),
        ("Positional", "--ignore"),
        ("lazy", "has lazy layers"),
        ("none", "can't be built without arguments: KeyError: 'network'"),
    ],
)
def test_what_a_network_cannot_do_is_said_before_anything_is_trained(command, tmp_path, monkeypatch, network, message):
    monkeypatch.setattr(train_and_test.JSONLines, "on_train_start", interrupted)  # a history begins with a training
    for name in ("train", "sweep"):
        status, _, said = command(name, *SHORT, "--output", tmp_path / name, "--network", f"faulty_networks:{network}")
        assert status == 2
        assert message in said
        assert not (tmp_path / name / ("settings.json" if name == "train" else "study.json")).exists()


@pytest.mark.usefixtures("own")
def test_layers_that_stay_dense_are_counted_in_neither_network(command, tmp_path):
    arguments = (*SHORT, "--network", "faulty_networks:Positional", "--ignore", "pos", "--quiet")
    status, _, said = command("train", *arguments, "--output", tmp_path / "train")
    assert status == 0, said
    metrics = json.loads((tmp_path / "train" / "metrics.json").read_text())
    assert metrics["dense"]["dense_size"] == metrics["compressed"]["dense_size"] == 64 * 16 + 16 * 10
    recipes = ("--recipe", "AL0", "--recipe", "ATMC-2", "--suite", "pgd")
    status, out, said = command("sweep", *arguments, *recipes, "--output", tmp_path / "sweep")
    assert status == 0, said
    assert "ATMC-2 0.3" in out
    for path in (tmp_path / "sweep").glob("*AL0*/point.json"):
        assert json.loads(path.read_text())["dense_size"] == 64 * 16 + 16 * 10


def test_a_dry_run_leaves_nothing_behind_and_draws_nothing_from_the_training(tmp_path):
    once = compare(QUICK, tmp_path / "one", dense=False, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "rehearse", lambda *_: None)
        other = compare(QUICK, tmp_path / "other", dense=False, verbose=False)
    assert once["compressed"]["nnz"] == other["compressed"]["nnz"]
    files = [(tmp_path / name / "compressed.atmc").read_bytes() for name in ("one", "other")]
    assert files[0] == files[1]
    assert not (tmp_path / "one" / rehearsal.FILE).exists()


def test_a_sweep_takes_constraints_in_place_of_sizes(command, tmp_path):
    pytest.importorskip("art_atmc_structured")
    arguments = ("sweep", "--data", "digits", "--epochs", 2, "--max-iter", 1, "--suite", "pgd", "--quiet")
    chosen = ("--recipe", "AL0", "--constraint", "n-m-sparsity:n=2,m=4", "--output", tmp_path)
    status, _, said = command(*arguments, *chosen)
    assert status == 0, said
    (path,) = tmp_path.glob("*AL0*/point.json")
    point = json.loads(path.read_text())
    assert "=2" in point["constraints"][0]
    assert point["nnz"] <= 0.51 * point["dense_size"]
    assert "leave these out" in command(*arguments, *chosen, "--density", 0.1)[2]


# Sentences


def test_arguments_of_the_library_are_named_as_options():
    options = ["--max-iter", "--network", "--output"]
    for text, said in (
        ("`max_iter` must be 1", "--max-iter must be 1"),
        ("`checkpoint`=a.json holds", "--output=a.json holds"),
        ("`widgets` must be 1", "`widgets` must be 1"),
    ):
        assert sentence(ValueError(text), options) == said


def test_faults_of_ours_are_none_of_the_users():
    def raised(kind):
        try:
            if kind is TypeError:
                len(3)  # type: ignore[arg-type]
            raise kind("words")
        except Exception as error:
            return error

    for kind in (KeyError, IndexError, AttributeError, ZeroDivisionError, TypeError, RuntimeError, AssertionError):
        assert sentence(raised(kind), []) is None
    for kind in (ValueError, OSError, ImportError, MemoryError, FloatingPointError):  # type: ignore[assignment]
        assert sentence(raised(kind), []) == "words"
    with pytest.raises(TypeError) as deliberate:
        CompressedModel.of("no classifier")
    assert sentence(deliberate.value, []).startswith("`classifier` must be an ART PyTorchClassifier")


def test_a_fault_of_ours_asks_to_be_reported(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["art-atmc", "train", *map(str, SHORT), "--output", "x"])
    monkeypatch.setattr(Settings, "resolved", lambda **_: {}["a bug"])
    with pytest.raises(KeyError):
        main()
    assert "please report it" in capsys.readouterr().err


# Networks that are none


def test_dead_networks_are_doubted(folders):
    import torch

    model = CompressedModel.load(folders / "train" / "compressed" / "model.atmc")
    classifier = model.classifier(device_type="cpu")
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    learned = [{"loss": loss} for loss in (2.3, 1.5, 1.0)]
    alive = doubts(model, classifier, learned, x)
    assert not [doubt for doubt in alive if "loss" in doubt or "no weight" in doubt]
    assert "never left 2.30" in doubts(model, classifier, [{"loss": 2.3}] * 3, x)[-1]
    with torch.no_grad():
        for parameter in classifier.model.parameters():
            parameter.zero_()
    dead = CompressedModel.of(classifier)
    found = doubts(dead, classifier, learned, x)
    assert found[0].startswith("no weight is left in layers.conv1, layers.conv2")
    assert found[1] == "all 20 validation examples get the same answer"


def test_doubts_stand_in_the_table_and_the_point(command, tmp_path):
    arguments = ("train", "--data", "digits", "--epochs", 1, "--max-iter", 1, "--density", 0.0002, "--bits", 1)
    status, out, said = command(*arguments, "--no-dense", "--quiet", "--output", tmp_path)
    assert status == 0, said
    assert "compressed: no weight is left in" in out
    assert json.loads((tmp_path / "compressed" / "point.json").read_text())["doubts"]


# Progress


def test_a_log_file_gets_a_line_an_epoch(command, tmp_path):
    _, out, said = command("train", *SHORT, "--output", tmp_path / "a")
    lines = said.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 4
    assert len(lines) <= 4 + 2 * 3, said
    assert max(map(len, out.splitlines())) <= 80
    assert command("train", *SHORT, "--output", tmp_path / "b", "--quiet")[2] == ""
    assert logging.getLogger("art_atmc.experiments").handlers == []


def test_inspect_verifies_a_network_of_ones_own(command, tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(4, 3)\n"
        "        self.register_buffer('table', torch.ones(2, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import nets  # type: ignore[import-not-found]

    CompressedModel.of(nets.Net(), [Sparsity(1.0)]).save(tmp_path / "a.atmc")
    status, _, said = command("inspect", tmp_path / "a.atmc", "--verify")
    assert (status, "not applied to ['table']" in said) == (2, True), said
    status, _, said = command("inspect", tmp_path / "a.atmc", "--verify", "--network", "nets:Net")
    assert (status, "the weights obey Sparsity(density=1.0)" in said) == (0, True), said
