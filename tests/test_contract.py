"""ART's contract: what works with plain ART works with factors too, in our class and in ART's own."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from art import config
from art.attacks.evasion import (
    AutoAttack,
    BoundaryAttack,
    DeepFool,
    FastGradientMethod,
    HopSkipJump,
    ProjectedGradientDescent,
    SimBA,
    SpatialTransformation,
    SquareAttack,
    UniversalPerturbation,
    ZooAttack,
)
from art.data_generators import PyTorchDataGenerator
from art.defences.preprocessor import FeatureSqueezing, GaussianAugmentation
from art.defences.trainer import AdversarialTrainer
from art.estimators.certification.interval import PyTorchIBPClassifier
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.preprocessing import PreprocessorPyTorch
from art.preprocessing.standardisation_mean_std import StandardisationMeanStd, StandardisationMeanStdPyTorch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from art_atmc import (
    PGD,
    Adversarial,
    ATMCTrainer,
    CompressedClassifier,
    Natural,
    ObjectiveTrainer,
    Sparsity,
    decompose,
    recompose,
)
from art_atmc.attacks.art import adversary
from art_atmc.classifiers.network import Network
from art_atmc.compression.factors import LowRankPlusSparse, decomposed
from art_atmc.evaluation import Suite, evaluate

ATTACK = PGD(0.1, 0.05, 1)


@pytest.fixture
def x(digits):
    return digits[0][:20]


@pytest.fixture
def y(digits):
    return np.eye(10, dtype=np.float32)[digits[1][:20]]


@pytest.fixture
def factored(make_classifier):
    """A CompressedClassifier whose factors are all in use."""
    return CompressedClassifier.of(in_factors(make_classifier()))


def in_factors(classifier):
    decompose(classifier.model, optimizer=classifier.optimizer)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer, local in decomposed(classifier.model).values():
            for factor in layer.parametrizations[local].parameters():
                factor.add_(0.02 * torch.randn_like(factor))
    return classifier


def dense(classifier):
    """ART's own classifier of the same weights."""
    return PyTorchClassifier(
        recompose(copy.deepcopy(classifier.model)), nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0)
    )


def close(a, b):
    return np.allclose(a, b, atol=1e-5)


# Inputs


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64])
def test_every_method_takes_inputs_of_any_numeric_type(factored, x, y, dtype):
    plain = dense(factored)
    given = (x * 4).astype(dtype)
    as_plain_takes_it = given.astype(np.float32)
    assert close(factored.predict(given), plain.predict(as_plain_takes_it))
    assert close(factored.loss_gradient(given, y), plain.loss_gradient(as_plain_takes_it, y))
    assert close(factored.class_gradient(given, 3), plain.class_gradient(as_plain_takes_it, 3))
    assert close(factored.compute_loss(given, y), plain.compute_loss(as_plain_takes_it, y))
    assert close(factored.compute_losses(given, y)["total"], plain.compute_losses(as_plain_takes_it, y)["total"])
    assert close(factored.get_activations(given, 0), plain.get_activations(as_plain_takes_it, 0))
    factored.fit(given, y, nb_epochs=1)


def test_a_defence_that_returns_doubles_is_no_obstacle(make_classifier, x):
    squeezing = FeatureSqueezing(clip_values=(0, 1), bit_depth=2)
    classifier = CompressedClassifier.of(in_factors(make_classifier(preprocessing_defences=squeezing)))
    assert close(classifier.predict(x), dense(classifier).predict(squeezing(x)[0].astype(np.float32)))


def test_a_network_in_double_precision_keeps_it(make_classifier, x, y):
    classifier = in_factors(make_classifier())
    classifier.model.double()
    taken = CompressedClassifier.of(classifier)
    assert taken.loss_gradient(x.astype(np.float64), y).dtype == np.float64
    assert close(taken.predict(x), dense(taken).predict(x.astype(np.float64)))
    assert Network(classifier, torch.from_numpy(x)).evaluate(torch.from_numpy(x)).dtype == torch.float64


