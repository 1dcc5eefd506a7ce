"""Ways to train by name: what they bring along, what goes before them, and that both learn."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from art_atmc import PGD, Recycled
from art_atmc.cli import app
from art_atmc.data import load
from art_atmc.experiments.reproduce import PANELS
from art_atmc.experiments.settings import Settings
from art_atmc.experiments.train_and_test import new_trainer, train
from art_atmc.experiments.training import TRAININGS
from art_atmc.training.rates import OneCycle


def recycled(settings: Settings) -> Recycled:
    assert isinstance(settings.attack, Recycled)
    return settings.attack


def test_fast_is_one_step_from_the_last_perturbation():
    settings = Settings.resolved("digits", training="fast", eps=0.75)
    first = PGD(0.75, 1.25 * 0.75 / 8, 8, random_start=False)
    assert settings.attack == Recycled(PGD(0.75, 0.25, 1), first=first, fresh=0.2)
    assert (settings.optimizer, settings.rate, settings.batch_size) == ("adam", OneCycle(0.2), 32)


def test_paper_leaves_the_settings_as_they_are():
    assert Settings.resolved("digits", training="paper") == Settings.resolved("digits")
    assert isinstance(Settings.resolved("digits").attack, PGD)


def test_mnist_is_trained_fast_unless_the_paper_is_reproduced():
    assert Settings.resolved("mnist").recycled
    assert not Settings.resolved("mnist", training="paper").recycled
    assert not PANELS["mnist"].settings(None).recycled


def test_what_the_user_says_goes_first():
    settings = Settings.resolved("digits", training="fast", lr=0.01, max_iter=2, eps=0.75, batch_size=16)
    assert recycled(settings).attack == PGD(0.75, 0.125, 2)
    assert (settings.lr, settings.batch_size) == (0.01, 16)
    assert recycled(Settings.resolved("digits", training="fast", eps_step=0.02)).attack == PGD(0.1, 0.02, 1)


def test_steps_beside_an_attack_of_ones_own_are_refused():
    own = ["pgd:eps=0.1,eps_step=0.02,max_iter=3"]
    with pytest.raises(ValueError, match="give its steps within `attack`"):
        Settings.resolved("digits", attack=own, max_iter=5)
    assert Settings.resolved("digits", attack=own, test_max_iter=5).test_attack.max_iter == 5


def test_averaged_weights_are_validated_and_said(tmp_path):
    settings = Settings.resolved("digits", average=0.9, epochs=2, max_iter=1)
    train(settings, tmp_path, load("digits"), verbose=False)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert 0 < rows[-1]["averaged_robust_accuracy"] <= 1
    assert settings.plain()["average"] == 0.9
    with pytest.raises(ValueError, match="`average` must be in"):
        Settings.resolved("digits", average=1.0)


def test_the_test_is_the_same_for_both():
    tests = {Settings.resolved("digits", training=name).test_attack for name in TRAININGS}
    assert len(tests) == 1
    assert Settings.resolved("digits", training="fast", test_max_iter=20).test_attack.max_iter == 20


def test_a_panel_keeps_its_attack_in_the_test():
    panel = PANELS["mnist"]
    paper, fast = (panel.settings(None, 10, training=name) for name in ("paper", "fast"))
    assert (paper.clean_share, paper.max_iter, paper.optimizer) == (0.5, 16, "sgd")
    assert (fast.clean_share, fast.max_iter, fast.optimizer) == (0.0, 1, "adam")
    assert paper.test_attack == fast.test_attack
    assert fast.test_attack.max_iter == 16


@pytest.mark.parametrize("name", TRAININGS)
def test_the_trainer_is_what_the_name_says(name):
    settings = Settings.resolved("digits", training=name, precision="bfloat16")
    trainer = new_trainer(settings, load("digits"), verbose=False)
    assert isinstance(trainer.classifier.optimizer, torch.optim.SGD if name == "paper" else torch.optim.Adam)
    assert trainer.trainer.precision == torch.bfloat16
    # A new memory for every training: a rehearsal on a few examples must leave none behind.
    assert settings.attack == settings.attack
    if name == "fast":
        assert settings.attack.memory is not settings.attack.memory  # type: ignore[attr-defined]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="`training` must be one of paper, fast, got 'quick'"):
        Settings.resolved("digits", training="quick")
    with pytest.raises(ValueError, match="`optimizer` must be one of sgd, adam.*`precision` must be one of float32"):
        Settings.resolved("digits", optimizer="lion", precision="float16")


def test_train_says_how_it_trained(tmp_path):
    options = ["--data", "digits", "--training", "fast", "--epochs", "3", "--no-dense", "--density", "0.2", "--quiet"]
    result = CliRunner().invoke(app, ["train", *options, "--output", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["settings"]["recycled"] is True
    assert metrics["settings"]["optimizer"] == "adam"


def test_a_training_and_an_option_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="training='fast' contradicts optimizer='sgd', recycled=False"):
        Settings.resolved("mnist", training="fast", optimizer="sgd", recycled=False)
    assert Settings.resolved("mnist", training="fast", optimizer="adam", max_iter=2).max_iter == 2
    with pytest.raises(ValueError, match="`first_iter` must be left out.*`fresh` must be left out"):
        Settings.resolved("digits", training="paper", first_iter=5, fresh=0.1)
    first = recycled(Settings.resolved("digits", training="fast", first_iter=5)).first
    assert first is not None
    assert first.max_iter == 5


def test_fresh_visits_begin_at_random_for_objectives_that_need_it():
    assert not recycled(Settings.resolved("digits", training="fast")).random_start
    assert recycled(Settings.resolved("digits", training="fast", objective="trades:beta=6")).random_start
