"""The loop: ART's conventions, honest validation, reproducibility, and the defects of ART's trainers it lacks."""

from __future__ import annotations

import contextlib
import copy
import functools
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from art_atmc import PGD, TRADES, Adversarial, Natural, ObjectiveTrainer
from art_atmc.training import ArrayBatches, BestEpoch, Callback, Constant, Cosine, Hold, OneCycle, PerStep

ATTACK = PGD(eps=0.1, eps_step=0.05, max_iter=3)


def trained(make_classifier, digits, seed=0, n=256, epochs=2, objective=None, fit=None, **options):
    classifier = make_classifier(**options)
    trainer = ObjectiveTrainer(classifier, objective or Adversarial(ATTACK), seed=seed, verbose=False)
    x, y = digits
    arguments = {"validation_data": (x[1500:1600], y[1500:1600]), "nb_epochs": epochs, "batch_size": 64} | (fit or {})
    trainer.fit(x[:n], y[:n], **arguments)
    return classifier, trainer


def weights(classifier):
    return torch.cat([p.detach().reshape(-1) for p in classifier.model.parameters()])


@pytest.mark.parametrize("objective", [Adversarial(ATTACK), Adversarial(ATTACK, 0.5), TRADES(ATTACK)], ids=str)
def test_training_raises_robust_accuracy(make_classifier, digits, objective):
    _, trainer = trained(make_classifier, digits, n=1400, epochs=4, objective=objective)
    assert isinstance(trainer, Trainer)
    robust = [row["robust_accuracy"] for row in trainer.history]
    assert robust[-1] > max(0.5, robust[0] + 0.05)
    assert [row["epoch"] for row in trainer.history] == [1, 2, 3, 4]
    assert set(trainer.history[0]) == {
        "epoch", "loss", "train_robust_accuracy", "clean_accuracy", "robust_accuracy", "learning_rate", "seconds",
    }  # fmt: skip


def test_a_seed_reproduces_everything_and_another_does_not(make_classifier, digits):
    torch.manual_seed(1)
    first = weights(trained(make_classifier, digits)[0])
    np.random.seed(5), torch.manual_seed(7)
    again = weights(trained(make_classifier, digits)[0])
    other = weights(trained(make_classifier, digits, seed=1)[0])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dropout_and_art_attacks_are_reproducible_too(make_classifier, digits):
    def model():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 10))

    def run():
        classifier = make_classifier(model=model())
        attack = FastGradientMethod(classifier, eps=0.1, num_random_init=2)  # runs through ART, draws from numpy
        trainer = ObjectiveTrainer(classifier, Adversarial(attack), verbose=False)
        trainer.fit(digits[0][:128], digits[1][:128], nb_epochs=2, batch_size=64)
        return weights(classifier)

    assert torch.equal(run(), run())


def test_the_callers_randomness_is_left_alone(make_classifier, digits):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    classifier = make_classifier()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False).fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_index_and_one_hot_labels_train_alike(make_classifier, digits):
    x, y = digits
    by_index, by_row = make_classifier(), make_classifier()
    for classifier, labels in ((by_index, y[:128]), (by_row, np.eye(10, dtype=np.float32)[y[:128]])):
        ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False).fit(x[:128], labels, nb_epochs=1)
    assert torch.equal(weights(by_index), weights(by_row))


def test_loaders_and_art_generators_train(make_classifier, digits):
    x, y = digits[0][:128], digits[1][:128]
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=50, shuffle=True)
    generators = [
        loader,
        PyTorchDataGenerator(loader, size=128, batch_size=50),
        NumpyDataGenerator(x, np.eye(10)[y], batch_size=50, drop_remainder=False, shuffle=True),
    ]
    for generator in generators:
        classifier = make_classifier()
        before = weights(classifier)
        trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
        trainer.fit_generator(generator, nb_epochs=2, validation_data=(x, y))
        assert len(trainer.history) == 2
        assert not torch.equal(weights(classifier), before)


def test_a_loader_is_as_reproducible_as_arrays(make_classifier, digits):
    x, y = torch.from_numpy(digits[0][:128]), torch.from_numpy(digits[1][:128])

    def run():
        classifier = make_classifier()
        loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
        ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False).fit_generator(loader, nb_epochs=1)
        return weights(classifier)

    assert torch.equal(run(), run())


