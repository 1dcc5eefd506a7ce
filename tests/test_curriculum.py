"""Numbers that move over a run, attacks that grow, and averaged weights."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from art_atmc import PGD, Adversarial, ATMCTrainer, ObjectiveTrainer, Recycled, Sparsity, compressible
from art_atmc.attacks import WRM, Growing, Linear, Problem, Rows
from art_atmc.training import AveragedWeights, Callback

ATTACK = PGD(eps=0.1, eps_step=0.05, max_iter=2)


def problem(progress: float = 1.0) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))
    return Problem(model, clip_values=(0, 1), progress=progress)


def batch(number: int = 6):
    generator = torch.Generator().manual_seed(1)
    return torch.rand((number, 1, 4, 4), generator=generator), torch.randint(4, (number,), generator=generator)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 1), st.floats(0, 1))
def test_a_linear_number_ends_where_it_says_and_stays_between(first, last, until, progress):
    number = Linear(first, last, until)
    assert number(0.0) == first
    assert number(1.0) == pytest.approx(last)
    assert min(first, last) - 1e-9 <= number(progress) <= max(first, last) + 1e-9


@pytest.mark.parametrize("until", [0.0, 1.5, -1.0])
def test_a_ramp_that_never_ends_within_the_run_is_refused(until):
    with pytest.raises(ValueError, match="until.*ends within the run"):
        Linear(0.0, 1.0, until)
    with pytest.raises(ValueError, match="until"):
        Growing(ATTACK, until)


def test_a_growing_attack_has_a_share_of_the_radius_and_of_the_step():
    x, y = batch()
    plain = PGD(eps=0.4, eps_step=0.2, max_iter=2, random_start=False)
    for progress, share in ((0.125, 0.25), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        expected = PGD(eps=share * 0.4, eps_step=share * 0.2, max_iter=2, random_start=False)(problem(), x, y)
        assert torch.equal(Growing(plain, until=0.5)(problem(progress), x, y), expected)


def test_the_number_of_steps_moves_too():
    x, y = batch()
    grown = Growing(PGD(0.4, 0.1, 9, random_start=False), until=0.5, max_iter=Linear(1, 3, until=1.0))
    for progress, steps in ((0.5, 2), (1.0, 3)):
        assert torch.equal(grown(problem(progress), x, y), PGD(0.4, 0.1, steps, random_start=False)(problem(), x, y))


def test_a_growing_attack_goes_on_from_kept_perturbations():
    x, y = batch()
    plain = PGD(eps=0.4, eps_step=0.1, max_iter=1, random_start=False)
    recycled = Recycled(plain, free_step=False, dtype=torch.float32)
    grown = Growing(recycled, until=0.5)
    rows = Rows(torch.arange(6), 6, "these")
    first = grown(problem(0.25).at(rows, progress=0.25), x, y)
    assert (first - x).abs().max() <= 0.05 + 1e-6
    second = grown(problem().at(rows), x, y)
    assert torch.allclose(second, plain.ascend(problem(), x, y, first), atol=1e-6)
    assert grown.state_dict()["values"].shape == (6, 1, 4, 4)
    assert grown.without_memory() == recycled.without_memory()
    fresh = Growing(Recycled(plain, dtype=torch.float32))
    fresh.load_state_dict(grown.state_dict())
    assert torch.equal(fresh.state_dict()["values"], grown.state_dict()["values"])


def test_attacks_that_can_not_grow_are_refused():
    with pytest.raises(TypeError, match="PGD or a Recycled"):
        Growing(WRM(1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"max_iter\.first"):
        Growing(ATTACK, max_iter=Linear(0, 3))


def test_the_clean_share_may_move():
    x, y = batch()
    still = PGD(0.2, 0.1, 1, random_start=False)
    moving = Adversarial(still, Linear(0.8, 0.0, until=0.5))
    for progress, share in ((0.0, 0.8), (0.25, 0.4), (0.5, 0.0)):
        expected = Adversarial(still, share)(problem(), x, y).loss
        assert moving(problem(progress), x, y).loss.item() == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(ValueError, match=r"clean_share\.last"):
        Adversarial(still, Linear(0.0, 1.0))


def test_a_run_tells_its_problems_how_far_it_is(make_classifier, digits):
    seen = []

    class Watched(Adversarial):  # type: ignore[misc]
        def __call__(self, problem, x, y):
            seen.append(problem.progress)
            return super().__call__(problem, x, y)

    ObjectiveTrainer(make_classifier(), Watched(ATTACK), verbose=False).fit(
        digits[0][:40], digits[1][:40], batch_size=10, nb_epochs=2
    )
    assert seen == [step / 8 for step in range(8)]


class Recorder(Callback):
    """The weights after each step."""

    def __init__(self):
        self.steps = []

    def on_batch_end(self, run):
        self.steps.append(run.weights())


def test_averaged_weights_are_the_formula_and_are_validated(make_classifier, digits):
    x, y = digits[0][:80], digits[1][:80]
    averaged, recorder = AveragedWeights(0.5, start=0.5), Recorder()
    trainer = ObjectiveTrainer(make_classifier(), Adversarial(ATTACK), callbacks=[averaged, recorder], verbose=False)
    trainer.fit(x, y, validation_data=(x, y), batch_size=20, nb_epochs=4)
    half = [weights for number, weights in enumerate(recorder.steps, 1) if number / 16 >= 0.5]
    for name in ("conv.weight", "norm.running_mean"):
        expected = half[0][name]
        for weights in half[1:]:
            expected = 0.5 * expected + 0.5 * weights[name]
        assert torch.allclose(averaged.average[name], expected, atol=1e-6)
    assert "averaged_robust_accuracy" not in trainer.history[0]
    assert 0 <= trainer.history[-1]["averaged_robust_accuracy"] <= 1


def test_averaged_weights_are_shipped_where_they_are_better(make_classifier, digits):
    x, y = digits[0][:200], digits[1][:200]
    averaged = AveragedWeights(0.9, start=0.0)
    classifier = make_classifier()

    class Spoil(Callback):
        """The last step ruins the weights, and hardly moves their average."""

        def on_batch_end(self, run):
            if run.step == run.pace.steps:
                for parameter in run.model.parameters():
                    parameter.data.normal_()

        def on_epoch_start(self, run):
            if run.epoch == 0:
                copied.append(copy.deepcopy(run.model))

    copied: list[nn.Module] = []
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), callbacks=[averaged, Spoil()], verbose=False)
    trainer.fit(x, y, validation_data=(x, y), batch_size=20, nb_epochs=1, scheduler=None)
    last = trainer.history[-1]
    assert last["averaged_robust_accuracy"] > last["robust_accuracy"]
    assert torch.equal(classifier.model.conv.weight.detach(), averaged.average["conv.weight"])


def test_without_validation_data_the_averaged_weights_are_kept(make_classifier, digits):
    averaged, classifier = AveragedWeights(0.9, start=0.0), make_classifier()
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), callbacks=[averaged], verbose=False)
    trainer.fit(digits[0][:80], digits[1][:80], batch_size=20, nb_epochs=1)
    assert torch.equal(classifier.model.conv.weight.detach(), averaged.average["conv.weight"])


def test_a_second_fit_averages_its_own_weights(make_classifier, digits):
    x, y = digits[0][:80], digits[1][:80]
    averaged = AveragedWeights(0.9, start=0.5)
    trainer = ObjectiveTrainer(make_classifier(), Adversarial(ATTACK), callbacks=[averaged], verbose=False)
    for _ in range(2):
        trainer.fit(x, y, validation_data=(x, y), batch_size=20, nb_epochs=4)
    assert ["averaged_robust_accuracy" in row for row in trainer.history] == [False, True, True, True] * 2


@pytest.mark.parametrize("factored", [False, True])
def test_averaged_weights_obey_the_constraints(make_classifier, digits, factored):
    x, y = digits[0][:200], digits[1][:200]
    classifier = make_classifier()
    inner = ObjectiveTrainer(
        classifier, Adversarial(ATTACK), callbacks=[AveragedWeights(0.9, start=0.2)], verbose=False
    )
    trainer = ATMCTrainer(classifier, trainer=inner, constraints=[Sparsity(0.1)], factored=factored)
    trainer.fit(x, y, validation_data=(x, y), batch_size=20, nb_epochs=4)
    weights = compressible(trainer.get_classifier().model)
    assert weights.nnz() <= 0.1 * weights.dense_size


def test_an_interrupted_fit_goes_on_with_its_average(make_classifier, digits, tmp_path):
    x, y = digits[0][:80], digits[1][:80]

    class Stop(Callback):
        def on_batch_end(self, run):
            if run.step == 6:
                raise KeyboardInterrupt

    def trained(folder, *callbacks):
        averaged = AveragedWeights(0.9, start=0.3)
        trainer = ObjectiveTrainer(
            make_classifier(),
            Adversarial(ATTACK),
            callbacks=[averaged, *callbacks],
            checkpoint=folder,
            checkpoint_every=1,
            verbose=False,
        )
        trainer.fit(x, y, validation_data=(x, y), batch_size=20, nb_epochs=4)
        return averaged.average["conv.weight"]

    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", Stop())
    assert torch.equal(trained(tmp_path / "parts"), whole)


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": 0.0}, {"start": 1.0}])
def test_bad_averages_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AveragedWeights(**wrong)
