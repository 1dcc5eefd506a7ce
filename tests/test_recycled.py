"""Perturbations kept from epoch to epoch: they go on where they stood, belong to their rows, and refuse other data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_atmc import PGD, TRADES, Adversarial, ObjectiveTrainer
from art_atmc.attacks import Growing, Problem, Recycled, Rows
from art_atmc.training import Callback
from art_atmc.training.augmentation import CropAndFlip
from art_atmc.training.batches import ArrayBatches
from art_atmc.training.devices import World


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))


def batch(number: int = 6, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((number, 1, 4, 4), generator=generator), torch.randint(4, (number,), generator=generator)


def rows(*index, motion=None, data="these", total=6):
    return Rows(torch.tensor(index), total, data, motion)


ALL = rows(*range(6))


def kept(attack, x, which=ALL):
    return attack.memory.recall(which, x)[0]


def steps(count: int, **options) -> PGD:
    return PGD(eps=0.3, eps_step=0.07, max_iter=count, **({"random_start": False} | options))


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
def test_two_visits_of_one_step_are_one_visit_of_two(norm):
    x, y = batch()
    model = network()
    problem = Problem(model, clip_values=(0, 1)).at(ALL)
    attack = Recycled(steps(1, norm=norm), free_step=False, dtype=torch.float32)
    attack(problem, x, y)
    expected = steps(2, norm=norm)(problem, x, y)
    assert torch.allclose(attack(problem, x, y), expected, atol=1e-6)


def test_the_training_steps_gradient_moves_the_perturbation_once_more():
    x, y = batch()
    model = network()
    problem = Problem(model, clip_values=(0, 1)).at(ALL)
    attack = Recycled(steps(1), dtype=torch.float32)
    given_out = attack(problem, x, y)
    once = given_out.detach().clone()
    nn.functional.cross_entropy(model(given_out), y).backward()
    assert torch.equal(given_out.detach(), once)  # what the batch was trained on stays
    assert torch.allclose(x + kept(attack, x), steps(2)(problem, x, y), atol=1e-6)
    assert not torch.allclose(x + kept(attack, x), once, atol=1e-3)


def test_the_free_step_leaves_the_weights_gradients_alone():
    x, y = batch()
    gradients = []
    for free in (False, True):
        model = network()
        problem = Problem(model, clip_values=(0, 1)).at(ALL)
        nn.functional.cross_entropy(model(Recycled(steps(1), free_step=free)(problem, x, y)), y).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([math.inf, 2, 1]), st.floats(1e-3, 10))
def test_every_example_lies_in_the_ball_though_bytes_round(seed, norm, eps):
    x, y = batch(seed=seed)
    problem = Problem(network(), clip_values=(0, 1), generator=torch.Generator().manual_seed(0)).at(ALL)
    attack = Recycled(PGD(eps, eps / 3, 1, norm=norm))
    for _ in range(3):
        adv = attack(problem, x, y)
        delta = (adv.detach() - x).flatten(1)
        assert (torch.linalg.vector_norm(delta, norm, dim=1) <= eps * (1 + 1e-4) + 1e-5).all()
        assert adv.min() >= 0
        assert adv.max() <= 1
        assert (kept(attack, x) - (adv.detach() - x)).abs().max() <= eps / 254 * 1.001 + 1e-6


def test_shuffled_training_keeps_each_rows_own_perturbation(make_classifier, digits):
    x, y = digits[0][:50], digits[1][:50]
    classifier = make_classifier(0)
    for group in classifier.optimizer.param_groups:
        group["lr"] = 0.0
    attack = Recycled(PGD(0.1, 0.02, 1, random_start=False), free_step=False, dtype=torch.float32)
    ObjectiveTrainer(classifier, Adversarial(attack), verbose=False).fit(x, y, batch_size=16, nb_epochs=3)
    x = torch.from_numpy(x)
    memory = attack.memory.recall(Rows(torch.arange(50), 50, attack.memory._data), x)[0]  # type: ignore[arg-type]
    # Three visits of one step each, in steps of 0.02, and inside [0, 1] only where the row is the example's own.
    assert memory.abs().flatten(1).amax(dim=1).sub(0.06).abs().median() < 1e-6
    assert ((x + memory).clamp(0, 1) - (x + memory)).abs().max() < 1e-6
    assert ((x + memory.roll(1, 0)).clamp(0, 1) - (x + memory.roll(1, 0))).abs().max() > 1e-3


def test_rows_not_in_a_batch_keep_their_perturbations():
    x, y = batch()
    problem = Problem(network(), clip_values=(0, 1))
    attack = Recycled(steps(1))
    attack(problem.at(ALL), x, y)
    before, chosen = kept(attack, x), [4, 1]
    attack(problem.at(rows(*chosen)), x[chosen], y[chosen])
    after = kept(attack, x)
    assert torch.equal(before[[0, 2, 3, 5]], after[[0, 2, 3, 5]])
    assert not torch.equal(before[chosen], after[chosen])


def test_a_moved_image_meets_its_perturbation_moved():
    x, y = batch()
    problem = Problem(network())
    attack = Recycled(steps(1), free_step=False, dtype=torch.float32)
    attack(problem.at(ALL), x, y)
    before = kept(attack, x)
    motion = CropAndFlip(padding=1).draw(6, torch.Generator().manual_seed(3))
    moved = motion(x)
    adv = attack(problem.at(rows(*range(6), motion=motion)), moved, y)
    expected = steps(1).ascend(problem, moved, y, moved + motion(before))
    assert torch.equal(adv, expected)
    assert torch.allclose(kept(attack, x), motion.undo(expected - moved, before), atol=1e-7)


def test_first_visits_start_at_random_where_the_attack_does():
    x, y = batch()
    starts = []

    class Spy(nn.Module):
        def forward(self, image):
            starts.append(image.detach().clone())
            return image.flatten(1)[:, :4]

    problem = Problem(Spy(), clip_values=(0, 1), generator=torch.Generator().manual_seed(0))
    attack = Recycled(steps(1, random_start=True), free_step=False)
    attack(problem.at(rows(0, 1, 2)), x[:3], y[:3])
    attack(problem.at(rows(0, 1, 2, 3)), x[:4], y[:4])
    first, second = (start - x[: len(start)] for start in starts)
    assert first.abs().amax() > 0.1
    assert (second[:3] - first).abs().max() <= 0.07 + 0.3 / 254 + 1e-6  # they go on
    assert second[3].abs().amax() > 0.1  # this one is new


def test_a_first_visit_may_be_another_attack():
    x, y = batch()
    problem = Problem(network(), clip_values=(0, 1)).at(ALL)
    attack = Recycled(steps(1), free_step=False, first=steps(3), dtype=torch.float32)
    assert torch.allclose(attack(problem, x, y), steps(3)(problem, x, y), atol=1e-6)
    assert torch.allclose(attack(problem, x, y), steps(4)(problem, x, y), atol=1e-6)
    with pytest.raises(ValueError, match=r"`first` must have the ball of `attack`, eps=0.3 .* got eps=0.2"):
        Recycled(steps(1), first=PGD(0.2, 0.1, 1))
    with pytest.raises(TypeError, match="`first` must be a PGD"):
        Recycled(steps(1), first=3)  # type: ignore[arg-type]


def test_a_share_of_the_batches_begins_again():
    x, y = batch()
    problem = Problem(network(), clip_values=(0, 1), generator=torch.Generator().manual_seed(0)).at(ALL)
    attack = Recycled(steps(1), free_step=False, first=steps(2), fresh=0.25, dtype=torch.float32)
    again = steps(2)(problem, x, y)
    attack(problem, x, y)
    before, fresh = again, 0
    for _ in range(200):
        after = attack(problem, x, y)
        goes_on = steps(1).ascend(problem, x, y, before)
        if torch.allclose(after, again, atol=1e-6):
            fresh += 1
        else:
            assert torch.allclose(after, goes_on, atol=1e-6)
        before = after
    assert 30 <= fresh <= 70  # 50 expected, of standard deviation 6
    with pytest.raises(ValueError, match="`fresh` must be in"):
        Recycled(steps(1), fresh=1.0)


def test_an_attack_that_grows_lets_fresh_visits_grow():
    x, y = batch()
    attack = Growing(Recycled(steps(1), first=steps(8), fresh=0.5, dtype=torch.float32), until=1.0)
    for share in (0.1, 0.5, 1.0):
        problem = Problem(network(), generator=torch.Generator().manual_seed(0)).at(ALL, progress=share)
        for _ in range(8):
            assert (attack(problem, x, y) - x).abs().max() <= share * 0.3 + 1e-6


def test_resuming_is_exact():
    x, y = batch()
    problem = Problem(network(), clip_values=(0, 1)).at(ALL)
    attack, again = Recycled(steps(1)), Recycled(steps(1))
    attack(problem, x, y)
    again.load_state_dict(attack.state_dict())
    assert torch.equal(attack(problem, x, y), again(problem, x, y))


@pytest.mark.parametrize("at", [2, 4, 5])
def test_a_fit_goes_on_from_a_checkpoint_to_the_same_bits(make_classifier, digits, at):
    class Kept(Callback):
        def __init__(self, state=None):
            self.state = state

        def on_train_start(self, run):
            if self.state is not None:
                run.load_state_dict(self.state)

        def on_batch_end(self, run):
            if run.step == at:
                self.state = run.snapshot()

    def run(callback):
        classifier = make_classifier()
        attack = Recycled(PGD(0.1, 0.05, 1))
        trainer = ObjectiveTrainer(classifier, Adversarial(attack), callbacks=[callback], verbose=False)
        trainer.fit(digits[0][:100], digits[1][:100], batch_size=25, nb_epochs=3, augmentation=CropAndFlip(padding=1))
        return torch.cat([p.detach().flatten() for p in classifier.model.parameters()]), attack.state_dict()

    kept = Kept()
    whole, first = run(kept)
    resumed, second = run(Kept(kept.state))
    assert torch.equal(whole, resumed)
    assert torch.equal(first["values"], second["values"])


def test_state_of_another_radius_is_refused():
    x, y = batch()
    attack = Recycled(steps(1))
    attack(Problem(network()).at(ALL), x, y)
    Recycled(steps(3)).load_state_dict(attack.state_dict())  # more steps are no obstacle
    with pytest.raises(ValueError, match="kept for eps=0.3"):
        Recycled(PGD(0.2, 0.07, 1)).load_state_dict(attack.state_dict())
    with pytest.raises(ValueError, match="float32"):
        Recycled(steps(1), dtype=torch.float32).load_state_dict(attack.state_dict())


@pytest.mark.parametrize(
    ("other", "shape"),
    [(rows(0, 1, data="those"), (1, 4, 4)), (rows(0, 1, total=7), (1, 4, 4)), (rows(0, 1), (1, 5, 4))],
)
def test_other_data_is_refused(other, shape):
    x, y = batch()
    problem = Problem(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 4)))
    attack = Recycled(steps(1))
    attack(problem.at(ALL), x, y)
    attack(problem.at(rows(0, 1)), x[:2], y[:2])
    with pytest.raises(ValueError, match="6 other examples.*build a new `Recycled`"):
        attack(problem.at(other), torch.rand(2, *shape), y[:2])


def test_another_order_of_the_data_is_refused(make_classifier, digits):
    x, y = digits[0][:40], digits[1][:40]
    trainer = ObjectiveTrainer(make_classifier(), Adversarial(Recycled(PGD(0.1, 0.05, 1))), verbose=False)
    for _ in range(2):
        trainer.fit(x, y, nb_epochs=1)
    with pytest.raises(ValueError, match="in an order of its own"):
        trainer.fit(x[::-1], y[::-1], nb_epochs=1)
    with pytest.raises(ValueError, match="has 39 of shape"):
        trainer.fit(x[:39], y[:39], nb_epochs=1)


def test_batches_without_rows_are_refused_with_the_remedy(make_classifier, digits):
    x, y = digits[0][:40], digits[1][:40]
    attack = Recycled(PGD(0.1, 0.05, 1))
    trainer = ObjectiveTrainer(make_classifier(), Adversarial(attack), verbose=False)
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=20)
    with pytest.raises(ValueError, match="give arrays, or train with the PGD itself"):
        trainer.fit_generator(loader, nb_epochs=1)
    with pytest.raises(ValueError, match="an augmentation without `draw`"):
        trainer.fit(x, y, nb_epochs=1, augmentation=lambda images, generator: images)
    trainer.fit(x, y, nb_epochs=1, augmentation=CropAndFlip(padding=1))
    assert attack.memory.nbytes == x.size


def test_validation_uses_an_attack_without_memory(make_classifier, digits):
    x, y = digits[0][:60], digits[1][:60]
    histories = []
    for attack in (Recycled(PGD(0.1, 0.05, 1), free_step=False), PGD(0.1, 0.025, 10)):
        classifier = make_classifier(3)
        classifier.optimizer.param_groups[0]["lr"] = 0.0
        trainer = ObjectiveTrainer(classifier, Adversarial(attack), verbose=False)
        trainer.fit(x, y, validation_data=(x, y), nb_epochs=1)
        histories.append(trainer.history[0]["robust_accuracy"])
    assert 0 <= histories[0] <= 1
    assert abs(histories[0] - histories[1]) < 0.1


@pytest.mark.parametrize("objective", [Adversarial, TRADES])
def test_objectives_learn_with_it(make_classifier, digits, objective):
    x, y = digits[0][:256], digits[1][:256]
    trainer = ObjectiveTrainer(make_classifier(), objective(Recycled(PGD(0.1, 0.05, 1))), verbose=False)
    trainer.fit(x, y, nb_epochs=4, batch_size=32)
    losses = [row["loss"] for row in trainer.history]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_trades_refuses_first_visits_at_the_example_itself(make_classifier, digits):
    """Its divergence has no gradient there, so that no perturbation would ever grow."""
    x, y = digits[0][:20], digits[1][:20]
    for random_start in (True, False):
        attack = Recycled(PGD(0.1, 0.05, 1, random_start=random_start))
        trainer = ObjectiveTrainer(make_classifier(), TRADES(attack), verbose=False)
        if random_start:
            trainer.fit(x, y, nb_epochs=1)
        else:
            with pytest.raises(ValueError, match="random start"):
                trainer.fit(x, y, nb_epochs=1)


def test_a_radius_in_other_units_is_noticed(make_classifier, digits):
    x, y = digits[0][:20], digits[1][:20]
    trainer = ObjectiveTrainer(make_classifier(), Adversarial(Recycled(PGD(8.0, 2.0, 1))), verbose=False)
    with pytest.warns(UserWarning, match="same units"):
        trainer.fit(x, y, nb_epochs=1)


def test_what_it_cannot_be_built_on_is_refused():
    Recycled(steps(1, random_start=True))
    with pytest.raises(TypeError, match="must be a PGD"):
        Recycled(CropAndFlip())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"restarts=1, got 2.*int8, float16 or float32, got torch.float64"):
        Recycled(steps(1, random_start=True, restarts=2), dtype=torch.float64)


def test_configuration_is_compared_and_printed_without_its_memory():
    x, y = batch()
    attack = Recycled(steps(1))
    attack(Problem(network()).at(ALL), x, y)
    assert attack == Recycled(steps(1))
    assert "memory" not in repr(attack)


def test_examples_come_back_to_the_process_that_keeps_their_perturbations():
    """The union of a step's examples is that of one process; nearly all of them return to where they were."""
    x, y = torch.rand(600, 2), torch.zeros(600).long()
    alone = [set(b.rows.index.tolist()) for b in ArrayBatches(x, y, 60).epoch(torch.Generator().manual_seed(0))]
    visits = torch.zeros(3, 600)
    for rank in range(3):
        world = World()
        world.rank, world.size = rank, 3
        batches = ArrayBatches(x, y, 20, world=world)
        for seed in range(4):
            steps = [b.rows.index for b in batches.epoch(torch.Generator().manual_seed(seed))]
            assert [len(index) for index in steps] == [20] * 10
            for index in steps:
                visits[rank, index] += 1
            if seed == 0:
                assert all(set(index.tolist()) <= step for index, step in zip(steps, alone, strict=True))
    assert (visits.sum(0) == 4).all()
    assert visits.amax(0).mean() > 3.4  # 2.1 where chance decides


def test_one_process_draws_in_the_order_of_the_generator():
    x, y = torch.rand(50, 2), torch.zeros(50).long()
    drawn = torch.cat([b.rows.index for b in ArrayBatches(x, y, 8).epoch(torch.Generator().manual_seed(5))])
    assert torch.equal(drawn, torch.randperm(50, generator=torch.Generator().manual_seed(5)))