def test_the_best_validation_epoch_is_kept(make_classifier, digits):
    """A learning rate that ruins the last epoch: the weights are those of the best one."""
    classifier = make_classifier()
    rates = torch.optim.lr_scheduler.LambdaLR(classifier.optimizer, lambda epoch: 1.0 if epoch < 3 else 100.0)
    x, y = digits
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    trainer.fit(x[:700], y[:700], validation_data=(x[1500:], y[1500:]), nb_epochs=4, scheduler=rates)
    best = max(row["robust_accuracy"] for row in trainer.history)
    error = (best * (1 - best) / len(x[1500:])) ** 0.5
    kept = [row for row in trainer.history if row["robust_accuracy"] >= best - error][-1]
    assert kept["epoch"] < 4
    assert trainer.history[-1]["clean_accuracy"] < kept["clean_accuracy"] - 0.2
    measured = (classifier.predict(x[1500:]).argmax(1) == y[1500:]).mean()
    assert measured == pytest.approx(kept["clean_accuracy"], abs=1e-9)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(50, 60))
def test_the_latest_epoch_within_one_standard_error_is_kept(correct, n):
    """Online, against the definition."""
    model = nn.Linear(1, 1)
    run = SimpleNamespace(model=model, validated=n, weights=lambda: copy.deepcopy(model.state_dict()))
    chosen = BestEpoch()
    for epoch, hits in enumerate(correct):
        nn.init.constant_(model.weight, epoch)
        chosen.on_validation(run, {"robust_accuracy": hits / n, "clean_accuracy": 1.0})  # type: ignore[arg-type]
    chosen.on_train_end(run)  # type: ignore[arg-type]
    shares = [hits / n for hits in correct]
    error = (max(shares) * (1 - max(shares)) / n) ** 0.5
    assert model.weight.item() == max(e for e, share in enumerate(shares) if share >= max(shares) - error)


def test_validation_measures_the_weights_that_would_be_shipped(make_classifier, digits):
    classifier = make_classifier()
    parameters = list(classifier.model.parameters())
    inside = []

    class Shipped(Callback):
        @contextlib.contextmanager
        def validating(self, run):
            yield from shipped()

    def shipped():
        held = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p in parameters:
                p.zero_()
        inside.append(True)
        yield {"mark": 1.0}
        with torch.no_grad():
            for p, h in zip(parameters, held, strict=True):
                p.copy_(h)

    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    x, y = digits
    with trainer.watched(Shipped()):
        trainer.fit(x[:128], y[:128], validation_data=(x[:50], y[:50]), nb_epochs=2)
    assert inside == [True, True]
    assert trainer.history[0]["mark"] == 1.0
    assert trainer.history[0]["clean_accuracy"] == pytest.approx((y[:50] == 0).mean())  # all zero: class 0
    assert all((p == 0).all() for p in parameters)  # and those are the best weights that are kept


def test_progress_bars_can_be_silenced(make_classifier, digits, capsys):
    for verbose in (True, False):
        trainer = ObjectiveTrainer(make_classifier(), Adversarial(ATTACK), verbose=verbose)
        trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)
        assert ("epoch 1 of 1: loss" in capsys.readouterr().err) == verbose


# The defects of ART's trainers, by their numbers in our notes and the upstream issue.


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1], 0.5),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 2),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=1e9, factor=0.5),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, "max", 0.5, 0, 1e9, "abs"),
    ],
)
def test_b1_every_torch_scheduler_is_accepted_art_issue_2389(make_classifier, digits, make):
    classifier = make_classifier()
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    x, y = digits[0][:64], digits[1][:64]
    trainer.fit(x, y, validation_data=(x, y), nb_epochs=3, scheduler=make(classifier.optimizer))
    assert trainer.history[-1]["learning_rate"] < trainer.history[0]["learning_rate"] == 0.1


def test_b2_schedulers_step_once_an_epoch(make_classifier, digits):
    classifier = make_classifier()
    scheduler = torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1, 0.5)
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    trainer.fit(digits[0][:100], digits[1][:100], batch_size=10, nb_epochs=2, scheduler=scheduler)
    assert [row["learning_rate"] for row in trainer.history] == [0.1, 0.05]


