"""Figures of a fit in files, and fits that end early."""

from __future__ import annotations

import json

import pytest

from art_atmc import PGD, ATMCTrainer, Natural, ObjectiveTrainer, Quantization, Sparsity
from art_atmc.training import Callback, EarlyStopping, JSONLines, TensorBoard

ATTACK = PGD(eps=0.1, eps_step=0.05, max_iter=1)


def fit(classifier, digits, callbacks, epochs=3, checkpoint=None, validated=True):
    trainer = ObjectiveTrainer(classifier, Natural(), callbacks=callbacks, checkpoint=checkpoint, verbose=False)
    x, y = digits
    held_out = (x[1500:1550], y[1500:1550]) if validated else None
    trainer.fit(x[:100], y[:100], validation_data=held_out, batch_size=50, nb_epochs=epochs)
    return trainer


def test_every_epoch_is_a_line_as_soon_as_it_ends(make_classifier, digits, tmp_path):
    path, lengths = tmp_path / "deep" / "history.jsonl", []

    class Look(Callback):
        def on_epoch_end(self, run, row):
            lengths.append(len(path.read_text().splitlines()))

    trainer = fit(make_classifier(), digits, [JSONLines(path, model="dense"), Look()])
    assert lengths == [1, 2, 3]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"model": "dense", **row} for row in trainer.history]


def test_a_fit_that_goes_on_continues_its_file_and_leaves_other_lines(make_classifier, digits, tmp_path):
    class Break(Callback):
        armed = True

        def on_gradients(self, run):
            if run.step == 5 and self.armed:
                Break.armed = False
                raise KeyboardInterrupt

    path, run = tmp_path / "history.jsonl", tmp_path / "run"
    fit(make_classifier(), digits, [JSONLines(path, model="other")], epochs=1)
    with pytest.raises(KeyboardInterrupt):
        fit(make_classifier(), digits, [JSONLines(path, model="dense"), Break()], checkpoint=run)
    fit(make_classifier(), digits, [JSONLines(path, model="dense"), Break()], checkpoint=run)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["model"], row["epoch"]) for row in rows] == [("other", 1), ("dense", 1), ("dense", 2), ("dense", 3)]


def test_early_stopping_waits_for_its_patience(make_classifier, digits):
    classifier = make_classifier()
    for group in classifier.optimizer.param_groups:
        group["lr"] = 0.0
    trainer = fit(classifier, digits, [EarlyStopping(patience=2, after=0.2)], epochs=10)
    assert len(trainer.history) == 5  # two that count not, one that is the best, two without a better one
    with pytest.raises(ValueError, match="needs validation data"):
        fit(make_classifier(), digits, [EarlyStopping(1)], validated=False)
    with pytest.raises(ValueError, match="`patience`"):
        EarlyStopping(0)


def test_tensorboard_gets_figures_densities_and_codebooks(make_classifier, digits, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = ATMCTrainer(
        make_classifier(), ATTACK, [Sparsity(0.3), Quantization(2)], callbacks=[TensorBoard(tmp_path)], verbose=False
    )
    x, y = digits
    trainer.fit(x[:100], y[:100], validation_data=(x[:50], y[:50]), batch_size=50, nb_epochs=2)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    expected = {"loss", "clean_accuracy", "robust_accuracy", "violation", "learning_rate", "images_per_second"}
    assert expected <= set(tags["scalars"])
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([r["loss"] for r in trainer.history])
    assert any(tag.startswith("density/") for tag in tags["scalars"])
    assert any(tag.startswith("values/") for tag in tags["histograms"])


def test_tensorboard_without_its_package_names_the_extra(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"art-atmc\[tensorboard\]"):
        TensorBoard(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", "\x00"])
def test_a_log_of_something_else_is_named_before_anything_is_trained(make_classifier, digits, tmp_path, line):
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"history\.jsonl is not a log of epochs, or it is damaged .*; delete it"):
        fit(make_classifier(), digits, [JSONLines(path, model="dense")], epochs=1)
    assert path.read_text(encoding="utf-8") == line + "\n"
    path.unlink()
    fit(make_classifier(), digits, [JSONLines(path, model="dense")], epochs=1)
