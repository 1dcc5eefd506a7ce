"""Targets: toys whose answer is known, then digits."""

import itertools
import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from art_atmc_distortion import (
    Bound,
    CleanLoss,
    Constrained,
    FileSize,
    Fits,
    InfeasibleError,
    RobustLoss,
    Smallest,
    TargetTrainer,
    encoded_bytes,
)
from art_atmc_distortion.command import serve
from art_atmc_distortion.control import SmallestController
from art_atmc_distortion.knob import Knob
from art_atmc_distortion.rate import largest_within
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from art_atmc import (
    PGD,
    Adversarial,
    CompressedModel,
    Natural,
    ObjectiveTrainer,
    Problem,
    Quantization,
    Sparsity,
    Weights,
    compressible,
)
from art_atmc.data import load
from art_atmc.experiments.settings import Settings
from art_atmc.networks import digits_cnn
from art_atmc.plugins import parse
from art_atmc.training import AveragedWeights, Callback

torch.set_num_threads(1)
ATTACK = PGD(eps=0.1, eps_step=0.05, max_iter=2)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def classifier(seed=0):
    torch.manual_seed(seed)
    model = digits_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), preprocessing=None
    )


def fitted(digits, target, epochs=5, examples=700, factored=False, **options):
    options |= {"factored": factored, "verbose": False}
    trainer = TargetTrainer(classifier(), ATTACK, target, [Quantization(bits=4)], **options)
    x, y = digits.x_train, digits.y_train
    trainer.fit(
        x[:examples],
        y[:examples],
        validation_data=(x[-300:], y[-300:]),
        nb_epochs=epochs,
        batch_size=32,
        scheduler=None,
    )
    return trainer


class Toy:
    """A network of which only the number of weights counts."""

    def __init__(self, loss, count=10_000):
        self.knob = Knob()
        self.tensor = torch.randn(count, generator=torch.Generator().manual_seed(0))
        self.all = self.tensor.clone()
        self.loss = loss
        self.densities = []

    @property
    def weights(self):
        return Weights({"w": self.tensor})

    def controller(self, target):
        controlled = self.knob, (torch.zeros(1), torch.zeros(1)), None, lambda: self.weights
        controller = SmallestController(target, lambda: None, *controlled)
        controller.measured = lambda run: {  # type: ignore[method-assign]
            "robust_loss": self.loss(self.tensor),
            "density": self.weights.nnz() / len(self.tensor),
        }
        return controller

    def run(self, target, epochs):
        controller = self.controller(target)
        run = SimpleNamespace(
            epoch=0,
            epochs=epochs,
            batches=2,
            accumulating=False,
            weights=lambda: {"w": self.tensor.clone()},
            model=SimpleNamespace(
                load_state_dict=lambda state: self.tensor.copy_(state["w"]),
                named_parameters=lambda: [],
                named_buffers=lambda: [],
            ),
        )
        for run.epoch in range(epochs):
            for run.batch in (1, 2):
                controller.on_batch_end(run)
            self.tensor.copy_(Sparsity(self.knob.density).project(Weights({"w": self.all}))["w"])
            self.densities.append(self.knob.density)
            controller.on_validation(run, {})
        controller.on_train_end(run)
        return self.knob.density


@pytest.mark.parametrize("bound", [1.5, 3.0, 8.0])
def test_a_known_loss_gives_its_known_density(bound):
    toy = Toy(lambda w: (int(w.count_nonzero()) / len(w)) ** -0.5)
    assert toy.run(Smallest(robust_loss=bound), 40) == pytest.approx(bound**-2, rel=0.05)


def test_the_fewest_weights_of_a_linear_model_are_those_of_the_exhaustive_search():
    random = np.random.default_rng(0)
    columns, _ = np.linalg.qr(random.normal(size=(30, 12)))  # orthonormal, so that losses of subsets add up
    truth = random.normal(size=12)

    def loss(kept):
        return float(np.square(columns @ (truth - kept)).sum()) + 0.1

    def best(k):
        subsets = itertools.combinations(range(12), k)
        return min(loss(np.where(np.isin(range(12), subset), truth, 0)) for subset in subsets)

    for bound in (0.2, 1.0, 3.0):
        expected = min(k for k in range(1, 13) if best(k) <= bound)
        toy = Toy(lambda w: loss(w.double().numpy()), 12)
        toy.tensor, toy.all = torch.from_numpy(truth.copy()).float(), torch.from_numpy(truth).float()
        assert round(12 * toy.run(Smallest(robust_loss=bound), 30)) == expected


def test_the_density_comes_to_rest_before_the_run_ends():
    toy: Toy = Toy(lambda w: (int(w.count_nonzero()) / len(w)) ** -0.5 * (1 + 0.03 * (-1) ** len(toy.densities)))
    toy.run(Smallest(robust_loss=3.0), 40)
    rest = toy.densities[30:]
    assert max(rest) < 1.1 * min(rest)