def test_b3_an_attack_takes_the_whole_batch_at_once(make_classifier, digits):
    classifier = make_classifier()
    sizes = []
    classifier.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, max_iter=7, verbose=False)  # batch_size 32
    ObjectiveTrainer(classifier, Adversarial(attack), verbose=False).fit(
        digits[0][:128], digits[1][:128], nb_epochs=1, batch_size=128
    )
    assert sizes.count(128) == 8  # seven steps and the training pass
    assert attack.batch_size == 32


def test_b4_sequential_models_train(make_classifier, digits):
    for objective in (Adversarial(ATTACK), TRADES(ATTACK)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        _, trainer = trained(make_classifier, digits, objective=objective, n=512, epochs=3, model=model)
        assert trainer.history[-1]["clean_accuracy"] > 0.5


def test_b5_validation_data_is_preprocessed_once(make_classifier, digits):
    classifier, trainer = trained(make_classifier, digits, epochs=1, preprocessing=(0.5, 0.25))
    x, y = digits[0][1500:1600], digits[1][1500:1600]
    assert trainer.history[0]["clean_accuracy"] == pytest.approx(
        (classifier.predict(x).argmax(1) == y).mean(), abs=1e-6
    )


def test_b6_batch_norm_statistics_follow_the_training_examples(make_classifier, digits):
    classifier, _ = trained(make_classifier, digits, epochs=1, fit={"validation_data": None})
    assert classifier.model.norm.num_batches_tracked == 4  # one a batch: none by the attack, none missed
    assert (classifier.model.norm.running_mean != 0).any()


# Bad input


def test_a_classifier_without_optimizer_is_refused(make_classifier):
    with pytest.raises(ValueError, match="no optimizer"):
        ObjectiveTrainer(make_classifier(optimizer=None), Adversarial(ATTACK))


def test_wrong_kinds_are_refused(make_classifier):
    with pytest.raises(TypeError, match="PyTorchClassifier"):
        ObjectiveTrainer(nn.Linear(2, 2), Adversarial(ATTACK))
    with pytest.raises(TypeError, match="Adversarial"):
        ObjectiveTrainer(make_classifier(), ATTACK)  # type: ignore[arg-type]


def boxed(x):
    """An array of arrays, as lists of images become where they were of several sizes once."""
    array = np.empty(len(x), dtype=object)
    array[:] = list(x)
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, 0], y), "the classifier takes"),
        (lambda x, y: (x[:0], y[:0]), "empty"),
        (lambda x, y: (x, y[:-1]), "64 examples and y has 63"),
        (lambda x, y: (np.where(x > 0.9, np.nan, x), y), "NaN or infinite"),
        (lambda x, y: (x * 255, y), "clip values"),
        (lambda x, y: (x, y + 5), "whole numbers from 0 to 9"),
        (lambda x, y: (x, y - 0.5), "whole numbers"),
        (lambda x, y: (x, np.zeros((64, 7))), "one-hot labels"),
        (lambda x, y: (x, np.zeros((64, 10))), "sum to 1"),
        (lambda x, y: (x.astype(str), y), "give real numbers"),
        (lambda x, y: (x.astype(complex), y), "give real numbers"),
        (lambda x, y: (boxed(x), y), r"np.stack\(list\(x\)\)"),
        (lambda x, y: ((255 * x).astype(np.uint8), y), "x holds bytes up to 255.*give x / 255, or a classifier"),
        (lambda x, y: (x, np.array([f"class {label}" for label in y])), r"y has dtype <U7; .*np.unique\(y"),
        (lambda x, y: (x, y.astype(object)), "y has dtype object"),
    ],
)
def test_bad_data_is_refused_before_training(make_classifier, digits, change, message):
    classifier = make_classifier()
    before = weights(classifier)
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    x, y = digits[0][:64], digits[1][:64]
    with pytest.raises(ValueError, match=message):
        trainer.fit(*change(x, y), nb_epochs=1)  # type: ignore[misc]
    with pytest.raises(ValueError, match=message):
        trainer.fit(x, y, validation_data=change(x, y), nb_epochs=1)
    assert torch.equal(weights(classifier), before)


def test_clip_values_must_broadcast_with_an_input(digits):
    images, labels = np.repeat(digits[0][:32], 3, axis=1), digits[1][:32]
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    for shape, fits in (((3,), False), ((3, 1, 1), True), ((3, 8, 8), True)):
        limits = np.zeros(shape, np.float32), np.ones(shape, np.float32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (3, 8, 8), 10, optimizer=optimizer, clip_values=limits, device_type="cpu"
        )
        trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
        if fits:
            trainer.fit(images, labels, nb_epochs=1)
        else:
            with pytest.raises(ValueError, match=r"clip values have shapes \(3,\) .*have shape \(channels, 1, 1\)"):
                trainer.fit(images, labels, nb_epochs=1)


