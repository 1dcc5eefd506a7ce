"""ATMCTrainer: one call from an ART classifier to a small and robust one, around our loop and ART's trainers."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import (
    AdversarialTrainer,
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerFBFPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
    Trainer,
)
from art.estimators.classification import PyTorchClassifier
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from art_atmc import (
    ADMM,
    PGD,
    TRADES,
    Adversarial,
    ATMCTrainer,
    CompressedClassifier,
    Constraint,
    ObjectiveTrainer,
    Quantization,
    Ramp,
    Sparsity,
    Tightening,
    compressible,
    decompose,
    recompose,
)
from art_atmc.compression import default_solver, paper_solver
from art_atmc.compression.factors import decomposed
from art_atmc.training import Callback

CONSTRAINTS = [Sparsity(density=0.2), Quantization(bits=3)]
ATTACK = PGD(eps=0.1, eps_step=0.05, max_iter=3)


def art_pgd(classifier):
    return ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, max_iter=3, verbose=False)


def assert_obeys(model, constraints=CONSTRAINTS, ignore=()):
    weights = compressible(model, ignore)
    for constraint in constraints:
        if isinstance(constraint, Sparsity):
            assert 0 < weights.nnz() <= int(constraint.density * weights.dense_size)
        else:
            assert all(w[w != 0].unique().numel() <= 2**constraint.bits for w in weights.values())


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("constraints", [CONSTRAINTS, CONSTRAINTS[::-1], CONSTRAINTS[:1], CONSTRAINTS[1:], []], ids=str)
def test_fit_ends_on_weights_that_obey_every_constraint(make_classifier, digits, constraints, factored):
    classifier = make_classifier()
    trainer = ATMCTrainer(classifier, art_pgd(classifier), constraints, factored=factored, verbose=False)
    x, y = digits
    trainer.fit(x[:300], y[:300], validation_data=(x[1500:1550], y[1500:1550]), nb_epochs=3, batch_size=64)
    robust = trainer.get_classifier()
    assert isinstance(robust, CompressedClassifier)
    assert isinstance(robust, PyTorchClassifier)
    assert_obeys(robust.model, constraints)
    assert bool(decomposed(robust.model)) == factored
    assert {"violation", "robust_accuracy"} <= set(trainer.history[0])


def test_compressed_network_learns_and_is_reproducible(make_classifier, digits):
    def run():
        classifier = make_classifier()
        trainer = ATMCTrainer(classifier, art_pgd(classifier), CONSTRAINTS, seed=4, verbose=False)
        x, y = digits
        trainer.fit(x[:1400], y[:1400], validation_data=(x[1400:], y[1400:]), nb_epochs=8, batch_size=64)
        return trainer

    first, second = run(), run()
    best = max(row["clean_accuracy"] for row in first.history)
    assert best > 0.8
    x, y = digits
    assert (first.predict(x[1400:]).argmax(1) == y[1400:]).mean() > 0.8
    for a, b in zip(first.get_classifier().model.parameters(), second.get_classifier().model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_recompose_folds_the_factors_into_the_same_function(make_classifier, digits):
    classifier = make_classifier()
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS, verbose=False)
    trainer.fit(digits[0][:128], digits[1][:128], nb_epochs=2, batch_size=32)
    robust = trainer.get_classifier()
    before = robust.predict(digits[0][:50])
    recompose(robust.model)
    assert np.allclose(robust.predict(digits[0][:50]), before, atol=1e-5)


def test_the_best_epoch_is_chosen_among_feasible_weights(make_classifier, digits):
    """What validation measured in the best epoch is what the shipped classifier does, to the last example."""
    classifier = make_classifier()
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS, verbose=False)
    x, y = digits
    trainer.fit(x[:600], y[:600], validation_data=(x[1400:], y[1400:]), nb_epochs=5, batch_size=64)
    best = max(trainer.history, key=lambda row: (row["robust_accuracy"], row["clean_accuracy"]))
    shipped = (trainer.predict(x[1400:]).argmax(1) == y[1400:]).mean()
    assert shipped == pytest.approx(best["clean_accuracy"], abs=1e-9)


def test_attack_object_and_caller_settings_come_back_unchanged(make_classifier, digits):
    classifier = make_classifier()
    attack = art_pgd(classifier)
    before = dict(vars(attack))
    ATMCTrainer(classifier, attack, CONSTRAINTS, verbose=False).fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert vars(attack) == before


@pytest.mark.parametrize("objective", [Adversarial(ATTACK, 0.5), TRADES(ATTACK)], ids=["clean-share", "trades"])
def test_an_objective_may_stand_for_the_attack(make_classifier, digits, objective):
    trainer = ATMCTrainer(make_classifier(), objective, CONSTRAINTS, verbose=False)
    trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert trainer.trainer.objective is objective
    assert_obeys(trainer.get_classifier().model)


def test_fit_generator_compresses(make_classifier, digits):
    x, y = torch.from_numpy(digits[0][:100]), torch.from_numpy(digits[1][:100])
    trainer = ATMCTrainer(make_classifier(), ATTACK, CONSTRAINTS, verbose=False)
    trainer.fit_generator(DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True), nb_epochs=3)
    assert_obeys(trainer.get_classifier().model)


def test_fitting_again_goes_on(make_classifier, digits):
    trainer = ATMCTrainer(make_classifier(), ATTACK, CONSTRAINTS, verbose=False)
    for _ in range(2):
        trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=2, batch_size=32)
        assert_obeys(trainer.get_classifier().model)
    assert len(trainer.history) == 4


def test_ignored_layers_stay_dense(make_classifier, digits):
    trainer = ATMCTrainer(make_classifier(), ATTACK, CONSTRAINTS, ignore=["conv"], verbose=False)
    trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=2, batch_size=32)
    model = trainer.get_classifier().model
    assert model.conv.weight.count_nonzero() == model.conv.weight.numel()
    assert_obeys(model, ignore=["conv"])


def test_the_support_tightens_before_the_codebook_enters(make_classifier, digits):
    trainer = ATMCTrainer(make_classifier(), ATTACK, CONSTRAINTS, schedule=Tightening((0.0, 0.5), 0.75), verbose=False)
    trainer.fit(digits[0][:128], digits[1][:128], nb_epochs=4, batch_size=32)
    sparsity, quantization = trainer.solvers
    assert (sparsity.ramp.start, sparsity.ramp.end) == (0, 8)
    assert (quantization.ramp.start, quantization.steps) == (12, 16)


def test_the_start_waits_for_the_network_to_learn(make_classifier, digits):
    """A rate of zero for four of ten epochs; planned from 1.5 epochs on, the density falls from the fifth."""
    classifier = make_classifier()
    for group in classifier.optimizer.param_groups:
        group["momentum"] = 0.0  # it would gather four epochs of gradients for the first step
    rates = torch.optim.lr_scheduler.LambdaLR(classifier.optimizer, lambda epoch: float(epoch >= 4))
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS, verbose=False, factored=False)
    trainer.fit(digits[0][:1408], digits[1][:1408], nb_epochs=10, batch_size=32, scheduler=rates)
    sparsity, quantization = (solver.ramp for solver in trainer.solvers)
    assert 176 < sparsity.start <= 220  # after the fourth epoch, not after half of the run
    assert sparsity.start < quantization.start < sparsity.end < 440
    assert_obeys(trainer.get_classifier().model)


def test_the_start_waits_for_half_of_the_run_at_most(make_classifier, digits):
    classifier = make_classifier()
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS, verbose=False, factored=False)
    for group in classifier.optimizer.param_groups:
        group["lr"] = 1e-9
    trainer.fit(digits[0][:160], digits[1][:160], nb_epochs=10, batch_size=32)
    assert trainer.solvers[0].ramp.start == 25
    assert_obeys(trainer.get_classifier().model)


def test_a_network_that_learns_at_once_waits_for_nothing(make_classifier, digits):
    trainer = ATMCTrainer(make_classifier(), ATTACK, CONSTRAINTS, verbose=False, factored=False)
    trainer.fit(digits[0][:1408], digits[1][:1408], nb_epochs=12, batch_size=32)
    assert min(row["loss"] for row in trainer.history[:2]) < 2
    assert [solver.ramp for solver in trainer.solvers] == [Ramp(79, 316), Ramp(264, 264)]


# Around ART's own trainers, unchanged


def art_trainers():
    return {
        "AdversarialTrainer": lambda c: AdversarialTrainer(c, art_pgd(c), ratio=1.0),
        "MadryPGD": lambda c: AdversarialTrainerMadryPGD(c, eps=0.1, eps_step=0.05, max_iter=2),
        "TRADES": lambda c: AdversarialTrainerTRADESPyTorch(c, art_pgd(c), beta=3.0),
        "AWP": lambda c: AdversarialTrainerAWPPyTorch(
            c, proxy(c), art_pgd(c), mode="PGD", gamma=0.01, beta=6.0, warmup=0
        ),
        "FBF": lambda c: AdversarialTrainerFBFPyTorch(c, eps=0.1),
    }


def proxy(classifier):
    model = copy.deepcopy(classifier.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))


@pytest.mark.filterwarnings("ignore")  # ART's own, on today's numpy
@pytest.mark.parametrize("solver", [default_solver, paper_solver])
@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("name", art_trainers())
def test_art_trainers_compress(make_classifier, digits, name, factored, solver):
    classifier = make_classifier()
    trainer = ATMCTrainer(
        classifier, constraints=CONSTRAINTS, trainer=art_trainers()[name](classifier), factored=factored, solver=solver
    )
    x, y = digits[0][:128], np.eye(10, dtype=np.float32)[digits[1][:128]]
    trainer.fit(x, y, nb_epochs=2, batch_size=32)
    assert_obeys(trainer.get_classifier().model)
    assert trainer.solvers[0].steps == 8


def test_our_own_trainer_may_be_handed_in(make_classifier, digits):
    classifier = make_classifier()
    own = ObjectiveTrainer(classifier, TRADES(ATTACK), seed=3, verbose=False)
    trainer = ATMCTrainer(classifier, constraints=CONSTRAINTS, trainer=own)
    trainer.fit(digits[0][:64], digits[1][:64], validation_data=(digits[0][:20], digits[1][:20]), nb_epochs=1)
    assert trainer.history is own.history
    assert_obeys(trainer.get_classifier().model)


# No order of calls that the user has to know


def test_a_model_decomposed_before_with_its_optimizer_is_taken(make_classifier, digits):
    classifier = make_classifier()
    decompose(classifier.model, optimizer=classifier.optimizer)
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS, verbose=False)
    trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert_obeys(trainer.get_classifier().model)


def test_an_optimizer_built_before_decomposition_is_refused(make_classifier, digits):
    classifier = make_classifier()
    decompose(classifier.model)
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS, verbose=False)
    with pytest.raises(ValueError, match="built before the model was decomposed"):
        trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)


def test_before_fit_the_classifier_is_the_one_that_was_given(make_classifier, digits):
    """As with every ART trainer; there is no file of it yet."""
    classifier = make_classifier()
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS)
    assert trainer.get_classifier() is classifier
    assert np.array_equal(trainer.predict(digits[0][:9]), classifier.predict(digits[0][:9]))
    with pytest.raises(NotFittedError, match="call fit"):
        trainer.compress()


# Bad input


def test_contradicting_constraints_are_refused(make_classifier):
    with pytest.raises(ValueError, match=r"contradict one another: more than one \['Sparsity'\]"):
        ATMCTrainer(make_classifier(), ATTACK, [Sparsity(0.1), Sparsity(0.2)])


def test_constraints_that_cannot_be_met_are_refused_before_training(make_classifier):
    with pytest.raises(ValueError, match="keeps none of"):
        ATMCTrainer(make_classifier(), ATTACK, [Sparsity(1e-6)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"constraints": Sparsity(0.1)}, "must be a list"),
        ({"constraints": [0.05]}, "Constraint objects"),
        ({"attack": None}, "either an `attack`"),
        ({"attack": "pgd"}, "ART evasion attack"),
        ({"attack": None, "trainer": "madry"}, "ART trainer"),
    ],
)
def test_wrong_kinds_are_refused(make_classifier, arguments, message):
    with pytest.raises(TypeError, match=message):
        ATMCTrainer(make_classifier(), **({"attack": ATTACK, "constraints": CONSTRAINTS} | arguments))


def test_a_trainer_of_another_classifier_is_refused(make_classifier):
    other = AdversarialTrainer(make_classifier(), [])
    with pytest.raises(TypeError, match="same classifier"):
        ATMCTrainer(make_classifier(), constraints=CONSTRAINTS, trainer=other)


def test_models_and_classifiers_that_cannot_be_compressed_are_refused(make_classifier):
    with pytest.raises(ValueError, match="no optimizer"):
        ATMCTrainer(make_classifier(optimizer=None), ATTACK, CONSTRAINTS)
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(64))
    with pytest.raises(ValueError, match="no compressible weight"):
        ATMCTrainer(make_classifier(model=model), ATTACK, CONSTRAINTS)
    with pytest.raises(ValueError, match="match no weight"):
        ATMCTrainer(make_classifier(), ATTACK, CONSTRAINTS, ignore=["hed"])


def test_tied_weights_are_refused_with_factors_and_taken_without(make_classifier, digits):
    def tied():
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
        model[3].weight = model[1].weight
        return make_classifier(model=model)

    with pytest.raises(ValueError, match="factored=False"):
        ATMCTrainer(tied(), ATTACK, CONSTRAINTS)
    trainer = ATMCTrainer(tied(), ATTACK, CONSTRAINTS, factored=False, verbose=False)
    trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert_obeys(trainer.get_classifier().model)


@pytest.mark.parametrize("shares", [((0.5, 0.4), 0.6), ((-0.1, 0.4), 0.6), ((0.0, 1.1), 0.6), ((0.0, 0.5), 1.0)])
def test_bad_schedules_are_refused(shares):
    with pytest.raises(ValueError, match="shares? of the run"):
        Tightening(*shares)


def test_stages_are_a_schedule():
    assert Tightening(support=(0.3, 0.3), codebook=0.7).support_ramp(100).progress(29) is None
    assert Tightening(support=(0.3, 0.3), codebook=0.7).support_ramp(100).progress(30) == 1


def test_bad_data_leaves_the_constraints_unapplied(make_classifier, digits):
    classifier = make_classifier()
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS, verbose=False)
    before = compressible(classifier.model).nnz()
    with pytest.raises(ValueError, match="clip values"):
        trainer.fit(digits[0] * 9, digits[1])
    assert compressible(classifier.model).nnz() == before


def test_a_custom_constraint_needs_one_method(make_classifier, digits):
    @dataclass(frozen=True)
    class NonNegative(Constraint):
        def project(self, weights):
            return weights.map(lambda w: w.clamp(min=0))

    trainer = ATMCTrainer(make_classifier(), ATTACK, [NonNegative(), Sparsity(0.5)], factored=False, verbose=False)
    trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    weights = compressible(trainer.get_classifier().model)
    assert all((w >= 0).all() for w in weights.values())


# Trainers that go around the enforcement are found out


class Misbehaving(Trainer):
    """Does what a test asks of it in place of training."""

    def __init__(self, classifier, deed):
        super().__init__(classifier)
        self.deed = deed

    def fit(self, x, y, **kwargs):
        self.deed(self._classifier)


def step(classifier):
    classifier.optimizer.zero_grad()
    classifier.model(torch.rand(8, 1, 8, 8)).square().sum().backward()
    classifier.optimizer.step()


def replace_optimizer(classifier):
    step(classifier)
    classifier._optimizer = torch.optim.SGD(classifier.model.parameters(), lr=0.1)
    step(classifier)


@pytest.mark.parametrize(
    ("deed", "message"), [(lambda c: None, "made no step"), (replace_optimizer, "replaced the classifier's optimizer")]
)
def test_trainers_that_escape_enforcement_are_refused(make_classifier, digits, deed, message):
    classifier = make_classifier()
    trainer = ATMCTrainer(classifier, constraints=CONSTRAINTS, trainer=Misbehaving(classifier, deed))
    with pytest.raises(RuntimeError, match=message):
        trainer.fit(*digits, nb_epochs=1)  # type: ignore[misc]
    with pytest.raises(NotFittedError):
        trainer.compress()


def test_a_run_shorter_than_its_schedule_warns_and_still_obeys(make_classifier, digits):
    classifier = make_classifier()
    trainer = ATMCTrainer(classifier, constraints=CONSTRAINTS, trainer=Misbehaving(classifier, step))
    with (
        pytest.warns(UserWarning, match="made only 1 steps"),
        pytest.warns(UserWarning, match=r"no weight is left in conv\.weight"),
    ):
        trainer.fit(*digits, nb_epochs=1)  # type: ignore[misc]
    assert_obeys(trainer.get_classifier().model)


def test_weights_that_a_step_ruins_are_put_back(make_classifier, digits):
    classifier = make_classifier()
    before = compressible(classifier.model).clone()
    classifier.optimizer.param_groups[0]["lr"] = float("inf")
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS, verbose=False)
    with pytest.raises(FloatingPointError, match=r"epoch 1, batch 1: the optimizer's step made"):
        trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert torch.equal(classifier.model.fc.weight, before["fc.weight"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("factored", [True, False])
def test_fit_on_a_gpu_obeys_every_constraint(make_classifier, digits, factored):
    classifier = make_classifier(device_type="gpu")
    trainer = ATMCTrainer(classifier, art_pgd(classifier), CONSTRAINTS, factored=factored, verbose=False)
    x, y = digits
    trainer.fit(x[:300], y[:300], validation_data=(x[1500:], y[1500:]), nb_epochs=3, batch_size=64)
    model = trainer.get_classifier().model
    assert all(p.is_cuda for p in model.parameters())
    assert_obeys(model)


def test_constraints_judge_the_factors_before_anything_is_changed(make_classifier):
    @dataclass(frozen=True)
    class WholeWeights(Constraint):
        """Refuses factors, as a set of rows would."""

        def project(self, weights):
            return weights.clone()

        def check(self, weights):
            if sum(t.numel() for t in weights.values()) != weights.dense_size:
                raise ValueError("rows of factors are no rows of W; pass factored=False")

    classifier = make_classifier()
    with pytest.raises(ValueError, match="factored=False"):
        ATMCTrainer(classifier, PGD(0.1, 0.05, 1), [WholeWeights()])
    assert not decomposed(classifier.model)
    ATMCTrainer(classifier, PGD(0.1, 0.05, 1), [WholeWeights()], factored=False)


def test_constraints_may_be_given_by_name(make_classifier):
    trainer = ATMCTrainer(make_classifier(), PGD(0.1, 0.05, 1), ["sparsity:density=0.1", Quantization(bits=4)])
    assert trainer.constraints == (Sparsity(density=0.1), Quantization(bits=4))
    with pytest.raises(ValueError, match="installed are"):
        ATMCTrainer(make_classifier(), PGD(0.1, 0.05, 1), ["sparseness:density=0.1"])
    with pytest.raises(TypeError, match="write constraints="):
        ATMCTrainer(make_classifier(), PGD(0.1, 0.05, 1), "sparsity:density=0.1")


def test_a_second_fit_goes_on_with_the_constraints_in_full(make_classifier, digits):
    """The density began again at 1, and the better network of the first fit was lost."""
    trainer = ATMCTrainer(make_classifier(), ATTACK, CONSTRAINTS, verbose=False)
    x, y = digits
    held_out = x[1400:], y[1400:]
    trainer.fit(x[:1400], y[:1400], validation_data=held_out, nb_epochs=6, batch_size=64)
    best = max(row["robust_accuracy"] for row in trainer.history)
    kept = (trainer.predict(x[1400:]).argmax(1) == y[1400:]).mean()
    for group in trainer.classifier.optimizer.param_groups:
        group["lr"] = 1.0  # ruins the network
    trainer.fit(x[:300], y[:300], validation_data=held_out, nb_epochs=1, batch_size=64)
    assert trainer.solvers[0].ramp == Ramp(0, 0)
    assert trainer.history[-1]["robust_accuracy"] < best
    assert (trainer.predict(x[1400:]).argmax(1) == y[1400:]).mean() == kept
    assert_obeys(trainer.get_classifier().model)


class StateAt(Callback):
    """Takes the state of the run after a number of steps, or puts such a state into a new run."""

    def __init__(self, at=None, state=None):
        self.at, self.state = at, state

    def on_train_start(self, run):
        if self.at is None:
            run.load_state_dict(self.state)

    def on_batch_end(self, run):
        if run.step == self.at:
            self.state = run.snapshot()


@pytest.mark.parametrize("at", [2, 5, 10, 14])
@pytest.mark.parametrize("factored", [True, False])
def test_a_compressing_run_goes_on_to_the_same_bits(make_classifier, digits, at, factored):
    """Factors, copies, duals, ramps and the best epoch are part of the state."""

    def run(callback):
        classifier = make_classifier()
        trainer = ATMCTrainer(
            classifier, ATTACK, CONSTRAINTS, factored=factored, callbacks=[callback], verbose=False,
            solver=lambda w, c, ramp: ADMM(w, c, every=2, ramp=ramp) if c.coded else default_solver(w, c, ramp),
        )  # fmt: skip
        x, y = digits
        trainer.fit(x[:200], y[:200], validation_data=(x[1500:1550], y[1500:1550]), nb_epochs=4, batch_size=50)
        return trainer

    kept = StateAt(at)
    whole, resumed = run(kept), run(StateAt(state=kept.state))
    for a, b in zip(whole.classifier.model.parameters(), resumed.classifier.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_layer_without_weights_is_named(make_classifier, digits):
    trainer = ATMCTrainer(make_classifier(), ATTACK, [Sparsity(0.002)], verbose=False)
    with pytest.warns(UserWarning, match="no weight is left in"):
        trainer.fit(digits[0][:128], digits[1][:128], nb_epochs=2, batch_size=32)


def test_a_network_that_learns_nothing_is_noticed(make_classifier, digits):
    trainer = ATMCTrainer(make_classifier(), ATTACK, [Sparsity(0.5)], verbose=False)
    for group in trainer.classifier.optimizer.param_groups:
        group["lr"] = 1e-9
    with pytest.warns(UserWarning, match=r"never left ln\(10\)"):
        trainer.fit(digits[0][:500], digits[1][:500], nb_epochs=4, batch_size=8)


def test_a_loader_without_length_needs_to_say_what_an_epoch_is(make_classifier, digits):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(torch.from_numpy(digits[0][:96]), digits[1][:96].tolist(), strict=True))

    trainer = ATMCTrainer(make_classifier(), ATTACK, CONSTRAINTS, verbose=False)
    loader = DataLoader(Stream(), batch_size=32)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        trainer.fit_generator(loader, nb_epochs=2)
    trainer.fit_generator(loader, nb_epochs=2, steps_per_epoch=3)
    assert trainer.solvers[0].steps == 6
    assert_obeys(trainer.get_classifier().model)


# Said before anything is trained


@dataclass(frozen=True)
class AllOnes(Constraint):
    """Every entry is one, so that no sparsity holds with it."""

    def project(self, weights):
        return weights.map(lambda t: torch.ones_like(t.detach()))


def test_constraints_that_clash_are_refused_at_construction(make_classifier):
    with pytest.raises(ValueError, match=r"tried on the untrained network, these constraints do not hold together"):
        ATMCTrainer(make_classifier(), ATTACK, [AllOnes(), Sparsity(0.5)], factored=False)
    ATMCTrainer(make_classifier(), ATTACK, [AllOnes()], factored=False)


class Extra(nn.Linear):
    """Keeps a dictionary in its state."""

    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Extra(64, 16), "_extra_state"),
        (nn.Linear(64, 16, dtype=torch.complex64), "is of type torch.complex64"),
    ],
)
def test_what_no_file_can_hold_is_refused_at_construction(make_classifier, factored, layer, message):
    class Real(nn.Module):
        def forward(self, x):
            return x.abs()

    model = nn.Sequential(nn.Flatten(), layer, Real(), nn.Linear(16, 10))
    with pytest.raises(ValueError, match=message):
        ATMCTrainer(make_classifier(model=model), ATTACK, [Sparsity(0.5)], factored=factored, ignore=["1"])


def test_a_rehearsal_leaves_no_trace(make_classifier):
    classifier = make_classifier()
    before = dict(classifier.model.named_parameters())
    values = {name: p.detach().clone() for name, p in before.items()}
    state = torch.get_rng_state()
    ATMCTrainer(classifier, ATTACK, CONSTRAINTS)
    assert torch.equal(torch.get_rng_state(), state)
    after = dict(classifier.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(p is before[name] and torch.equal(p, values[name]) for name, p in after.items())


def test_weights_that_are_not_finite_are_refused_at_construction(make_classifier):
    classifier = make_classifier()
    with torch.no_grad():
        classifier.model.fc.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="begin with finite ones"):
        ATMCTrainer(classifier, ATTACK, CONSTRAINTS)


@pytest.mark.parametrize("factored", [True, False])
def test_a_batch_norm_that_is_kept_in_evaluation_mode_stays_there(make_classifier, digits, factored):
    classifier = make_classifier()
    classifier.model.norm.eval()
    before = classifier.model.norm.running_mean.clone()
    trainer = ATMCTrainer(classifier, ATTACK, [Sparsity(0.5)], factored=factored, verbose=False)
    trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=2)
    trainer.fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert torch.equal(classifier.model.norm.running_mean, before)
    other = make_classifier()
    other.model.eval()  # as after a fit or a predict: all of it, which says nothing about the layer
    ATMCTrainer(other, ATTACK, [Sparsity(0.5)], verbose=False).fit(digits[0][:64], digits[1][:64], nb_epochs=1)
    assert not torch.equal(other.model.norm.running_mean, before)
