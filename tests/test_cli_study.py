"""evaluate, sweep, report and reproduce as a user meets them, on digits and on made-up MNIST files."""

from __future__ import annotations

import gzip
import json
import re
import sys

import numpy as np
import pytest

from art_atmc import CompressedModel
from art_atmc.cli import main
from art_atmc.evaluation import Evaluation
from art_atmc.experiments.comparison import compare
from art_atmc.experiments.paper import curves, interpolated
from art_atmc.experiments.point import Accuracy, points
from art_atmc.experiments.reproduce import PANELS, distances, markdown
from art_atmc.experiments.settings import Settings


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs one command in this process and returns its output."""

    def run_command(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["art-atmc", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert end.value.code == status, printed.err
        return printed

    return run_command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("train") / "run"
    compare(Settings.resolved("digits", epochs=3, max_iter=2, lr=0.1, density=0.3, bits=4), output, verbose=False)
    return output


@pytest.fixture
def mnist(tmp_path):
    """The files of MNIST, with made-up images of few pixels."""
    rng = np.random.default_rng(0)
    for stem, number in (("train", 120), ("t10k", 40)):
        labels = np.arange(number, dtype=np.uint8) % 10
        images = np.zeros((number, 28, 28), np.uint8)
        images[np.arange(number), 2 * labels + 3, 4:24] = 255
        images += rng.integers(0, 9, images.shape, dtype=np.uint8)
        header = (b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)) + images.tobytes()
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header))
        header = b"\0\0\x08\x01" + number.to_bytes(4, "big") + labels.tobytes()
        (tmp_path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header))
    return tmp_path


def test_evaluate_knows_a_run_and_transfers_from_its_dense_network(command, trained, tmp_path):
    output = tmp_path / "evaluation.json"
    printed = command("evaluate", trained, "--examples", 60, "--output", output, "--quiet").out
    assert "worst case" in printed
    assert "transfer" in printed
    result = Evaluation.load(output)
    assert (result.suite, result.eps, result.norm, len(result.clean)) == ("quick", 0.1, "inf", 60)
    assert not result.missing
    assert not result.skipped
    assert result["transfer"].seconds > 0
    assert result.findings
    again = command("evaluate", trained, "--examples", 60, "--output", output, "--quiet").out
    assert again == printed  # nothing is run again


def test_evaluate_takes_a_file_once_it_is_told_the_data(command, trained, tmp_path):
    said = command("evaluate", trained / "compressed.atmc", "--quiet", status=2).err
    assert "give --data and --eps" in said
    printed = command(
        "evaluate", trained / "compressed.atmc", "--data", "digits", "--eps", 0.05, "--examples", 30, "--quiet"
    ).out
    assert "skipped: transfer" in " ".join(printed.split())
    assert "eps 0.05" in printed
    said = command("evaluate", tmp_path, "--quiet", status=2).err
    assert "holds no network" in said


def test_evaluate_certifies_where_it_is_asked_to(command, trained, tmp_path):
    output = tmp_path / "evaluation.json"
    arguments = ("evaluate", trained, "--examples", 4, "--output", output, "--quiet")
    printed = command(*arguments, "--smoothing", 0.1, "--smoothing", 0.05).out
    assert "Smoothing 0.1" in printed
    assert [certificate.name for certificate in Evaluation.load(output).certificates] == [
        "Smoothing 0.1",
        "Smoothing 0.05",
    ]
    assert "scale` must be positive" in command(*arguments, "--smoothing", 0, status=2).err


def test_sweep_and_report(command, tmp_path):
    arguments = ("sweep", "--data", "digits", "--output", tmp_path / "study", "--epochs", 2, "--max-iter", 1, "--quiet")
    printed = command(*arguments, "--recipe", "DA", "--recipe", "ATMC-b", "--density", 0.2, "--bits", 2).out
    assert "ATMC-2 0.2" in printed
    assert [p.recipe for _, p in points(tmp_path / "study")] == ["ATMC-b", "DA"]
    page = command("report", tmp_path / "study").out.strip()
    assert page.endswith("report.html")
    assert "ATMC-2" in (tmp_path / "study" / "report.html").read_text()
    folder = next(folder for folder, point in points(tmp_path / "study") if point.recipe == "DA")
    assert "worst case" in command("evaluate", folder, "--examples", 20, "--quiet").out
    (folder / "history.jsonl").write_text("cut")
    left_out = command("report", tmp_path / "study")
    assert left_out.out.strip() == page
    assert left_out.err.startswith(f"art-atmc: left out of the report: {folder.name} (history.jsonl is damaged")
    assert left_out.err.count("\n") == 1


def test_a_network_of_ones_own_is_trained_swept_and_evaluated(command, tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "def small(n=10): return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, n))\n"
        "def three(): return small(3)\n"
        "def wide(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    given = ("--data", "digits", "--eps", 0.1)
    shared = ("--data", "digits", "--epochs", 2, "--max-iter", 1, "--quiet", "--network")
    command("train", "--output", "run", *shared, "own_networks:small")
    assert CompressedModel.load("run/compressed.atmc").manifest.network is None
    told = command("evaluate", "run", "--quiet", "--network", "own_networks:small", "--examples", 50).out
    assert "transfer" in told
    known = command("evaluate", "run", "--quiet", "--examples", 50).out  # the folder knows its network
    seconds = re.compile(r"\d+\.\d *$", re.MULTILINE)
    assert seconds.sub("", known) == seconds.sub("", told)
    assert "--network" in command("evaluate", "run/compressed.atmc", *given, "--quiet", status=2).err
    command("sweep", "--output", "study", *shared, "own_networks:small", "--recipe", "AL0", "--density", 0.2)
    (point,) = (point for _, point in points(tmp_path / "study"))
    assert (point.network, point.dense_size) == ("own_networks:small", 64 * 16 + 16 * 10)
    assert (
        "answers one input of digits by (1, 3), not by a logit for each of 10 classes"
        in command("train", "--output", "other", *shared, "own_networks:three", status=2).err
    )
    assert (
        "does not take the inputs of digits, (1, 8, 8)"
        in command("train", "--output", "other", *shared, "own_networks:wide", status=2).err
    )


def test_search_by_command(command, tmp_path):
    pytest.importorskip("optuna")
    printed = command(
        "sweep", "--data", "digits", "--output", tmp_path, "--epochs", 2, "--max-iter", 1, "--search", 2,
        "--density", 0.1, "--density", 0.2, "--bits", 2, "--bits", 4, "--quiet",
    ).out  # fmt: skip
    assert sum(line.strip().startswith("ATMC-") and "kB" in line for line in printed.splitlines()) == 2


def test_train_with_seeds_shows_the_spread(command, tmp_path):
    printed = command(
        "train", "--data", "digits", "--output", tmp_path, "--epochs", 2, "--max-iter", 1, "--seeds", 2, "--seed", 5,
        "--density", 0.5, "--quiet",
    ).out  # fmt: skip
    assert "digits, 2 seeds, 359 test images" in printed
    spread = json.loads((tmp_path / "seeds.json").read_text())["compressed"]["clean_accuracy"]
    each = [
        json.loads((tmp_path / f"seed-{seed}" / "metrics.json").read_text())["compressed"]["clean_accuracy"]
        for seed in (5, 6)
    ]
    assert spread["mean"] == pytest.approx(np.mean(each))
    assert spread["std"] == pytest.approx(np.std(each, ddof=1))
    assert each[0] != each[1]


def test_reproduce_measures_the_distance_to_the_paper(command, mnist, tmp_path):
    arguments = (
        "reproduce",
        "mnist",
        "--data-dir",
        mnist,
        "--output",
        tmp_path / "study",
        "--budget",
        2,
        "--max-iter",
        1,
    )
    printed = command(*arguments, "--density", 0.05, "--quiet").out
    assert "DA" in printed
    found = {point.recipe: point for _, point in points(tmp_path / "study")}
    assert found["DA"].eps == 76 / 255
    assert set(found["DA"].attacks) == {"PGD-16", "paper-16", "Square-100"}
    rows = distances(found.values())
    da = next(row for row in rows if row.point.recipe == "DA")
    assert da.paper == (0.9812, 0.7839)
    small = next(row for row in rows if row.point.recipe == "ATMC-b")
    assert small.series == "ATMC-8"
    expected = interpolated(curves("mnist", 76 / 255, "inf")["ATMC-8"], small.point.paper_ratio)
    assert small.paper == expected
    assert small.difference[1] == pytest.approx(small.point.robust.share - expected[1])
    text = (tmp_path / "study" / "distances.md").read_text()
    assert text == markdown(distances([found["DA"], found["ATMC-b"]]))
    assert f"{100 * da.difference[0]:+.1f} / {100 * da.difference[1]:+.1f}" in text
    assert "no panel" in command("reproduce", "svhn", "--data-dir", mnist, "--output", tmp_path, status=2).err


def test_panels_are_those_of_the_paper():
    mnist, cifar = (PANELS[name].settings(data_dir=None) for name in ("mnist", "cifar10"))
    assert (mnist.network, mnist.eps, mnist.max_iter, mnist.test_max_iter) == ("lenet", 76 / 255, 16, 16)
    assert (cifar.network, cifar.eps, cifar.max_iter, cifar.augment) == ("resnet34", 4 / 255, 7, True)
    assert PANELS["mnist"].settings(None, 4, 5).max_iter == 5
    assert PANELS["mnist"].settings(None, 4, 5).test_max_iter == 16


def test_the_papers_curves_are_whole():
    for data in ("mnist", "cifar10", "cifar100", "svhn"):
        found = curves(data, 76 / 255 if data == "mnist" else 4 / 255, "inf")
        assert set(found) == {"DA", "NAP", "AP", "AL0", "ALR", "ATMC-32", "ATMC-8"}
        for rows in found.values():
            assert rows == sorted(rows)
            assert all(0 < ratio <= 1 and 0 < clean < 1 and 0 <= robust <= clean for ratio, clean, robust in rows)
    assert curves("cifar10-jpeg", 4 / 255, "inf") == curves("cifar10", 4 / 255, "inf") != {}
    assert curves("digits", 0.1, "inf") == {}
    assert curves("mnist", 4 / 255, "inf") == curves("cifar10", 4 / 255, "2") == {}
    assert interpolated(curves("mnist", 76 / 255, "inf")["ATMC-8"], 0.5) is None
    assert interpolated(curves("mnist", 76 / 255, "inf")["ATMC-8"], 0.05519) == (0.9789, 0.7827)


def test_accuracies_have_wilsons_interval():
    assert Accuracy(90, 100).interval == pytest.approx((0.8256, 0.9448), abs=1e-3)