def test_word_indices_stay_whole_numbers():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    classifier = CompressedClassifier(decompose(model), nn.CrossEntropyLoss(), (2,), 2, preprocessing=None)
    assert classifier.predict(np.array([[0, 4]])).shape == (1, 2)


# Weights that are formed once


@pytest.fixture
def formed(monkeypatch):
    """Counts how often a weight is formed."""
    counts = []
    forward = LowRankPlusSparse.forward
    monkeypatch.setattr(LowRankPlusSparse, "forward", lambda *a: counts.append(1) or forward(*a))
    return counts


def test_weights_are_formed_once_for_as_long_as_they_stay(factored, x, y, formed):
    for one in x:
        factored.predict(one[None])
        factored.loss_gradient(one[None], y[:1])
        factored.class_gradient(one[None])
    assert len(formed) == 2  # one a layer
    assert not torch.nn.utils.parametrize._cache


CHANGES = {
    "optimizer": lambda c, _: c.fit(np.ones((4, 1, 8, 8), np.float32), np.arange(4), nb_epochs=1),
    "in place": lambda c, _: c.model.fc.parametrizations.weight.original2.detach().add_(0.5),
    "another storage": lambda c, _: [setattr(p, "data", p.data + 0.1) for p in c.model.fc.parameters()],
    "state": lambda c, other: c.model.load_state_dict(other),
    "reset": lambda c, _: c.reset(),
    "recompose": lambda c, _: recompose(c.model).fc.weight.detach().mul_(2),
    "decompose": lambda c, _: decompose(recompose(c.model)).fc.parametrizations.weight.original2.detach().add_(0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_formed_again(factored, x, y, change):
    other = {name: tensor * 1.5 for name, tensor in factored.model.state_dict().items()}
    before = factored.predict(x), factored.loss_gradient(x, y)
    CHANGES[change](factored, other)
    after = factored.predict(x), factored.loss_gradient(x, y)
    fresh = dense(factored)
    assert not close(after[0], before[0])
    assert close(after[0], fresh.predict(x))
    assert close(after[1], fresh.loss_gradient(x, y))


def test_gradients_of_inputs_cost_none_of_the_parameters_and_training_goes_on(factored, x, y):
    assert close(factored.loss_gradient(x, y), dense(factored).loss_gradient(x, y))
    assert all(p.grad is None and p.requires_grad for p in factored.model.parameters())
    before = factored.predict(x)
    factored.fit(x, y, nb_epochs=1)
    assert not close(factored.predict(x), before)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, nn.utils.parametrize.cached])
def test_what_the_caller_has_open_does_not_matter(factored, x, y, mode):
    with mode():
        probabilities = factored.predict(x)
    assert close(probabilities, dense(factored).predict(x))
    assert close(factored.loss_gradient(x, y), dense(factored).loss_gradient(x, y))


# Copies


def test_a_factored_model_pickles_by_itself(factored, x):
    inputs = torch.from_numpy(x)
    file = io.BytesIO()
    torch.save(factored.model, file)
    file.seek(0)
    for model in pickle.loads(pickle.dumps(factored.model)), torch.load(file, weights_only=False):
        assert torch.equal(model.eval()(inputs), factored.model.eval()(inputs))
        assert list(decomposed(model)) == list(decomposed(factored.model))
        assert torch.equal(copy.deepcopy(model)(inputs), model(inputs))
        assert not decomposed(recompose(model))


def test_a_factored_model_with_another_parametrization_says_why_it_does_not_pickle():
    layer = decompose(nn.Linear(3, 3))
    nn.utils.parametrize.register_parametrization(layer, "bias", nn.Identity())
    with pytest.raises(TypeError, match=r"\['bias'\], which torch can't pickle; save the state_dict"):
        pickle.dumps(layer)