def test_the_smallest_density_allowed_is_the_answer_where_it_is_good_enough():
    assert Toy(lambda w: 0.5).run(Smallest(robust_loss=0.6, least_density=0.05), 40) == 0.05


def test_a_target_that_no_network_reaches_is_said_after_the_warm_up():
    toy = Toy(lambda w: 0.9)
    with pytest.raises(InfeasibleError, match=r"after 4 of 10 epochs .* reaches robust loss 0.9, and robust loss 0.2"):
        toy.run(Smallest(robust_loss=0.2), 10)


def test_violations_are_shares_of_the_bound():
    target = Smallest(robust_loss=2.0, clean_accuracy=0.9)
    found = target.violations({"robust_loss": 1.0, "clean_accuracy": 0.8})
    assert found == {"robust_loss": -0.5, "clean_accuracy": pytest.approx(1.0)}


@given(st.integers(1, 400), st.integers(1, 3000), st.integers(0, 40), st.integers(1, 9))
@settings(deadline=None)
def test_the_largest_that_fits_is_found(most, budget, frame, each):
    calls = []

    def measured(k):
        calls.append(k)
        assert 1 <= k <= most
        return None, frame + each * k

    found = largest_within(measured, budget, most)
    fitting = [k for k in range(1, most + 1) if frame + each * k <= budget]
    assert len(calls) <= 40
    if not fitting:
        assert found is None
    else:
        assert found is not None
        k, _, size = found
        assert size == frame + each * k <= budget
        assert k == fitting[-1] or size > 0.99 * budget


def weights(seed=0, count=6000):
    generator = torch.Generator().manual_seed(seed)
    return Weights(
        {"a": torch.randn(count // 60, 40, generator=generator), "b": torch.randn(count // 3, generator=generator)}
    )


@pytest.mark.parametrize("size", [60, 300, 900, 2000])
@pytest.mark.parametrize("bits", [1, 4])
def test_encoded_weights_are_within_one_percent_of_the_bytes(size, bits):
    constraint = FileSize(bytes=size, bits=bits)
    point = constraint.project(weights())
    full = encoded_bytes(Quantization(bits).project(weights()))
    assert encoded_bytes(point) <= size
    # One weight more takes a byte or so: of 60 bytes that is more than a hundredth.
    assert encoded_bytes(point) >= min(0.99 * size - 4, full)
    again = constraint.project(point)
    assert all(torch.equal(again[name], point[name]) for name in point)


def test_file_size_leaves_its_argument_alone_and_is_rebuilt_from_its_name():
    given, before = weights(), weights()
    FileSize(bytes=200).project(given)
    assert all(torch.equal(given[name], before[name]) for name in given)
    assert parse("file-size:bytes=500,bits=2") == FileSize(500, 2)


def test_file_size_relaxes_to_its_bytes():
    sizes = [FileSize(100).relaxed(p).bytes for p in (0, 0.3, 0.6, 0.9, 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (6400, 100)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Smallest(), "one bound at least"),
        (lambda: Smallest(robust_accuracy=1.0), "no network is sure of 1"),
        (lambda: Smallest(robust_accuracy=85), r"must be in \(0, 1\)"),
        (lambda: Smallest(robust_loss=0), "`robust_loss` must be positive"),
        (lambda: Smallest(robust_loss=math.nan), "`robust_loss` must be positive"),
        (lambda: Smallest(robust_loss=1, least_density=0), "`least_density`"),
        (lambda: Smallest(robust_loss=1, warmup=0), "`warmup`"),
        (lambda: Fits(file_bytes=0), "`file_bytes` must be an integer of at least 1"),
        (lambda: FileSize(bytes=0), "`bytes` must be an integer of at least 1"),
        (lambda: FileSize(bytes=9, bits=17), "`bits` must be an integer in 1..16"),
        (lambda: FileSize(bytes=1).check(weights()), "less than one single weight takes"),
        (lambda: TargetTrainer(classifier(), ATTACK, Smallest(robust_loss=1), [Sparsity(0.1)]), "give one of them"),
        (lambda: TargetTrainer(classifier(), ATTACK, Fits(file_bytes=10)), "must be from .* to .* got 10"),
        (lambda: TargetTrainer(classifier(), ATTACK, Fits(file_bytes=10**7)), "must be from"),
        (lambda: Bound(CleanLoss(), at_most=-1), "`at_most` must be positive"),
        (lambda: Constrained(Natural(), [Bound(CleanLoss(), 1), Bound(CleanLoss(), 2)]), "contradict one another"),
        (lambda: Constrained(Natural(), []), "one bound at least"),
    ],
)
def test_bad_targets_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TargetTrainer(classifier(), ATTACK, "small"), "must be Smallest"),  # type: ignore[arg-type]
        (lambda: TargetTrainer(classifier(), ATTACK, Smallest(robust_loss=1), schedule=None), "belong to the target"),
        (
            lambda: TargetTrainer(classifier(), ATTACK, Smallest(robust_loss=1), callbacks=[AveragedWeights()]),
            "offer other weights",
        ),
        (lambda: Smallest(robust_loss=1, attack=3), "attack"),
        (lambda: RobustLoss(3), "attack"),
        (lambda: Constrained(ATTACK, [Bound(CleanLoss(), 1)]), "must be an Objective"),  # type: ignore[arg-type]
        (lambda: Constrained(Natural(), [CleanLoss()]), "must hold Bound"),  # type: ignore[list-item]
    ],
)
def test_what_is_no_target_is_refused(build, message):
    with pytest.raises(TypeError, match=message):
        build()