def test_integer_and_double_inputs_are_accepted(make_classifier, digits):
    for kind in (np.float64, np.uint8):
        trainer = ObjectiveTrainer(make_classifier(), Adversarial(ATTACK), verbose=False)
        trainer.fit(digits[0][:64].astype(kind), digits[1][:64].astype(np.int32), nb_epochs=1)


def test_bad_settings_are_refused(make_classifier, digits):
    trainer = ObjectiveTrainer(make_classifier(), Adversarial(ATTACK), verbose=False)
    x, y = digits[0][:64], digits[1][:64]
    with pytest.raises(ValueError, match="`nb_epochs`"):
        trainer.fit(x, y, nb_epochs=0)
    with pytest.raises(ValueError, match="`batch_size`"):
        trainer.fit(x, y, batch_size=0)
    with pytest.raises(TypeError, match=r"step\(\)"):
        trainer.fit(x, y, scheduler=0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown arguments"):
        trainer.fit(x, y, epochs=3)
    with pytest.raises(TypeError, match="DataLoader"):
        trainer.fit_generator([(x, y)])


def test_a_loss_that_becomes_nan_stops_with_epoch_and_batch_and_keeps_the_last_good_weights(make_classifier, digits):
    classifier = make_classifier()
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    x, y = digits
    seen: list[float] = []

    with pytest.raises(FloatingPointError, match=r"epoch 2, batch [23]: the loss"):
        trainer.fit(x[:256], y[:256], nb_epochs=3, batch_size=64, scheduler=_AbsurdRateAfterFirst(classifier, seen))
    assert torch.equal(weights(classifier), seen[0])  # type: ignore[arg-type]


class _AbsurdRateAfterFirst:
    def __init__(self, classifier, seen):
        self.classifier, self.seen = classifier, seen

    def step(self):
        self.seen.append(weights(self.classifier))
        self.classifier.optimizer.param_groups[0]["lr"] = 1e30


def test_weights_that_the_last_step_ruins_are_noticed(make_classifier, digits):
    classifier = make_classifier()
    before = weights(classifier)
    classifier.optimizer.param_groups[0]["lr"] = float("inf")
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    with pytest.raises(FloatingPointError, match="epoch 1: the last step"):
        trainer.fit(digits[0][:64] * 0 + 1, digits[1][:64], batch_size=64, nb_epochs=1)
    assert torch.equal(weights(classifier), before)


# Data as people have it


class Dicts(Dataset):
    """Samples are dictionaries, and their collate function makes the batch."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"image": torch.from_numpy(self.x[i]), "label": int(self.y[i])}


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(zip(torch.from_numpy(self.x), self.y.tolist(), strict=True))


def fitted(make_classifier, loader, **options):
    classifier = make_classifier()
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    trainer.fit_generator(loader, nb_epochs=2, **options)
    return classifier


def test_unpack_says_how_to_take_inputs_and_labels(make_classifier, digits):
    x, y = digits[0][:64], digits[1][:64]
    loader = DataLoader(Dicts(x, y), batch_size=32)

    def unpack(batch):
        return batch["image"], batch["label"]

    pairs = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=32)
    by_unpack = fitted(make_classifier, loader, unpack=unpack, validation_data=DataLoader(Dicts(x, y), batch_size=50))
    assert torch.equal(weights(by_unpack), weights(fitted(make_classifier, pairs, validation_data=(x, y))))
    with pytest.raises(TypeError, match=r"got a dict of image, label; say how .* unpack"):
        fitted(make_classifier, loader)
    thirds = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y), torch.arange(64)), batch_size=32)
    with pytest.raises(TypeError, match="of 3 parts"):
        fitted(make_classifier, thirds)


def test_a_collate_function_may_make_the_pair(make_classifier, digits):
    def collate(samples):
        return torch.stack([s["image"] for s in samples]), torch.tensor([s["label"] for s in samples])

    classifier = fitted(make_classifier, DataLoader(Dicts(digits[0][:64], digits[1][:64]), 32, collate_fn=collate))
    assert (weights(classifier) != weights(make_classifier())).any()


def test_iterable_data_sets_train_on_every_example(make_classifier, digits):
    x, y = digits[0][:64], digits[1][:64]
    pairs = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=32)
    streamed = fitted(make_classifier, DataLoader(Stream(x, y), batch_size=32), scheduler=None)
    assert torch.equal(weights(streamed), weights(fitted(make_classifier, pairs, scheduler=None)))
    few = ObjectiveTrainer(make_classifier(), Adversarial(ATTACK), verbose=False)
    few.fit_generator(DataLoader(Stream(x, y), batch_size=16), nb_epochs=1, steps_per_epoch=3)
    with pytest.raises(ValueError, match="must have a length"):
        fitted(make_classifier, pairs, validation_data=DataLoader(Stream(x, y), batch_size=32))


def test_a_loader_that_draws_leaves_the_callers_randomness_alone(make_classifier, digits):
    class Noisy(Dicts):
        def __getitem__(self, i):
            return torch.from_numpy(self.x[i]) * torch.rand(()), int(self.y[i])

    own = torch.Generator().manual_seed(5)
    loader = DataLoader(Noisy(digits[0][:64], digits[1][:64]), batch_size=32, shuffle=True, generator=own)
    classifier = make_classifier()
    before = torch.get_rng_state()
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    trainer.fit_generator(loader, nb_epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    own.manual_seed(5)
    assert torch.equal(weights(classifier), weights(fitted(make_classifier, loader)))


def test_a_last_batch_of_one_joins_the_one_before(make_classifier, digits):
    x, y = (torch.from_numpy(a[:65]) for a in digits)
    assert [len(batch.x) for batch in ArrayBatches(x, y, 32).epoch(None)] == [32, 33]
    assert [len(batch.x) for batch in ArrayBatches(x[:64], y[:64], 32).epoch(None)] == [32, 32]
    assert [len(batch.x) for batch in ArrayBatches(x[:3], y[:3], 1).epoch(None)] == [1, 1, 1]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10))
    trainer = ObjectiveTrainer(make_classifier(model=model), Adversarial(ATTACK), verbose=False)
    trainer.fit(digits[0][:65], digits[1][:65], batch_size=32, nb_epochs=1)


def test_weights_of_examples_count_in_the_loss(make_classifier, digits):
    x, y = digits[0][:64], digits[1][:64]

    def trained_with(objective, weight, n=64):
        classifier = make_classifier(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        trainer = ObjectiveTrainer(classifier, objective, verbose=False)
        trainer.fit(x[:n], y[:n], batch_size=64, nb_epochs=1, sample_weight=weight)
        return weights(classifier)

    no_start = PGD(eps=0.1, eps_step=0.05, max_iter=2, random_start=False)
    for objective in (Adversarial(no_start), Adversarial(no_start, 0.5), Natural()):
        half = np.repeat([1.0, 0.0], 32)
        assert torch.allclose(trained_with(objective, half), trained_with(objective, None, 32), atol=1e-5)
        assert torch.allclose(trained_with(objective, np.full(64, 3.0)), trained_with(objective, None), atol=1e-5)
    with pytest.raises(ValueError, match="`sample_weight`"):
        trained_with(Natural(), np.ones(63))
    with pytest.raises(ValueError, match="`sample_weight`"):
        trained_with(Natural(), -np.ones(64))


# Learning rates


@pytest.mark.parametrize("rate", [Constant(), Hold(), Hold(0.5, 0.2), Cosine(), Cosine(0.1), OneCycle()], ids=repr)
def test_a_rate_is_its_shape_and_gives_the_optimizer_its_own_back(make_classifier, digits, rate):
    seen: list[float] = []

    class Watch(Callback):
        def on_batch_end(self, run):
            seen.append(run.optimizer.param_groups[0]["lr"])

    classifier = make_classifier()
    trainer = ObjectiveTrainer(classifier, Natural(), callbacks=[Watch()], verbose=False)
    trainer.fit(digits[0][:100], digits[1][:100], batch_size=10, nb_epochs=2, scheduler=rate)
    assert seen == pytest.approx([0.1 * rate.share(step / 20) for step in range(20)])
    assert classifier.optimizer.param_groups[0]["lr"] == 0.1
    assert eval(repr(rate)) == rate


def test_schedulers_made_for_steps_are_stepped_after_each(make_classifier, digits):
    x, y = digits[0][:100], digits[1][:100]
    classifier = make_classifier()
    cycle = torch.optim.lr_scheduler.OneCycleLR(classifier.optimizer, max_lr=0.2, total_steps=20)
    ObjectiveTrainer(classifier, Natural(), verbose=False).fit(x, y, batch_size=10, nb_epochs=2, scheduler=cycle)
    assert cycle.last_epoch == 20
    short = torch.optim.lr_scheduler.OneCycleLR(make_classifier().optimizer, max_lr=0.2, total_steps=2)
    trainer = ObjectiveTrainer(make_classifier(), Natural(), verbose=False)
    with pytest.raises(ValueError, match="built for 2 steps, but this fit makes 20"):
        trainer.fit(x, y, batch_size=10, nb_epochs=2, scheduler=short)
    halves = torch.optim.lr_scheduler.StepLR(trainer.classifier.optimizer, 1, 0.5)
    trainer.fit(x, y, batch_size=50, nb_epochs=1, scheduler=PerStep(halves))
    assert trainer.classifier.optimizer.param_groups[0]["lr"] == 0.025


# Callbacks, and the state of a run


def test_callbacks_are_called_at_the_seams(make_classifier, digits):
    calls = []

    class Every(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_") or name in ("close", "validating"):
                calls.append(name)
            return super().__getattribute__(name)

    trainer = ObjectiveTrainer(make_classifier(), Natural(), callbacks=[Every()], verbose=False)
    trainer.fit(digits[0][:20], digits[1][:20], batch_size=10, nb_epochs=1)
    batch = ["on_gradients", "on_batch_end", "on_settled"]
    expected = ["on_train_start", "on_epoch_start", *batch, *batch, "validating", "on_validation"]
    assert calls == [*expected, "on_epoch_end", "on_settled", "on_train_end", "close"]
    with pytest.raises(TypeError, match="Callback"):
        ObjectiveTrainer(make_classifier(), Natural(), callbacks=[print])  # type: ignore[list-item]


def test_a_callback_may_clip_gradients_and_end_the_fit(make_classifier, digits):
    class ClipAndStop(Callback):
        def on_gradients(self, run):
            nn.utils.clip_grad_norm_(run.model.parameters(), 1e-12)
            if run.step == 3:
                run.stop("enough")

    classifier = make_classifier()
    before = weights(classifier)
    trainer = ObjectiveTrainer(classifier, Natural(), callbacks=[ClipAndStop()], verbose=False)
    trainer.fit(digits[0][:80], digits[1][:80], batch_size=10, nb_epochs=5)
    assert len(trainer.history) == 1
    assert torch.allclose(weights(classifier), before, atol=1e-9)


class Kept(Callback):
    """Takes the state of the run after a number of steps, or puts such a state into a new run."""

    def __init__(self, at=None, state=None):
        self.at, self.state = at, state

    def on_train_start(self, run):
        if self.at is None:
            run.load_state_dict(self.state)

    def on_batch_end(self, run):
        if run.step == self.at:
            self.state = run.snapshot()


@pytest.mark.parametrize("at", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize(
    "make",
    [torch.optim.SGD, torch.optim.Adam, functools.partial(torch.optim.Adam, fused=True)],
    ids=["sgd", "adam", "fused adam"],
)
def test_a_run_that_goes_on_from_a_state_ends_on_the_same_bits(make_classifier, digits, at, make):
    """Dropout, augmentation, batch normalisation, an ART attack that draws from numpy: all random states count."""

    def model():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 10))

    def noisy(x, generator):
        return (x + 0.05 * torch.rand(x.shape, generator=generator)).clamp(0, 1)

    def run(callback):
        torch.manual_seed(3)
        network = model()
        classifier = make_classifier(model=network, optimizer=make(network.parameters(), lr=0.01))
        attack = FastGradientMethod(classifier, eps=0.1, num_random_init=2)
        trainer = ObjectiveTrainer(classifier, Adversarial(attack), callbacks=[callback], verbose=False)
        x, y = digits
        trainer.fit(
            x[:200], y[:200], (x[1500:1550], y[1500:1550]), batch_size=50, nb_epochs=3, augmentation=noisy
        )  # fmt: skip
        return classifier, trainer

    kept = Kept(at)
    whole, first = run(kept)
    resumed, second = run(Kept(state=kept.state))
    assert torch.equal(weights(whole), weights(resumed))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.buffers(), resumed.model.buffers(), strict=True))
    for a, b in zip(first.history, second.history, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_what_is_put_back_after_nan_is_put_back_together(make_classifier, digits):
    """SGD's momentum held infinities, so that a second fit failed at any rate."""
    classifier = make_classifier()
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), verbose=False)
    x, y = digits
    trainer.fit(x[:256], y[:256], nb_epochs=1, batch_size=64)
    for group in classifier.optimizer.param_groups:
        group["lr"] = 1e30
    with pytest.raises(FloatingPointError):
        trainer.fit(x[:256], y[:256], nb_epochs=1, batch_size=64)
    for group in classifier.optimizer.param_groups:
        group["lr"] = 0.05
    trainer.fit(x[:256], y[:256], nb_epochs=1, batch_size=64)
    assert len(trainer.history) == 2