@pytest.mark.parametrize("kind", [PyTorchClassifier, CompressedClassifier])
def test_arts_own_classifier_copies_factored_models_too(make_classifier, x, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ART_DATA_PATH", str(tmp_path))  # where ART leaves files of its own
    classifier = in_factors(make_classifier())
    classifier = classifier if kind is PyTorchClassifier else CompressedClassifier.of(classifier)
    restored = pickle.loads(pickle.dumps(classifier))
    assert type(restored) is kind
    assert close(restored.predict(x), classifier.predict(x))
    clone = classifier.clone_for_refitting()
    assert list(decomposed(clone.model)) == list(decomposed(classifier.model))
    assert not close(clone.predict(x), classifier.predict(x))
    before = clone.predict(x)
    clone.fit(x, np.arange(len(x)) % 10, nb_epochs=1)
    assert not close(clone.predict(x), before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["copy", "pickle"])
def test_copies_keep_what_is_frozen_and_what_trains(make_classifier, x, copied):
    """A frozen layer, no optimizer, and an optimizer that trains the loss and things outside."""

    class Scaled(nn.Module):
        reduction = "mean"

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, logits, y):
            return nn.functional.cross_entropy(self.scale * logits, y)

    globals()["Scaled"] = Scaled  # so that it pickles
    Scaled.__qualname__ = "Scaled"
    classifier = in_factors(make_classifier())
    classifier.model.conv.requires_grad_(False)
    loss, elsewhere = Scaled(), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([*classifier.model.fc.parameters(), loss.scale, elsewhere], lr=0.1)
    taken = CompressedClassifier(classifier.model, loss, (1, 8, 8), 10, optimizer=optimizer)
    made = copied(taken)
    assert [p.requires_grad for p in made.model.parameters()] == [p.requires_grad for p in taken.model.parameters()]
    trained = [id(p) for group in made.optimizer.param_groups for p in group["params"]]
    assert trained[:-1] == [id(p) for p in (*made.model.fc.parameters(), made.loss.scale)]
    assert made.loss.scale is not loss.scale
    without = copied(CompressedClassifier(classifier.model, loss, (1, 8, 8), 10))
    assert without.optimizer is None
    assert close(without.predict(x), taken.predict(x))


def test_a_clone_for_refitting_learns_at_the_rate_from_before_a_scheduler(factored, x, y):
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(factored.optimizer, T_max=1)
    factored.optimizer.step()
    scheduler.step()
    assert factored.optimizer.param_groups[0]["lr"] == 0
    clone = factored.clone_for_refitting()
    assert clone.optimizer.param_groups[0]["lr"] == 0.1
    assert not clone.optimizer.state
    before = clone.predict(x)
    clone.fit(x, y, nb_epochs=1)
    assert not close(clone.predict(x), before)


