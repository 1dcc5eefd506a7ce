from __future__ import annotations

import pytest
import torch
from art.attacks.evasion import DeepFool, ProjectedGradientDescent
from torch.nn import functional as F

from art_atmc import PGD, TRADES, Adversarial, ObjectiveTrainer
from art_atmc.attacks.base import Problem, unreduced
from art_atmc.classifiers.network import Network
from art_atmc.training import Objective, Outcome

ATTACK = PGD(eps=0.1, eps_step=0.05, max_iter=3)


@pytest.fixture
def problem(make_classifier, digits):
    classifier = make_classifier()
    network = Network(classifier, torch.from_numpy(digits[0][:2]))
    return Problem.of(classifier, network, torch.Generator().manual_seed(0))


@pytest.fixture
def batch(digits):
    return torch.from_numpy(digits[0][:20]), torch.from_numpy(digits[1][:20])


def adversarial_examples(problem, batch, **options):
    generator = torch.Generator().manual_seed(0)
    return ATTACK(Problem(problem.network, clip_values=(0, 1), generator=generator, **options), *batch)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_adversarial_loss_is_the_formula(problem, batch, share):
    x, y = batch
    problem.network.eval()  # in training mode each pass would move the statistics that the attack sees
    x_adv = adversarial_examples(problem, batch)
    expected = (1 - share) * F.cross_entropy(problem.network(x_adv), y) + share * F.cross_entropy(problem.network(x), y)
    assert Adversarial(ATTACK, share)(problem, x, y).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_trades_loss_is_the_formula(problem, batch):
    x, y = batch
    problem.network.eval()

    def kl(logits, target):
        return (target * (target.log() - logits.log_softmax(1))).sum(1).mean()

    x_adv = adversarial_examples(problem, (x, problem.answers(x).softmax(1)), loss=kl)
    clean = problem.network(x)
    expected = F.cross_entropy(clean, y) + 6 * kl(problem.network(x_adv), clean.softmax(1))
    assert TRADES(ATTACK, beta=6)(problem, x, y).loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_trades_attack_raises_the_divergence(problem, batch):
    x, y = batch
    problem.network.eval()
    clean = problem.network(x)
    no_step = PGD(eps=1e-6, eps_step=1e-6, max_iter=1)
    assert TRADES(ATTACK)(problem, x, y).loss > TRADES(no_step)(problem, x, y).loss >= F.cross_entropy(clean, y)


def test_trades_needs_a_random_start(problem, batch):
    with pytest.raises(ValueError, match="random start"):
        TRADES(PGD(eps=0.1, eps_step=0.1, max_iter=2, random_start=False))(problem, *batch)


def test_art_attacks_and_foreign_ones_drive_the_objectives(problem, batch):
    pgd = ProjectedGradientDescent(
        problem.classifier, eps=0.1, eps_step=0.05, max_iter=2, num_random_init=1, verbose=False
    )
    for attack in (pgd, DeepFool(problem.classifier, max_iter=2, verbose=False)):
        for objective in (Adversarial(attack), TRADES(attack)):
            outcome = objective(problem, *batch)
            assert outcome.loss.requires_grad
            assert outcome.logits.shape == (20, 10)


def test_network_mode_and_gradients_are_as_before_the_attack(problem, batch):
    problem.network.train()
    for p in problem.network.parameters():
        p.grad = torch.ones_like(p)
    Adversarial(ATTACK)(problem, *batch)
    assert problem.network.training
    assert all((p.grad == 1).all() for p in problem.network.parameters())


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_bad_shares_are_refused(share):
    with pytest.raises(ValueError, match="`clean_share`"):
        Adversarial(ATTACK, share)


def test_bad_beta_is_refused_and_a_small_one_accepted():
    with pytest.raises(ValueError, match="`beta` must be positive"):
        TRADES(ATTACK, beta=0)
    assert TRADES(ATTACK, beta=0.1).beta == 0.1


@pytest.mark.parametrize("objective", [Adversarial, TRADES])
def test_what_is_no_attack_is_refused(objective, make_classifier):
    with pytest.raises(TypeError, match="expected an ART evasion attack"):
        objective("pgd")
    targeted = ProjectedGradientDescent(make_classifier(), eps=0.1, targeted=True, verbose=False)
    with pytest.raises(ValueError, match="untargeted"):
        objective(targeted)


def test_trades_survives_a_saturated_softmax_and_impossible_classes(problem, batch):
    """A probability of 0, from a gap of logits above 104 or a logit of minus infinity, has no infinite gradient."""
    x, y = batch

    class Saturated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(500.0))

        def forward(self, x):
            logits = self.scale * x.flatten(1)[:, 10:20]
            return torch.cat([logits[:, :9], torch.full_like(logits[:, :1], -torch.inf)], dim=1)

    network = Saturated()
    for rows in (slice(0, 20), slice(0, 1)):
        chosen = x[rows], y[rows].clamp(max=8)
        loss = TRADES(ATTACK)(Problem(network, clip_values=(0, 1)), *chosen).loss
        (gradient,) = torch.autograd.grad(loss, network.scale)
        assert loss.isfinite()
        assert gradient.isfinite()


def test_a_loss_is_the_mean_of_its_examples(problem, batch):
    x, y = batch
    logits = problem.network(x).detach()
    for loss in (torch.nn.CrossEntropyLoss(label_smoothing=0.1), F.cross_entropy):
        assert float(unreduced(loss)(logits, y).mean()) == pytest.approx(float(loss(logits, y)), rel=1e-6)
    with pytest.raises(TypeError, match="reduction='mean'"):
        unreduced(torch.nn.CrossEntropyLoss(reduction="sum"))


def test_figures_of_an_objective_stand_in_the_history(make_classifier, digits):
    class Counted(Objective):
        attack = None
        batches = 0

        def __call__(self, problem, x, y):
            self.batches += 1
            logits = problem.network(x)
            return Outcome(problem.loss(logits, y), logits)

        def figures(self):
            return {"batches": float(self.batches)}

    trainer = ObjectiveTrainer(make_classifier(), Counted(), verbose=False)
    trainer.fit(digits[0][:40], digits[1][:40], nb_epochs=2, batch_size=10)
    assert [row["batches"] for row in trainer.history] == [4, 8]
    assert Adversarial(ATTACK).figures() == {}
