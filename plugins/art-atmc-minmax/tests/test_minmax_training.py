"""Training against several attacks: what the options come to, what history says, and how a run goes on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from art_atmc_minmax import Generalized, WorstOf, worst_weights
from torch import nn

from art_atmc import PGD, Adversarial, ATMCTrainer, ObjectiveTrainer, Problem, Quantization, Recycled, Sparsity
from art_atmc.data import load
from art_atmc.networks import digits_cnn
from art_atmc.testing import check_attack, check_objective

torch.set_num_threads(1)
INF, TWO = PGD(0.1, 0.05, 2), PGD(0.5, 0.25, 2, norm=2)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def batch(n=16):
    data = load("digits")
    return torch.from_numpy(data.x_train[:n]), torch.from_numpy(data.y_train[:n])


def problem(net, **options):
    return Problem(net, clip_values=(0.0, 1.0), generator=torch.Generator().manual_seed(3), **options)


def classifier(seed=0):
    torch.manual_seed(seed)
    model = digits_cnn()
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu",
                             optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))  # fmt: skip


def gradients(objective, net, x, y, **options):
    net.zero_grad()
    loss, _ = objective(problem(net, **options), x, y)
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in net.parameters()]


def points(net, x, y):
    one = problem(net)
    return [attack(one, x, y) for attack in (INF, TWO)]


def test_one_attack_is_adversarial_training_bit_for_bit():
    net, (x, y) = network(), batch()
    for options in ({}, {"gamma": 0}, {"gamma": math.inf}, {"strategy": "weighted", "per_example": False}):
        ours, by_theirs = gradients(Generalized([INF], **options), net, x, y), gradients(Adversarial(INF), net, x, y)
        assert ours[0] == by_theirs[0]
        assert all(torch.equal(a, b) for a, b in zip(ours[1], by_theirs[1], strict=True))


@pytest.mark.parametrize("gamma", [1e9, math.inf])
def test_a_large_gamma_is_the_mean_of_the_losses(gamma):
    net, (x, y) = network(), batch()
    with torch.no_grad():
        expected = np.mean([float(nn.functional.cross_entropy(net(p), y)) for p in points(net, x, y)])
    assert gradients(Generalized([INF, TWO], gamma=gamma), net, x, y)[0] == pytest.approx(expected, abs=1e-5)


def test_no_gamma_is_the_mean_of_the_largest_losses():
    net, (x, y) = network(), batch()
    each = torch.stack([nn.functional.cross_entropy(net(p), y, reduction="none") for p in points(net, x, y)], dim=1)
    loss, gradient = gradients(Generalized([INF, TWO], gamma=0), net, x, y)
    assert loss == pytest.approx(float(each.detach().amax(dim=1).mean()), abs=1e-6)
    almost = gradients(Generalized([INF, TWO], gamma=1e-9), net, x, y)[1]
    for a, b in zip(gradient, almost, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("per_example", [True, False])
def test_the_gradient_is_that_of_fixed_weights(per_example):
    net, (x, y) = network(), batch()
    made = points(net, x, y)
    net.zero_grad()
    each = torch.stack([nn.functional.cross_entropy(net(p), y, reduction="none") for p in made], dim=1)
    losses = each if per_example else each.mean(dim=0)
    weights = worst_weights(losses.detach(), 0.3)
    (weights * losses).sum(-1).mean().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    found = gradients(Generalized([INF, TWO], gamma=0.3, per_example=per_example), net, x, y)[1]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_examples_weights_count():
    net, (x, y) = network(), batch()
    wrapped = PyTorchClassifier(net, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu")
    weights = torch.zeros(len(x))
    weights[:4] = 1
    whole = problem(net, classifier=wrapped).at(None, weights)
    few = problem(net)
    starting = [PGD(0.1, 0.05, 2, random_start=False), PGD(0.5, 0.25, 2, 2, random_start=False)]
    loss, _ = Generalized(starting, gamma=0.3)(whole, x, y)
    expected, _ = Generalized(starting, gamma=0.3)(few, x[:4], y[:4])
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_a_step_of_ascent_a_batch_remembers_and_is_saved():
    net, (x, y) = network(), batch()
    objective = Generalized([INF, TWO], gamma=0.1, per_example=False, weight_step=0.05)
    _ = objective(problem(net), x, y)
    first = objective.tally.weights.clone()
    _ = objective(problem(net), x, y)
    assert not torch.equal(first, objective.tally.weights)
    other = Generalized([INF, TWO], gamma=0.1, per_example=False, weight_step=0.05)
    other.load_state_dict(objective.state_dict())
    assert torch.equal(other.tally.weights, objective.tally.weights)
    assert other.figures() == objective.figures()
    assert other.figures() == {}  # the next epoch's begin with none


def test_alternating_takes_one_attack_a_batch_by_its_share():
    net, (x, y) = network(), batch()
    objective = Generalized([INF, TWO], strategy="alternating")
    one = problem(net)
    for _ in range(60):
        objective(one, x[:2], y[:2])
    shares = objective.figures()
    assert sum(shares.values()) == pytest.approx(1)
    assert 0.3 < shares["weight_inf"] < 0.7
    adaptive = Generalized([PGD(1e-4, 1e-4, 1), PGD(9.0, 9.0, 1, norm=2)], strategy="alternating", adaptive=True)
    confident = network(1)
    labels = confident(x).argmax(dim=1)
    for _ in range(60):
        adaptive(Problem(confident, clip_values=(0.0, 1.0), generator=one.generator), x, labels)
    assert adaptive.figures()["weight_2"] > 0.8


def test_steepest_takes_the_best_step_of_all_balls():
    net, (x, y) = network(), batch()
    objective = Generalized([INF, TWO], strategy="steepest")
    one = problem(net)
    x_adv = objective._steepest(one, x, y)
    delta = (x_adv - x).flatten(1)
    inside = (delta.abs().amax(1) <= 0.1 + 1e-6) | (delta.norm(dim=1) <= 0.5 + 1e-5)
    assert inside.all()
    with torch.no_grad():
        alone = nn.functional.cross_entropy(net(PGD(0.1, 0.05, 2, random_start=False)(one, x, y)), y)
        assert float(nn.functional.cross_entropy(net(x_adv), y)) >= float(alone) - 1e-3


def test_the_worst_of_attacks_is_fooled_where_any_is():
    net, (x, y) = network(), batch(60)
    y = net(x).argmax(dim=1)
    starting = [PGD(0.02, 0.02, 2, random_start=False), PGD(0.2, 0.2, 2, 2, random_start=False)]
    fooled = [net(a(problem(net), x, y)).argmax(1) != y for a in starting]
    assert torch.equal(net(WorstOf(starting)(problem(net), x, y)).argmax(1) != y, fooled[0] | fooled[1])
    check_attack(WorstOf([INF, TWO]))
    with pytest.raises(ValueError, match="`attacks` is empty"):
        WorstOf([])


def test_the_worst_of_attacks_works_on_a_single_logit():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    x, y = batch()
    one = Problem(net, lambda z, t: nn.functional.binary_cross_entropy_with_logits(z[:, 0], t.float()))
    adv = WorstOf([INF, TWO])(one, x, (y > 4).long())
    assert adv.shape == x.shape


@pytest.mark.parametrize(
    "options",
    [{}, {"gamma": 0}, {"gamma": math.inf}, {"per_example": False}, {"strategy": "alternating"},
     {"strategy": "steepest"}],
)  # fmt: skip
def test_the_laws_of_an_objective_are_kept(options):
    check_objective(Generalized([INF, TWO], **options))


def test_history_has_the_weights_and_a_run_goes_on_where_it_was(tmp_path):
    data = load("digits")
    x, y = data.x_train[:96], data.y_train[:96]

    def run(epochs, checkpoint=None, callbacks=()):
        victim = classifier()
        attacks = [Recycled(INF), PGD(0.5, 0.25, 2, norm=2)]
        objective = Generalized(attacks, gamma=0.2, per_example=False, weight_step=0.1)
        trainer = ObjectiveTrainer(victim, objective, checkpoint=checkpoint, verbose=False, callbacks=callbacks)
        trainer.fit(x, y, validation_data=(data.x_train[96:128], data.y_train[96:128]), nb_epochs=epochs, batch_size=32)
        return trainer

    from art_atmc.training import Callback, Interrupted

    class Stop(Callback):
        def on_batch_end(self, run):
            if run.epoch == 1 and run.batch == 2:
                raise KeyboardInterrupt

    whole = run(3)
    assert {"weight_1", "weight_2"} <= set(whole.history[0])
    assert whole.history[0]["weight_1"] + whole.history[0]["weight_2"] == pytest.approx(1)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run(3, tmp_path / "c", [Stop()])
    again = run(3, tmp_path / "c")
    same = [{k: v for k, v in row.items() if k != "seconds"} for row in again.history]
    assert same == [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]


def test_it_compresses():
    data = load("digits")
    trainer = ATMCTrainer(classifier(), Generalized([INF, TWO], gamma=0),
                          constraints=[Sparsity(density=0.1), Quantization(bits=4)], verbose=False)  # fmt: skip
    trainer.fit(data.x_train[:128], data.y_train[:128], nb_epochs=4, batch_size=16)
    trainer.compress().verify()
    assert "weight_inf" in trainer.history[-1]


def test_attacks_of_art_take_part():
    victim = classifier()
    by_art = ProjectedGradientDescent(victim, eps=0.1, eps_step=0.05, max_iter=2, verbose=False)
    data = load("digits")
    trainer = ObjectiveTrainer(victim, Generalized([by_art, TWO]), verbose=False)
    trainer.fit(data.x_train[:64], data.y_train[:64], nb_epochs=1, batch_size=32)
    assert len(trainer.history) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attacks": []}, "`attacks` is empty"),
        ({"gamma": -1}, "`gamma`"),
        ({"strategy": "max"}, "'weighted', 'alternating' or 'steepest'"),
        ({"adaptive": True}, "goes with strategy='alternating'"),
        ({"weight_step": 0.1}, "goes with per_example=False"),
        ({"attacks": [Recycled(INF)], "strategy": "steepest"}, "needs attacks that are PGD"),
    ],
)
def test_options_that_exclude_one_another_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Generalized(**{"attacks": [INF, TWO], **options})


def test_what_is_no_attack_is_refused():
    with pytest.raises(TypeError, match="evasion attack"):
        Generalized([3])