def test_copying_after_recomposition_is_no_error(factored, x):
    recompose(factored.model)
    assert close(copy.deepcopy(factored).predict(x), factored.predict(x))
    assert close(pickle.loads(pickle.dumps(factored)).predict(x), factored.predict(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_auto_attack_hands_a_factored_model_to_worker_processes(factored, x, y):
    pytest.importorskip("multiprocess", reason="ART's AutoAttack imports it")
    attacks = [FastGradientMethod(factored, eps=0.1), FastGradientMethod(factored, eps=0.2)]
    attack = AutoAttack(factored, eps=0.2, attacks=attacks, parallel_pool_size=2)
    adv = attack.generate(x, y)
    labels = y.argmax(1)
    assert (factored.predict(adv).argmax(1) == labels).mean() <= (factored.predict(x).argmax(1) == labels).mean()


# Preprocessing


class Marked(PreprocessorPyTorch):
    """A defence that happens to have a `mean` of 0 and a `std` of 1."""

    mean, std = 0.0, 1.0

    def __init__(self):
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=True, apply_predict=True)

    def forward(self, x, y=None):
        return x + 1, y


def test_a_defence_is_no_standardisation_for_its_attributes(make_classifier, x):
    classifier = make_classifier(preprocessing_defences=Marked())
    inputs = torch.from_numpy(x)
    assert close(Network(classifier, inputs[:2]).evaluate(inputs), classifier.predict(x))
    assert not close(classifier.predict(x), make_classifier().predict(x))


@pytest.mark.parametrize("kind", [StandardisationMeanStd, StandardisationMeanStdPyTorch])
@pytest.mark.parametrize("flags", [(True, False), (False, True)])
def test_the_flags_of_preprocessing_are_kept(make_classifier, x, kind, flags):
    operation = kind(0.5, 0.25, apply_fit=flags[0], apply_predict=flags[1])
    classifier = make_classifier(preprocessing=operation)
    taken = CompressedClassifier.of(classifier)
    for made in taken, copy.deepcopy(taken):
        assert [(op.apply_fit, op.apply_predict) for op in made.preprocessing_operations] == [flags]
        assert close(made.predict(x), classifier.predict(x))


def test_a_defence_that_draws_further_examples_is_trained_on_as_by_art(make_classifier, digits):
    """Half as many examples again, each step and epoch of them; without it, none."""
    augmentation = GaussianAugmentation(sigma=0.1, ratio=0.5, augmentation=True, clip_values=(0, 1))
    seen = []

    class Counting(Natural.__base__):  # type: ignore[name-defined]
        attack = None

        def __call__(self, problem, x, y):
            seen.append(len(x))
            return Natural()(problem, x, y)

    for defences, expected in ((augmentation, 150), (None, 100)):
        seen.clear()
        trainer = ObjectiveTrainer(make_classifier(preprocessing_defences=defences), Counting(), verbose=False)
        trainer.fit(digits[0][:100], digits[1][:100], nb_epochs=1, batch_size=50)
        assert sum(seen) == expected
    squeezing = FeatureSqueezing(clip_values=(0, 1), bit_depth=2)
    classifier = make_classifier(preprocessing_defences=[squeezing, augmentation])
    with pytest.raises(ValueError, match="draws further examples after it changed them"):
        ObjectiveTrainer(classifier, Natural(), verbose=False).fit(digits[0][:9], digits[1][:9])


# Classifiers of other classes


def test_a_subclass_keeps_its_class(make_classifier, digits):
    model = make_classifier().model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    smoothing = PyTorchRandomizedSmoothing(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), sample_size=9, scale=0.1
    )
    trainer = ATMCTrainer(smoothing, ATTACK, [Sparsity(0.3)], verbose=False)
    trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert trainer.get_classifier() is smoothing
    assert trainer.compress().manifest.constraints == ["Sparsity(density=0.3)"]
    with pytest.raises(TypeError, match="subclass PyTorchRandomizedSmoothing, whose own methods would be lost"):
        CompressedClassifier.of(smoothing)


