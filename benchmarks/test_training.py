"""Adversarial training steps: ours against a plain torch loop, against ART's Madry trainer, and ATMC against dense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import AdversarialTrainerMadryPGD
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_atmc import (
    PGD,
    Adversarial,
    ATMCTrainer,
    ObjectiveTrainer,
    Quantization,
    Sparsity,
    StraightThrough,
    Tightening,
    compressible,
    enforced,
)
from art_atmc.data import load
from art_atmc.networks import digits_cnn, lenet, resnet34

EPS = 76 / 255


@pytest.fixture(scope="module")
def digits():
    data = load("digits", None)
    return data.x_train[:1400], data.y_train[:1400], data.x_test, data.y_test


def classifier_of(make, shape, lr=0.01):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, 10, optimizer=optimizer, clip_values=(0, 1))


def ours(data, make, attack, batch_size=128):
    classifier = classifier_of(make, data[0].shape[1:])
    trainer = ObjectiveTrainer(classifier, Adversarial(attack), verbose=False)
    return lambda: trainer.fit(*data, batch_size=batch_size, nb_epochs=1)  # type: ignore[misc]


def plain_loop(data, make, steps, eps_step, batch_size=128):
    """The same passes as a researcher writes them: NCHW float32, frozen parameters, clamps."""
    model = classifier_of(make, data[0].shape[1:]).model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x_all, y_all = torch.from_numpy(data[0]), torch.from_numpy(data[1])

    def epoch():
        for x, y in zip(x_all.split(batch_size), y_all.split(batch_size), strict=True):
            model.eval()
            for p in model.parameters():
                p.requires_grad_(False)
            adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
            for _ in range(steps):
                adv.requires_grad_(True)
                (g,) = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)
                adv = (x + (adv.detach() + eps_step * g.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
            for p in model.parameters():
                p.requires_grad_(True)
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(adv), y).backward()
            optimizer.step()

    return epoch


def test_dense_step_against_a_plain_loop(compare, mnist):
    attack = PGD(EPS, EPS / 4, 8)
    compare(
        "dense step, LeNet, batch 128, 8 PGD steps, against a plain NCHW loop",
        ours(mnist, lenet, attack),
        plain_loop(mnist, lenet, 8, EPS / 4),
        at_most=0.65,
    )


def madry(data, make, eps, eps_step, max_iter):
    classifier = classifier_of(make, data[0].shape[1:])
    trainer = AdversarialTrainerMadryPGD(
        classifier, nb_epochs=1, batch_size=128, eps=eps, eps_step=eps_step, max_iter=max_iter
    )
    return lambda: trainer.fit(*data)


def test_dense_epoch_against_art_on_mnist(compare, mnist):
    compare(
        "dense epoch, LeNet, 8 PGD steps, against AdversarialTrainerMadryPGD",
        ours(mnist, lenet, PGD(EPS, EPS / 4, 8)),
        madry(mnist, lenet, EPS, EPS / 4, 8),
        at_most=1 / 3,
        rounds=5,
    )


def test_dense_epoch_against_art_on_digits(compare, digits):
    data = digits[:2]
    compare(
        "dense epoch, digits CNN, 7 PGD steps, against AdversarialTrainerMadryPGD",
        ours(data, digits_cnn, PGD(0.1, 0.025, 7)),
        madry(data, digits_cnn, 0.1, 0.025, 7),
        at_most=1 / 2.5,
    )


def test_robust_accuracy_equals_arts(digits, capsys):
    """The same epochs by our loop and by ART's Madry trainer, three seeds each: equal within the noise of the seeds."""
    x, y, x_test, y_test = digits

    def robust(fit):
        accuracies = []
        for seed in range(3):
            torch.manual_seed(seed), np.random.seed(seed)
            classifier = classifier_of(digits_cnn, x.shape[1:], lr=0.05)
            fit(classifier, seed)
            attack = ProjectedGradientDescent(
                classifier, eps=0.1, eps_step=0.025, max_iter=20, num_random_init=1, verbose=False
            )
            accuracies.append((classifier.predict(attack.generate(x_test, y_test)).argmax(1) == y_test).mean())
        return np.array(accuracies)

    mine = robust(
        lambda c, seed: ObjectiveTrainer(c, Adversarial(PGD(0.1, 0.025, 7)), seed=seed, verbose=False).fit(
            x, y, nb_epochs=10, batch_size=128
        )
    )
    arts = robust(
        lambda c, _: AdversarialTrainerMadryPGD(
            c, nb_epochs=10, batch_size=128, eps=0.1, eps_step=0.025, max_iter=7
        ).fit(x, y)
    )
    print(f"\nrobust accuracy after 10 epochs on digits: ours {mine.round(3)}, ART {arts.round(3)}")
    assert abs(mine.mean() - arts.mean()) < 0.05


def test_atmc_step_against_dense_step(compare, mnist):
    """Factors, sparsity after every step, codebook every 10 steps; the constraints in full from the start."""
    data = tuple(np.concatenate([part] * 5) for part in mnist)  # 20 steps, two codebook updates
    attack = PGD(EPS, EPS / 4, 8)
    classifier = classifier_of(lenet, (1, 28, 28))
    trainer = ATMCTrainer(
        classifier,
        attack,
        [Sparsity(0.05), Quantization(4)],
        verbose=False,
        schedule=Tightening(support=(0, 0), codebook=0),
    )
    with trainer._compressing(10**9):
        compare(
            "ATMC step (factors, density 0.05, 4 bits every 10 steps) against our dense step, LeNet, 8 PGD steps",
            lambda: trainer.trainer.fit(*data, batch_size=128, nb_epochs=1),
            ours(data, lenet, attack),
            at_most=1.25,
            rounds=3,
        )


def natural_step(model, optimizer):
    """A training step without an attack, beside which solvers cost the largest share."""
    x, y = torch.rand(128, 3, 32, 32), torch.randint(0, 10, (128,))

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def test_straight_through_step_against_dense_step(compare):
    """21.3 million weights, support and codebook projected in every step."""
    models = resnet34(), resnet34()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4) for model in models]
    ours, dense = map(natural_step, models, optimizers)
    weights = compressible(models[0])
    solvers = [StraightThrough(weights, Sparsity(0.05)), StraightThrough(weights, Quantization(4))]
    with enforced(optimizers[0], solvers):
        compare(
            "step through density 0.05 and 4 bits against a dense step, ResNet-34, batch 128, no attack",
            ours,
            dense,
            at_most=1.1,
            rounds=3,
        )
