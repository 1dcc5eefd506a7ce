"""``art-atmc train`` that was interrupted, and ``--resume``: the same networks as without interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

OPTIONS = ["--data", "digits", "--epochs", "3", "--max-iter", "1", "--threads", "1", "--no-factored"]


def art_atmc(*arguments, kill=None, wait_for=None):
    """Run the command; with ``kill``, send that signal once ``wait_for`` holds."""
    command = [sys.executable, "-W", "ignore", "-m", "art_atmc.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while kill and process.poll() is None:
        if wait_for():
            os.kill(process.pid, kill)
            break
        time.sleep(0.01)
    _, error = process.communicate()
    return process.returncode, error


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, error = art_atmc("train", *OPTIONS, "--output", folder)
    assert code == 0, error
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_command_goes_on_to_the_same_networks(tmp_path, whole, number):
    run = tmp_path / "run"

    def begun():
        """Within the second epoch of the first network, or later."""
        return any((run / "dense").glob("checkpoints/*.pt"))

    code, error = art_atmc("train", *OPTIONS, "--output", run, kill=number, wait_for=begun)
    if number == signal.SIGKILL:
        assert code == -number
    else:
        assert code == 130
        assert f"{number.name}: stopped after epoch" in error
        assert f"go on with: art-atmc train --resume {run}" in error
    code, error = art_atmc("train", "--resume", run)
    assert code == 0, error
    for name in ("compressed.atmc", "dense.safetensors"):
        ours, theirs = ((folder / name).read_bytes() for folder in (run, whole))
        assert len(ours) == len(theirs)
        if name == "dense.safetensors":  # the other one holds the time of its making
            assert ours == theirs
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 1, 2, 3]
    assert not list(run.rglob("checkpoints"))


def test_resume_takes_the_options_of_the_run(whole):
    assert sorted(json.loads((whole / "options.json").read_text())) == sorted(OPTIONS)
    before = (whole / "compressed.atmc").read_bytes()
    code, error = art_atmc("train", "--resume", whole, "--quiet")
    assert code == 0, error
    assert (whole / "compressed.atmc").read_bytes() == before
    code, error = art_atmc("train", "--resume", whole, "--epochs", "4")
    assert code == 2
    assert "epochs=3, not 4" in error


def test_resume_of_no_run_says_so(tmp_path):
    code, error = art_atmc("train", "--resume", tmp_path)
    assert (code, "holds no run to go on with" in error) == (2, True)
    (tmp_path / "options.json").write_text("not json")
    code, error = art_atmc("train", "--resume", tmp_path)
    assert (code, "options.json" in error) == (2, True)