def test_a_second_fit_never_ends_below_the_first(make_classifier, digits):
    classifier, trainer = trained(make_classifier, digits, n=1400, epochs=4)
    x, y = digits
    kept = (classifier.predict(x[1500:1600]).argmax(1) == y[1500:1600]).mean()
    best = max(row["robust_accuracy"] for row in trainer.history)
    for group in classifier.optimizer.param_groups:
        group["lr"] = 3.0  # ruins the network
    trainer.fit(x[:128], y[:128], validation_data=(x[1500:1600], y[1500:1600]), nb_epochs=1)
    assert trainer.history[-1]["robust_accuracy"] < best
    assert (classifier.predict(x[1500:1600]).argmax(1) == y[1500:1600]).mean() == kept


# Said before training


def test_what_cannot_work_is_said_before_training(make_classifier, digits):
    x, y = digits[0][:64], digits[1][:64]
    trainer = ObjectiveTrainer(make_classifier(), Adversarial(ATTACK), verbose=False)
    with pytest.raises(ValueError, match="`augmentation` must take"):
        trainer.fit(x, y, augmentation=lambda x: x)  # type: ignore[arg-type, misc]
    with pytest.raises(ValueError, match="`augmentation` must return"):
        trainer.fit(x, y, augmentation=lambda x, generator: x[:, :, 1:])
    with pytest.raises(TypeError, match="fit_generator"):
        trainer.fit(DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y))), y)  # type: ignore[arg-type]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    closing = make_classifier(model=model, optimizer=torch.optim.LBFGS(model.parameters()))
    with pytest.raises(ValueError, match="several times a step"):
        ObjectiveTrainer(closing, Natural())
    assert trainer.history == []


