"""Checkpoints: killed at any moment, a fit goes on to the same bits; other conditions are refused; disks fill up."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import signal
import time

import pytest
import torch
from torch import nn

from art_atmc import PGD, Adversarial, ATMCTrainer, ObjectiveTrainer, Quantization, Sparsity
from art_atmc.attacks import Recycled
from art_atmc.training import Callback, Checkpoint, CropAndFlip, EarlyStopping, Interrupted

ATTACK = PGD(eps=0.1, eps_step=0.05, max_iter=2)


def compressing(make_classifier, digits, folder, every=2, callbacks=(), epochs=3, density=0.3, verbose=False):
    """Kept perturbations, augmentation, dropout, batch normalisation, factors, copies and duals: all have a state."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 10)
    )
    classifier = make_classifier(model=model, optimizer=torch.optim.Adam(model.parameters(), lr=0.01))
    trainer = ATMCTrainer(
        classifier,
        Recycled(PGD(eps=0.1, eps_step=0.05, max_iter=1)),
        [Sparsity(density), Quantization(bits=3)],
        callbacks=callbacks,
        checkpoint=folder,
        checkpoint_every=every,
        verbose=verbose,
    )
    x, y = digits
    held_out = x[1500:1550], y[1500:1550]
    trainer.fit(
        x[:200], y[:200], held_out, batch_size=25, nb_epochs=epochs, augmentation=CropAndFlip(1)
    )  # fmt: skip
    return trainer


def digest(trainer):
    """Of every parameter and buffer, and of the history but for its seconds."""
    found = hashlib.sha256()
    for tensor in trainer.classifier.model.state_dict().values():
        found.update(tensor.numpy().tobytes())
    found.update(repr([{**row, "seconds": 0} for row in trainer.history]).encode())
    return found.hexdigest()


def killed_and_resumed(make_classifier, digits, folder, kills):
    """Fits in processes that are killed at random moments, until one comes to its end; its digest."""
    moments = random.Random(0)
    for attempt in range(10 * kills):
        result = folder / f"result-{attempt}"
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                result.write_text(digest(compressing(make_classifier, digits, folder / "run", every=1)))
            os._exit(0)
        if attempt < kills:
            time.sleep(moments.uniform(0.01, 0.5))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if result.exists():
            return result.read_text()
    raise AssertionError("no attempt came to its end")


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_a_fit_killed_at_random_moments_ends_on_the_same_bits(make_classifier, digits, tmp_path, kills):
    """Checkpoints are written after each step, so that many of the kills come while one is written."""
    whole = digest(compressing(make_classifier, digits, None))
    assert killed_and_resumed(make_classifier, digits, tmp_path, kills) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_fit_that_is_asked_to_stop_writes_a_checkpoint_and_says_how_to_go_on(
    make_classifier, digits, tmp_path, number
):
    class Ask(Callback):
        def on_gradients(self, run):
            if run.step == 11:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"{number.name}: stopped after epoch 2, batch 3; run the same again"):
        compressing(make_classifier, digits, tmp_path, every=1000, callbacks=[Ask()])
    assert signal.getsignal(number) is before
    whole = digest(compressing(make_classifier, digits, None))
    assert digest(compressing(make_classifier, digits, tmp_path, every=1000, callbacks=[Ask()])) == whole


def test_a_fit_that_is_finished_is_not_trained_again(make_classifier, digits, tmp_path):
    steps = []

    class Count(Callback):
        def on_gradients(self, run):
            steps.append(run.step)

    first = compressing(make_classifier, digits, tmp_path, every=None, callbacks=[Count()])
    assert len(steps) == 24
    again = compressing(make_classifier, digits, tmp_path, every=None, callbacks=[Count()])
    assert len(steps) == 24
    assert digest(first) == digest(again)


def test_a_second_fit_has_checkpoints_of_its_own(make_classifier, digits, tmp_path):
    x, y = digits[0][:100], digits[1][:100]

    def two_fits(stop_at=None):
        class Stop(Callback):
            def on_gradients(self, run):
                if len(run.history) == 2 and run.batch == 2 and stop_at:
                    raise KeyboardInterrupt

        classifier = make_classifier()
        trainer = ObjectiveTrainer(
            classifier, Adversarial(ATTACK), callbacks=[Stop()], checkpoint=tmp_path, checkpoint_every=1, verbose=False
        )
        for _ in range(2):
            trainer.fit(x, y, batch_size=25, nb_epochs=2)
        return trainer

    with pytest.raises(KeyboardInterrupt):
        two_fits(stop_at=True)
    resumed = two_fits()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["fit-2"]
    for path in sorted(tmp_path.rglob("*.pt")):
        path.unlink()
    assert digest(two_fits()) == digest(resumed)