class Plain(nn.Module):
    """What ART's certification knows: convolution, ReLU, linear."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(144, 10)

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).flatten(1))


@pytest.mark.filterwarnings("ignore")  # it warns of what it infers
def test_interval_bounds_hold_for_factored_models_and_are_no_training(x):
    model = decompose(Plain())
    with torch.no_grad():
        model.fc.parametrizations.weight.original0[0, 1] = 0.5
    bounds = []
    for network in model, recompose(copy.deepcopy(model)):
        certified = PyTorchIBPClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))
        bounds.append(certified.predict_intervals(x, is_interval=False, bounds=0.01, limits=[0, 1]))
    assert close(*bounds)
    with pytest.raises(ValueError, match="PyTorchIBPClassifier has turned the network into bounds"):
        ATMCTrainer(certified, ATTACK, [Sparsity(0.3)])


# Attacks


def test_lists_of_attacks_are_refused_with_the_trainer_that_takes_them(make_classifier, digits):
    classifier = make_classifier()
    pgd = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.1, max_iter=1, verbose=False)
    attacks = [FastGradientMethod(classifier, eps=0.1), pgd]
    for take in (adversary, Adversarial, lambda a: ATMCTrainer(classifier, a, [Sparsity(0.3)])):
        with pytest.raises(TypeError, match=r"one attack, got a list of 2; .*AdversarialTrainer"):
            take(attacks)
    trainer = ATMCTrainer(classifier, constraints=[Sparsity(0.3)], trainer=AdversarialTrainer(classifier, attacks))
    trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=2, batch_size=32)
    assert trainer.compress().manifest.constraints == ["Sparsity(density=0.3)"]


DRIVERS = {
    "zoo": lambda c: ZooAttack(
        c, max_iter=2, nb_parallel=4, binary_search_steps=1, use_resize=False, use_importance=False, verbose=False
    ),
    "simba": lambda c: SimBA(c, max_iter=2, verbose=False),
    "hop-skip-jump": lambda c: HopSkipJump(c, max_iter=1, max_eval=10, init_eval=2, verbose=False),
    "boundary": lambda c: BoundaryAttack(c, targeted=False, max_iter=2, verbose=False),
    "square": lambda c: SquareAttack(c, max_iter=2, verbose=False),
    "deepfool": lambda c: DeepFool(c, max_iter=2, verbose=False),
    "universal": lambda c: UniversalPerturbation(c, attacker="fgsm", max_iter=1, verbose=False),
    "spatial": lambda c: SpatialTransformation(c, max_translation=10.0, num_translations=2, verbose=False),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", DRIVERS.values(), ids=DRIVERS)
def test_black_box_and_other_attacks_of_art_drive_training(make_classifier, digits, make):
    """By the labels, batches and precision that each of them takes; the attack comes back as it was."""
    classifier = make_classifier(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(dim=1)))
    attack = make(classifier)
    before = {name: value for name, value in vars(attack).items() if isinstance(value, int | float)}
    trainer = ATMCTrainer(classifier, attack, [Sparsity(0.5)], verbose=False)
    trainer.fit(digits[0][:20], digits[1][:20], nb_epochs=1, batch_size=10)
    assert trainer.compress().manifest.constraints == ["Sparsity(density=0.5)"]
    assert {name: getattr(attack, name) for name in before} == before
    assert not classifier._model._forward_pre_hooks


def test_an_art_generator_over_a_stream_trains(make_classifier, digits):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(digits[0][:20], digits[1][:20], strict=True)

    generator = PyTorchDataGenerator(DataLoader(Stream(), batch_size=5), size=20, batch_size=5)
    trainer = ATMCTrainer(make_classifier(), ATTACK, [Sparsity(0.5)], verbose=False)
    trainer.fit_generator(generator, nb_epochs=2)
    assert trainer.solvers[0].steps == 8


@pytest.mark.parametrize("labels", [lambda y: y, lambda y: y[:, None], lambda y: y.astype(np.float32)])
@pytest.mark.parametrize("factored", [True, False])
def test_a_classifier_of_one_logit_goes_from_training_to_the_test(labels, factored):
    rng = np.random.default_rng(0)
    x = rng.random((300, 6), dtype=np.float32)
    y = (x[:, 0] > x[:, 1]).astype(np.int64)
    torch.manual_seed(0)

    def network():
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))

    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    classifier = PyTorchClassifier(
        model, nn.BCEWithLogitsLoss(), (6,), 2, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )
    trainer = ATMCTrainer(classifier, PGD(0.02, 0.01, 3, restarts=2), [Sparsity(0.5)], factored=factored, verbose=False)
    trainer.fit(x, labels(y), validation_data=(x, labels(y)), nb_epochs=15, batch_size=50)
    suite = Suite("one", 0.02, np.inf, (PGD(0.02, 0.01, 3),))
    robust = trainer.get_classifier()
    tested = evaluate(robust, x, y, suite=suite, verbose=False)
    assert tested.clean_accuracy > 0.85
    assert tested["PGD-3"].correct.mean() <= tested.clean_accuracy
    assert tested["PGD-3"].correct.mean() == pytest.approx(trainer.history[-1]["robust_accuracy"], abs=0.05)
    restored = trainer.compress().restore(network())
    assert close(restored(torch.from_numpy(x)).detach().numpy(), robust.predict(x))