@pytest.mark.parametrize("eps", [1.0, 1e-5])
def test_a_radius_in_other_units_is_noticed(make_classifier, digits, eps):
    trainer = ObjectiveTrainer(make_classifier(), Adversarial(PGD(eps, eps, 1)), verbose=False)
    with pytest.warns(UserWarning, match="the same units"):
        trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)


@pytest.mark.parametrize("outside", [False, True])
def test_reduced_precision_trains_weights_and_measures_in_full(make_classifier, digits, outside):
    """Autocast keeps the weights that it cast until its block ends: around a fit, those of the first step."""
    seen: dict[str, set[Any]] = {"training": set(), "validation": set()}

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            logits = self.fc(x.flatten(1))
            seen["training" if self.training else "validation"].add(logits.dtype)
            return logits

    x, y = digits[0][:200], digits[1][:200]
    losses = []
    for precision in (None, torch.bfloat16):
        classifier = make_classifier(model=Spy())
        trainer = ObjectiveTrainer(classifier, Natural(), precision=None if outside else precision, verbose=False)
        around = torch.autocast("cpu", precision) if outside and precision else contextlib.nullcontext()
        seen["training"].clear()
        with around:
            trainer.fit(x, y, None if outside else (x, y), nb_epochs=3, batch_size=20)
        losses.append([row["loss"] for row in trainer.history])
        assert all(p.dtype == torch.float32 for p in classifier.model.parameters())
    assert seen["training"] == {torch.bfloat16}
    assert torch.bfloat16 not in seen["validation"]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.03)


def test_a_precision_that_needs_scaled_losses_is_refused(make_classifier):
    ObjectiveTrainer(make_classifier(), Natural(), precision=torch.bfloat16)
    with pytest.raises(ValueError, match="torch.bfloat16 or None, got torch.float16"):
        ObjectiveTrainer(make_classifier(), Natural(), precision=torch.float16)