def test_the_last_ones_are_kept_and_a_damaged_one_is_passed_over(make_classifier, digits, tmp_path):
    compressing(make_classifier, digits, tmp_path, every=5)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[:9] for name in names] == ["000000020", "000000024"]
    whole = digest(compressing(make_classifier, digits, None))
    newest = tmp_path / names[-1]
    newest.write_bytes(newest.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"000000024.* is damaged"):
        assert digest(compressing(make_classifier, digits, tmp_path, every=5)) == whole


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"epochs": 4}, ["constraints", "epochs: 3 then, 4 now"]),
        ({"density": 0.2}, ["constraints"]),
        ({"data": True}, ["data"]),
        ({"density": 0.2, "epochs": 5}, ["constraints", "epochs"]),
    ],
)
def test_other_conditions_are_refused_with_all_that_differs(make_classifier, digits, tmp_path, change, names):
    compressing(make_classifier, digits, tmp_path)
    if change.pop("data", False):
        digits = digits[0][::-1].copy(), digits[1][::-1].copy()
        names = [*names, "validation data"]
    with pytest.raises(ValueError, match="differs in") as refused:
        compressing(make_classifier, digits, tmp_path, **change)
    lines = [line.strip() for line in str(refused.value).splitlines()[1:-1]]
    assert [line.partition(":")[0] for line in lines] == [name.partition(":")[0] for name in names]
    assert all(any(line.startswith(name) for line in lines) for name in names)


@pytest.mark.parametrize("package", ["torch", "art-atmc"])
def test_another_version_is_refused(make_classifier, digits, tmp_path, monkeypatch, package):
    compressing(make_classifier, digits, tmp_path)
    from art_atmc.training import checkpoint_folder

    now = checkpoint_folder.versions()
    monkeypatch.setattr(checkpoint_folder, "versions", lambda: now | {package: "9.9"})
    with pytest.raises(ValueError, match=f"version of {package}: .* 9.9 now"):
        compressing(make_classifier, digits, tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint_and_the_fit_goes_on(make_classifier, digits, tmp_path, monkeypatch):
    from art_atmc.training import checkpoint_folder

    real, calls = checkpoint_folder.write_file, []

    def full(path, content):
        calls.append(path)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(checkpoint_folder, "write_file", full)
    with pytest.warns(UserWarning, match=r"could not be written, and the fit goes on: .*No space.*the last one is"):
        trainer = compressing(make_classifier, digits, tmp_path, every=4)
    assert digest(trainer) == digest(compressing(make_classifier, digits, None))
    assert sorted(path.name[:9] for path in tmp_path.iterdir()) == ["000000008", "000000012"]


def test_checkpoints_hold_tensors_and_plain_values_only(make_classifier, digits, tmp_path):
    compressing(make_classifier, digits, tmp_path)
    for path in tmp_path.iterdir():
        state = torch.load(path, weights_only=True)
        assert {"model", "optimizer", "objective", "callbacks", "random"} <= set(state["run"])
        assert state["run"]["objective"]["attack"]["values"].dtype == torch.int8


@pytest.mark.parametrize("arguments", [{"every": 0}, {"keep": 0}])
def test_bad_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        Checkpoint("folder", **arguments)


def test_checkpoints_of_another_trainer_are_refused(make_classifier, tmp_path):
    from art.defences.trainer import AdversarialTrainerMadryPGD

    classifier = make_classifier()
    madry = AdversarialTrainerMadryPGD(classifier)
    with pytest.raises(TypeError, match="our loop"):
        ATMCTrainer(classifier, constraints=[Sparsity(0.5)], trainer=madry, checkpoint=tmp_path)


def test_a_checkpoint_holds_what_callbacks_did_at_the_end_of_the_epoch(make_classifier, digits, tmp_path):
    """It was written before theirs, so that a patience began again and a fit that had ended early went on."""
    x, y = digits

    def fit():
        classifier = make_classifier()
        for group in classifier.optimizer.param_groups:
            group["lr"] = 0.0
        stopping = EarlyStopping(patience=2, after=0.0)
        trainer = ObjectiveTrainer(
            classifier, Adversarial(ATTACK), callbacks=[stopping], checkpoint=tmp_path, verbose=False
        )
        trainer.fit(x[:50], y[:50], validation_data=(x[:20], y[:20]), batch_size=25, nb_epochs=8)
        return stopping, trainer

    stopping, trainer = fit()
    again, resumed = fit()
    assert len(trainer.history) == len(resumed.history) == 3
    assert again.state_dict() == stopping.state_dict() == {"best": stopping.best, "waited": 2}


def test_a_postponed_start_of_the_constraints_survives_an_interruption(make_classifier, digits, tmp_path):
    x, y = digits

    class Interrupt(Callback):
        def on_epoch_start(self, run):
            if run.epoch == 3:
                raise KeyboardInterrupt

    def fit(folder, *callbacks):
        classifier = make_classifier()
        for group in classifier.optimizer.param_groups:
            group["lr"] = 1e-9  # the loss stays that of guessing, and the start waits
        trainer = ATMCTrainer(
            classifier, ATTACK, [Sparsity(0.3)], callbacks=callbacks, checkpoint=tmp_path / folder, verbose=False
        )
        with contextlib.suppress(KeyboardInterrupt):
            trainer.fit(x[:50], y[:50], batch_size=25, nb_epochs=10)
        return trainer.solvers[0].ramp

    whole = fit("whole")
    assert whole.start == 10  # half of the run, where 3 was planned
    assert fit("parts", Interrupt()).start < whole.start
    assert fit("parts") == whole