def test_a_weaker_attack_than_that_of_training_is_said():
    target = Smallest(robust_loss=1, attack=PGD(eps=0.1, eps_step=0.1, max_iter=1))
    with pytest.warns(UserWarning, match="weaker attack than that of training"):
        TargetTrainer(classifier(), ATTACK, target)


def test_validation_data_is_required(digits):
    trainer = TargetTrainer(classifier(), ATTACK, Smallest(robust_loss=1))
    with pytest.raises(ValueError, match="`validation_data` must be given"):
        trainer.fit(digits.x_train[:64], digits.y_train[:64])


def test_the_smallest_network_on_digits_meets_its_bound(digits, tmp_path):
    trainer = fitted(digits, Smallest(robust_loss=1.6), epochs=6)
    sparsity = trainer.constraints[0]
    kept = compressible(trainer.get_classifier().model)
    assert kept.nnz() == sparsity.budget(kept) < 0.9 * kept.dense_size
    # The figures of the network that came out, by another path than the controller's.
    x, y = torch.from_numpy(digits.x_train[-300:]), torch.from_numpy(digits.y_train[-300:])
    model = trainer.get_classifier().model
    problem = Problem(model, nn.CrossEntropyLoss(), (0, 1), torch.Generator().manual_seed(0))
    losses = [
        float(nn.functional.cross_entropy(problem.answers(ATTACK(problem, a, b)), b)) * len(a)
        for a, b in zip(x.split(256), y.split(256), strict=True)
    ]
    assert sum(losses) / 300 <= 1.6 * 1.0001
    compressed = trainer.compress()
    compressed.save(tmp_path / "small.atmc")
    assert CompressedModel.load(tmp_path / "small.atmc").manifest.constraints[0] == repr(sparsity)
    assert {"density", "robust_loss", "violation_of_target"} <= trainer.history[-1].keys()


@pytest.mark.parametrize(("size", "factored"), [(3000, False), (6000, True)])
def test_the_file_has_its_size(digits, size, factored):
    trainer = fitted(digits, Fits(file_bytes=size), epochs=4, examples=300, factored=factored)
    assert 0.99 * size <= trainer.compress().file_bytes <= size
    if trainer.constraints[0].density < 1:
        assert "file_bytes" in trainer.history[-1]


class Stop(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, run, row):
        if run.epoch == self.epoch:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_bit_for_bit(digits, tmp_path):
    target = Smallest(robust_loss=2.4)
    whole = fitted(digits, target, epochs=3, examples=200, checkpoint=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fitted(digits, target, epochs=3, examples=200, checkpoint=tmp_path / "part", callbacks=[Stop(3)])
    again = fitted(digits, target, epochs=3, examples=200, checkpoint=tmp_path / "part", callbacks=[Stop(9)])
    assert again.constraints == whole.constraints
    before, after = (t.get_classifier().model.state_dict() for t in (whole, again))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_bound_on_the_clean_loss_is_met_while_the_robust_loss_is_minimised(digits):
    objective = Constrained(Adversarial(ATTACK), [Bound(CleanLoss(), at_most=0.3)], frozen=10)
    trainer = ObjectiveTrainer(classifier(), objective, verbose=False)
    trainer.fit(digits.x_train[:700], digits.y_train[:700], nb_epochs=6, batch_size=32, scheduler=None)
    assert objective.lagrangian.steps == 6 * 22
    state = objective.state_dict()
    other = Constrained(Adversarial(ATTACK), [Bound(CleanLoss(), at_most=0.3)], frozen=10)
    other.load_state_dict(state)
    assert other.lagrangian.values == objective.lagrangian.values
    assert repr(other) == repr(objective)
    assert objective.lagrangian.values != (1.0,)
    assert trainer.history[-1]["multiplier_clean_loss"] == objective.lagrangian.values[0]


def test_the_command_trains_tests_and_writes(tmp_path):
    chosen = Settings.resolved("digits", epochs=3, max_iter=1, factored=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = serve({"file-bytes": 6000.0}, chosen, tmp_path / "run", False)
    assert 5940 <= metrics["file_bytes"] <= 6000
    assert metrics["file_bytes"] == (tmp_path / "run" / "compressed.atmc").stat().st_size
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    with pytest.raises(FileExistsError, match="another run"):
        serve({"file-bytes": 6000.0}, chosen, tmp_path / "run", False)
    with pytest.raises(ValueError, match="contradict one another"):
        serve({"file-bytes": 6000.0, "robust-loss": 0.5}, chosen, tmp_path / "other", False)
