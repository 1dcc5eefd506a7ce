"""PGD against ART's own, the promises about the network and the user's attack, and the adapter."""

from __future__ import annotations

import copy
import math
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks import evasion
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.classification import PyTorchClassifier
from art.utils import random_sphere
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from art_atmc.attacks.art import ARTAttack, adversary
from art_atmc.attacks.base import Adversary, Problem
from art_atmc.attacks.pgd import PGD
from art_atmc.classifiers.modes import evaluating, frozen

SHAPE, CLASSES = (2, 6, 6), 3
NORMS = [math.inf, 2, 1]
RADII = {math.inf: 0.1, 2: 0.8, 1: 3.0}


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, CLASSES)
    )


def small_classifier(clip_values: Any = (0.0, 1.0), **kwargs: Any) -> PyTorchClassifier:
    return PyTorchClassifier(
        small_network(), nn.CrossEntropyLoss(), SHAPE, CLASSES, clip_values=clip_values, device_type="cpu", **kwargs
    )


def batch(n: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, *SHAPE), generator=generator), torch.randint(CLASSES, (n,), generator=generator)


def distance(a: Tensor, b: Tensor, norm: float) -> Tensor:
    return torch.linalg.vector_norm((a - b).double().flatten(1), norm, dim=1)


class Probe(nn.Module):
    """Counts the forward passes and records the mode that they see."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0
        self.modes: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.modes |= {m.training for m in self.modules()}
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    x, y = torch.as_tensor(x, dtype=torch.float32) / 16, torch.as_tensor(y)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network, x[:300], y[:300]


# --- equality with ART ------------------------------------------------------------------------------------------------

CLIPS = {
    "free": None,
    "scalar": (0.0, 1.0),
    "array": (np.full(SHAPE, 0.1, dtype=np.float32), np.linspace(0.6, 1.0, 72, dtype=np.float32).reshape(SHAPE)),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("norm", NORMS)
def test_ascent_equals_art_from_x(norm: float, decay: float | None, clip: str) -> None:
    classifier = small_classifier(CLIPS[clip])
    eps = RADII[norm]
    x, y = batch()
    if CLIPS[clip] is not None:
        x = x.clamp(*(torch.as_tensor(c) for c in CLIPS[clip]))
    theirs = evasion.ProjectedGradientDescent(
        classifier, norm=norm, eps=eps, eps_step=eps / 3, decay=decay, max_iter=7, verbose=False
    ).generate(x.numpy(), y=y.numpy())
    ours = PGD(eps, eps / 3, 7, norm, random_start=False, momentum=decay or 0.0)
    adv = ours(Problem(classifier.model, clip_values=classifier.clip_values), x, y)
    assert np.abs(adv.numpy() - theirs).max() < 1e-6
    assert distance(adv, x, norm).mean() > 0.1 * eps  # it is not a comparison of two attacks that stand still


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("norm", NORMS)
def test_ascent_equals_art_from_the_same_random_start(norm: float, clip: str) -> None:
    classifier = small_classifier(CLIPS[clip])
    eps = RADII[norm]
    x, y = batch()
    if CLIPS[clip] is not None:
        x = x.clamp(*(torch.as_tensor(c) for c in CLIPS[clip]))
    np.random.seed(3)
    start = x + torch.as_tensor(random_sphere(len(x), 72, eps, norm), dtype=torch.float32).reshape(x.shape)
    attack = evasion.ProjectedGradientDescentPyTorch(classifier, norm=norm, eps=eps, eps_step=eps / 3)
    theirs, momentum, one_hot = start, torch.zeros_like(x), functional.one_hot(y, CLASSES).float()
    for _ in range(7):
        theirs = attack._compute_pytorch(theirs, x, one_hot, None, eps, eps / 3, False, momentum)
    before = start.clone()
    ours = PGD(eps, eps / 3, 7, norm).ascend(Problem(classifier.model, clip_values=classifier.clip_values), x, y, start)
    assert (ours - theirs).abs().max() < 1e-6
    assert torch.equal(start, before)


@pytest.mark.parametrize(
    "make",
    [
        lambda c: evasion.FastGradientMethod(c, eps=0.1),
        lambda c: evasion.FastGradientMethod(c, norm=2, eps=0.7, eps_step=0.01),
        lambda c: evasion.FastGradientMethod(c, norm=1, eps=2.0),
        lambda c: evasion.BasicIterativeMethod(c, eps=0.1, eps_step=0.03, max_iter=5),
        lambda c: evasion.MomentumIterativeMethod(c, eps=0.1, eps_step=0.03, max_iter=5, decay=0.8),
        lambda c: evasion.MomentumIterativeMethod(c, norm=2, eps=0.8, eps_step=0.3, max_iter=5),
        lambda c: evasion.ProjectedGradientDescent(c, norm="inf", eps=1, eps_step=1, max_iter=2),
        lambda c: evasion.ProjectedGradientDescentPyTorch(c, norm=2, eps=0.5, eps_step=0.2, max_iter=4),
    ],
)
def test_converted_attack_equals_art(make: Any) -> None:
    classifier = small_classifier()
    attack = make(classifier)
    x, y = batch()
    native = adversary(attack, classifier)
    assert isinstance(native, PGD)
    ours = native(Problem(classifier.model, clip_values=classifier.clip_values), x, y).numpy()
    assert np.abs(ours - attack.generate(x.numpy(), y=y.numpy())).max() < 1e-6


# --- conversion -------------------------------------------------------------------------------------------------------


def test_conversion_reads_random_starts_and_changed_parameters() -> None:
    classifier = small_classifier()
    attack = evasion.ProjectedGradientDescent(classifier, norm=2, eps=0.5, eps_step=0.1, max_iter=9, num_random_init=3)
    assert adversary(attack) == PGD(0.5, 0.1, 9, 2, random_start=True, restarts=3)
    attack.set_params(eps=0.25, num_random_init=1, decay=0.5)
    assert adversary(attack, classifier) == PGD(0.25, 0.1, 9, 2, random_start=True, momentum=0.5)
    fast = evasion.FastGradientMethod(classifier, eps=0.5, num_random_init=1)
    assert adversary(fast) == PGD(0.5, 0.5, 1, random_start=True)


def test_conversion_passes_adversaries_through() -> None:
    attack = PGD(0.1, 0.1, 1)
    assert adversary(attack) is attack


class LouderPGD(evasion.ProjectedGradientDescent):
    def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
        return super().generate(x, y, **kwargs) * 0 + 0.5


NOT_NATIVE = {
    "subclass": lambda c: LouderPGD(c, max_iter=2, verbose=False),
    "array_eps": lambda c: evasion.ProjectedGradientDescent(c, eps=np.full(SHAPE, 0.1), eps_step=np.full(SHAPE, 0.1)),
    "random_eps": lambda c: evasion.ProjectedGradientDescent(c, random_eps=True, max_iter=2),
    "other_norm": lambda c: evasion.ProjectedGradientDescent(c, norm=3, max_iter=2),
    "zero_eps": lambda c: evasion.ProjectedGradientDescent(c, eps=0.0, max_iter=2),
    "no_steps": lambda c: evasion.ProjectedGradientDescent(c, max_iter=0),
    "minimal": lambda c: evasion.FastGradientMethod(c, minimal=True),
    "fgm_restarts": lambda c: evasion.FastGradientMethod(c, num_random_init=2),
    "transfer": lambda c: evasion.ProjectedGradientDescent(small_classifier(), max_iter=2),
    "other_attack": lambda c: evasion.DeepFool(c, max_iter=2, verbose=False),
}


@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.parametrize("name", NOT_NATIVE)
def test_conversion_leaves_the_rest_to_art(name: str) -> None:
    classifier = small_classifier()
    attack = NOT_NATIVE[name](classifier)
    wrapped = adversary(attack, classifier)
    assert wrapped == ARTAttack(attack)
    x, y = batch(4)
    adv = wrapped(Problem(classifier.model), x, y)
    assert adv.shape == x.shape
    if name == "subclass":
        assert torch.equal(adv, torch.full_like(x, 0.5))  # its own generate ran


def test_conversion_leaves_numpy_preprocessing_to_art() -> None:
    classifier = small_classifier(preprocessing_defences=FeatureSqueezing(clip_values=(0, 1), bit_depth=4))
    assert isinstance(adversary(evasion.ProjectedGradientDescent(classifier), classifier), ARTAttack)
    assert isinstance(adversary(evasion.FastGradientMethod(classifier), classifier), ARTAttack)
    standardised = small_classifier(preprocessing=(0.5, 0.2))
    assert isinstance(adversary(evasion.FastGradientMethod(standardised), standardised), PGD)


def test_targeted_attack_is_refused() -> None:
    for make in (evasion.ProjectedGradientDescent, evasion.FastGradientMethod, evasion.CarliniL2Method):
        with pytest.raises(ValueError, match="targeted=False"):
            adversary(make(small_classifier(), targeted=True))
        assert isinstance(adversary(make(small_classifier(), targeted=False)), Adversary)


@pytest.mark.parametrize("thing", ["pgd", None, nn.ReLU(), evasion.DeepFool])
def test_other_objects_are_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="expected an ART evasion attack or an art_atmc adversary"):
        adversary(thing)


# --- the random start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_is_reproducible_and_varies(norm: float) -> None:
    attack = PGD(RADII[norm], 1e-12, 1, norm)  # the step is nothing: what is left is the start
    x, y = batch()
    network = small_network()

    def start(seed: int) -> Tensor:
        return attack(Problem(network, generator=torch.Generator().manual_seed(seed)), x, y)

    assert torch.equal(start(0), start(0))
    assert (distance(start(0), start(1), norm) > 0.01 * RADII[norm]).all()
    assert (distance(start(0), x, norm) > 0.01 * RADII[norm]).all()
    assert (distance(start(0), x, norm) <= RADII[norm] * (1 + 1e-5)).all()
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    clipped = attack(Problem(network, clip_values=(0.4, 0.6), generator=torch.Generator().manual_seed(0)), x, y)
    for point in (*seen, clipped):
        assert (point >= 0.4).all()
        assert (point <= 0.6).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_is_uniform_in_the_ball(norm: float) -> None:
    n, d, eps = 20_000, 5, 0.5
    generator = torch.Generator().manual_seed(0)
    noise = PGD(eps, 1e-12, 1, norm)(
        Problem(nn.Linear(d, 2), generator=generator), torch.zeros(n, d), torch.zeros(n).long()
    )
    # The volume of a ball grows with r^d: for uniform points (r / eps)^d is uniform in [0, 1].
    share = (distance(noise, torch.zeros(n, d), norm) / eps).pow(d).sort().values
    assert (share - torch.linspace(0, 1, n)).abs().max() < 0.015
    np.random.seed(0)
    theirs = random_sphere(n, d, eps, norm)
    for moment in (1, 2, 4):
        expected = (np.abs(theirs) ** moment).mean(axis=0)
        assert (noise.abs() ** moment).mean(dim=0).numpy() == pytest.approx(expected, rel=0.08)
    assert noise.mean(dim=0).abs().max() < 0.01
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.03


def test_without_random_start_begins_at_x() -> None:
    x, y = batch()
    assert torch.equal(PGD(0.1, 1e-12, 1, random_start=False)(Problem(small_network()), x, y), x)


def test_restarts_are_never_worse(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, x, y = trained

    def fooled(restarts: int) -> Tensor:
        attack = PGD(0.06, 0.03, 2, restarts=restarts)
        adv = attack(Problem(network, clip_values=(0, 1), generator=torch.Generator().manual_seed(0)), x, y)
        return network(adv).argmax(dim=1) != y

    once, often = fooled(1), fooled(6)
    assert (often | ~once).all()
    assert often.sum() > once.sum()


def test_restarts_cost_no_forward_when_there_is_one_and_stop_when_all_are_fooled() -> None:
    x, y = batch()
    probe = Probe(small_network())
    PGD(0.1, 0.1, 5)(Problem(probe), x, y)
    assert probe.calls == 5
    probe.calls = 0
    with evaluating(probe):
        wrong = (probe(x).argmax(dim=1) + 1) % CLASSES
    probe.calls = 0
    PGD(1e-6, 1e-6, 5, restarts=4)(Problem(probe), x, functional.one_hot(wrong, CLASSES).float())
    assert probe.calls == 5 + 1


# --- the network comes back as it was ---------------------------------------------------------------------------------


def state_of(network: nn.Module) -> list[Any]:
    return [
        [m.training for m in network.modules()],
        [p.requires_grad for p in network.parameters()],
        [p.grad if p.grad is None else p.grad.clone() for p in network.parameters()],
        [b.clone() for b in network.buffers()],
        [p.detach().clone() for p in network.parameters()],
    ]


def assert_same_state(before: list[Any], after: list[Any]) -> None:
    for old, new in zip(before, after, strict=True):
        for a, b in zip(old, new, strict=True):
            assert torch.equal(a, b) if isinstance(a, Tensor) else a is b


def mixed_network() -> nn.Module:
    network = small_network().train()
    network[3].eval()  # type: ignore[index]
    network[0].bias.requires_grad_(False)  # type: ignore[index]
    for parameter in list(network.parameters())[1:]:
        parameter.grad = torch.full_like(parameter, 0.5)
    return network


ATTACKS = {
    "pgd": lambda c: PGD(0.1, 0.05, 3, restarts=2),
    "art": lambda c: ARTAttack(evasion.ProjectedGradientDescent(c, max_iter=3, num_random_init=1, verbose=False)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_network_is_untouched(name: str) -> None:
    network = mixed_network()
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, CLASSES, device_type="cpu")
    kept = [p.grad for p in network.parameters()]
    before = state_of(network)
    x, y = batch()
    adv = ATTACKS[name](classifier)(Problem(network), x, y)
    assert_same_state(before, state_of(network))
    assert all(p.grad is g for p, g in zip(network.parameters(), kept, strict=True))
    assert not adv.requires_grad
    assert not torch.equal(adv, x)


@pytest.mark.parametrize("name", ATTACKS)
def test_network_is_untouched_after_an_error(name: str) -> None:
    network = mixed_network()

    def broken(logits: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("broken loss")

    classifier = PyTorchClassifier(network, broken, SHAPE, CLASSES, device_type="cpu")
    before = state_of(network)
    x, y = batch()
    with pytest.raises(RuntimeError, match="broken loss"):
        ATTACKS[name](classifier)(Problem(network, loss=broken), x, y)
    assert_same_state(before, state_of(network))


def test_network_is_in_evaluation_mode_during_the_attack() -> None:
    probe = Probe(small_network()).train()
    PGD(0.1, 0.05, 3, restarts=3)(Problem(probe), *batch())
    assert probe.modes == {False}


def test_contexts_restore_the_mode_and_the_gradients_asked_for() -> None:
    network = mixed_network()
    before = state_of(network)
    with evaluating(network), frozen(network):
        assert not any(m.training for m in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
    assert_same_state(before, state_of(network))


class Doubled(nn.Module):
    calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return 2 * weight


@pytest.mark.parametrize("name", ATTACKS)
def test_parametrized_weight_is_formed_once_an_attack(name: str) -> None:
    network = small_network()
    doubled = Doubled()
    parametrize.register_parametrization(network[5], "weight", doubled)  # type: ignore[index]
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, CLASSES, device_type="cpu")
    doubled.calls = 0
    ATTACKS[name](classifier)(Problem(network), *batch())
    assert doubled.calls == 1
    network(batch()[0])
    assert doubled.calls == 2


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_inside_an_open_cache_does_not_stop_the_training(name: str) -> None:
    network = small_network()
    parametrize.register_parametrization(network[5], "weight", Doubled())  # type: ignore[index]
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, CLASSES, device_type="cpu")
    x, y = batch()
    with parametrize.cached():
        adv = ATTACKS[name](classifier)(Problem(network), x, y)
        functional.cross_entropy(network(adv), y).backward()
    grad = network[5].parametrizations.weight.original.grad  # type: ignore[index, union-attr]
    assert grad is not None
    assert grad.abs().sum() > 0


def test_attack_works_without_grad_mode_and_for_inputs_with_a_graph() -> None:
    x, y = batch()
    attack = PGD(0.1, 0.05, 3, random_start=False)
    expected = attack(Problem(small_network()), x, y)
    with torch.no_grad():
        assert torch.equal(attack(Problem(small_network()), x, y), expected)
    adv = attack(Problem(small_network()), x.clone().requires_grad_() * 1, y)
    assert torch.equal(adv, expected)
    assert not adv.requires_grad


# --- what PGD promises ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_attack_raises_the_loss(trained: tuple[nn.Module, Tensor, Tensor], norm: float) -> None:
    network, x, y = trained
    eps = {math.inf: 0.1, 2: 0.7, 1: 3.0}[norm]
    generator = torch.Generator().manual_seed(0)
    adv = PGD(eps, eps / 4, 10, norm)(Problem(network, clip_values=(0, 1), generator=generator), x, y)
    clean = functional.cross_entropy(network(x), y, reduction="none")
    robust = functional.cross_entropy(network(adv), y, reduction="none")
    # ART's steps for p = 1 are lost where the steepest pixel is black or white already.
    assert (robust > clean).float().mean() > (0.8 if norm == 1 else 0.98)
    assert robust.mean() > 4 * clean.mean()
    one_hot = functional.one_hot(y, 10).float()
    again = PGD(eps, eps / 4, 10, norm)(
        Problem(network, clip_values=(0, 1), generator=torch.Generator().manual_seed(0)), x, one_hot
    )
    assert functional.cross_entropy(network(again), y).item() == pytest.approx(robust.mean().item(), rel=0.02)


@settings(max_examples=60, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(1e-3, 10),
    ratio=st.floats(0.01, 3),
    momentum=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**31),
    clip=st.sampled_from([None, (0.0, 1.0)]),
)
def test_iterates_stay_in_the_ball_and_the_box(
    norm: float, eps: float, ratio: float, momentum: float, seed: int, clip: Any
) -> None:
    x, y = batch(3, seed)
    attack = PGD(eps, ratio * eps, 3, norm, momentum=momentum)
    adv = attack(Problem(small_network(), clip_values=clip, generator=torch.Generator().manual_seed(seed)), x, y)
    rounding = 1e-5 * (x.abs().flatten(1).sum(dim=1) if norm == 1 else 1) + 1e-5 * eps
    assert (distance(adv, x, norm) <= eps + rounding).all()
    if clip is not None:
        assert (adv >= 0).all()
        assert (adv <= 1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_memory_format_dtype_and_inputs_are_kept(norm: float) -> None:
    x, y = batch()
    x = x.double().contiguous(memory_format=torch.channels_last)
    before, formats = x.clone(), []
    network = small_network().double()
    network.register_forward_pre_hook(
        lambda _, args: formats.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    adv = PGD(0.1, 0.05, 3, norm, restarts=2, momentum=0.5)(Problem(network, clip_values=(0, 1)), x, y)
    assert adv.dtype == torch.float64
    assert adv.is_contiguous(memory_format=torch.channels_last)
    assert all(formats)
    assert torch.equal(x, before)
    plain = PGD(0.1, 0.05, 3, norm, random_start=False)
    assert torch.allclose(plain(Problem(network), x, y), plain(Problem(network), x.contiguous(), y), atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_tiny_gradients_still_give_full_steps(norm: float) -> None:
    x, y = batch()
    adv = PGD(0.5, 0.5, 1, norm, random_start=False)(
        Problem(small_network(), loss=lambda logits, y: 1e-30 * functional.cross_entropy(logits, y)), x, y
    )
    assert distance(adv, x, norm).numpy() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_zero_gradient_leaves_the_start(norm: float) -> None:
    x, y = batch()
    for momentum in (0.0, 1.0):
        attack = PGD(0.5, 0.5, 3, norm, random_start=False, momentum=momentum)
        assert torch.equal(attack(Problem(small_network(), loss=lambda logits, y: 0 * logits.sum()), x, y), x)


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_that_is_not_finite_is_an_error(norm: float) -> None:
    x, y = batch()
    network = small_network()
    attack = PGD(0.1, 0.05, 3, norm)
    x[1, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="of 1 of 8 inputs"):
        attack(Problem(network), x, y)
    with torch.no_grad():
        network[0].weight[0] = math.nan  # type: ignore[index]
    with pytest.raises(FloatingPointError, match="of 8 of 8 inputs"):
        attack(Problem(network), *batch())


@pytest.mark.parametrize(
    ("name", "refused", "accepted"),
    [
        ("eps", [0, -1.0, math.nan, math.inf, "8/255", None, np.full(3, 0.1)], [0.1, 8, np.float32(0.1)]),
        ("eps_step", [0, -1.0, math.nan, math.inf, "a"], [0.1, 1, 5.0]),
        ("max_iter", [0, -1, 1.5, "7"], [1, 7, np.int64(7)]),
        ("norm", [0, 3, -1, "l2", "2", None], [1, 2, 2.0, math.inf, np.inf, "inf"]),
        ("restarts", [0, -2, 1.5], [1, 5]),
        ("momentum", [-0.1, math.nan, math.inf, None], [0, 0.9, 1, 2.0]),
    ],
)
def test_parameters_are_checked(name: str, refused: list[Any], accepted: list[Any]) -> None:
    valid: dict[str, Any] = {"eps": 0.5, "eps_step": 0.1, "max_iter": 3}
    for value in refused:
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            PGD(**{**valid, name: value})
    for value in accepted:
        attack = PGD(**{**valid, name: value})
        assert getattr(attack, name) == float(value)
        assert eval(repr(attack), {"PGD": PGD, "inf": math.inf}) == attack


def test_all_wrong_parameters_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"`eps` must be .*`max_iter` must be .*`norm` must be"):
        PGD(eps=0, eps_step=0.1, max_iter=0, norm=3)
    with pytest.raises(ValueError, match="random_start=True or restarts=1"):
        PGD(0.1, 0.1, 1, random_start=False, restarts=2)
    assert PGD(0.1, 0.1, 1, random_start=True, restarts=2).restarts == 2


def test_inputs_are_checked() -> None:
    x, y = batch()
    attack, network = PGD(0.1, 0.1, 1), small_network()
    with pytest.raises(ValueError, match=r"x.float\(\)"):
        attack(Problem(network), (255 * x).byte(), y)
    with pytest.raises(ValueError, match="batch dimension"):
        attack(Problem(network), x.reshape(-1), y)
    for low, high in ((1, 0), (0, 0), (np.zeros(SHAPE), np.zeros(SHAPE)), (math.nan, 1)):
        with pytest.raises(ValueError, match="smaller and a larger bound"):
            attack(Problem(network, clip_values=(low, high)), x, y)
    with pytest.raises(ValueError, match="`start` must have the shape"):
        attack.ascend(Problem(network), x, y, x[:1])
    for clip in (None, (0, 1), (np.float32(0), torch.tensor(1.0)), (np.zeros(SHAPE), 1.0), np.array([0.0, 1.0])):
        assert attack(Problem(network, clip_values=clip), x, y).shape == x.shape  # type: ignore[arg-type]
    assert attack(Problem(network), x[:0], y[:0]).shape == (0, *SHAPE)


# --- any ART attack ---------------------------------------------------------------------------------------------------

FOREIGN = {
    "deepfool": lambda c: evasion.DeepFool(c, max_iter=3, batch_size=2, verbose=True),
    "carlini": lambda c: evasion.CarliniL2Method(c, max_iter=5, learning_rate=0.2, initial_const=1.0),
    "apgd": lambda c: evasion.AutoProjectedGradientDescent(c, eps=0.2, max_iter=3, nb_random_init=1, batch_size=2),
    "square": lambda c: evasion.SquareAttack(c, eps=0.2, max_iter=5, batch_size=2),
    "newton": lambda c: evasion.NewtonFool(c, max_iter=2),
    "random_eps": lambda c: evasion.ProjectedGradientDescent(c, max_iter=2, random_eps=True, num_random_init=1),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_art_attack_runs_silent_and_comes_back_unchanged(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    classifier = small_classifier()
    attack = FOREIGN[name](classifier)
    inner = getattr(attack, "_attack", attack)
    before = dict(vars(attack)), dict(vars(inner))
    values = {k: copy.copy(v) for k, v in vars(attack).items() if isinstance(v, int | float | str | list)}
    numpy_state, python_state = np.random.get_state(), random.getstate()
    x, y = batch()
    original = x.clone()
    one = ARTAttack(attack)(Problem(classifier.model, generator=torch.Generator().manual_seed(0)), x, y)
    for now, then in zip((vars(attack), vars(inner)), before, strict=True):
        assert list(now) == list(then)
        assert all(now[key] is then[key] for key in then)
    assert all(getattr(attack, key) == value for key, value in values.items())
    assert str(numpy_state) == str(np.random.get_state())
    assert python_state == random.getstate()
    assert capfd.readouterr().err == ""
    for draw in (np.random.rand, random.random, lambda: torch.rand(1)):
        draw()
    two = ARTAttack(attack)(Problem(classifier.model, generator=torch.Generator().manual_seed(0)), x, y)
    assert torch.equal(one, two)
    if name in ("square", "random_eps"):
        other = ARTAttack(attack)(Problem(classifier.model, generator=torch.Generator().manual_seed(1)), x, y)
        assert not torch.equal(one, other)
    assert not torch.equal(one, x)
    assert torch.equal(x, original)


def test_art_attack_gets_the_whole_batch_and_keeps_a_larger_one() -> None:
    seen = []

    class Spy(evasion.DeepFool):
        def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
            seen.append((self.batch_size, self.verbose, random.random(), torch.rand(()).item()))
            x += 1  # an attack that writes into its input
            return x

    x, y = batch(8)
    original, network, classifier = x.clone(), small_network(), small_classifier()
    for batch_size in (2, 50):
        attack = ARTAttack(Spy(classifier, batch_size=batch_size))
        adv = attack(Problem(network, generator=torch.Generator().manual_seed(0)), x, y)
        assert torch.equal(adv, original + 1)
        assert torch.equal(x, original)
        random.random(), torch.rand(())
    assert [s[:2] for s in seen] == [(8, False), (50, False)]
    assert seen[0][2:] == seen[1][2:]  # the global generators are seeded from the caller's


def test_art_attack_keeps_dtype_and_memory_format() -> None:
    x, y = batch()
    attack = ARTAttack(evasion.FastGradientMethod(small_classifier(), eps=0.1))
    expected = attack(Problem(small_network()), x, y)
    adv = attack(Problem(small_network()), x.double().contiguous(memory_format=torch.channels_last), y)
    assert adv.dtype == torch.float64
    assert adv.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(adv.float(), expected, atol=1e-6)
    one_hot = functional.one_hot(y, CLASSES).float()
    assert torch.equal(attack(Problem(small_network()), x, one_hot), expected)


def test_art_attack_on_another_estimator_keeps_both_networks() -> None:
    target, source = mixed_network(), mixed_network()
    classifier = PyTorchClassifier(source, nn.CrossEntropyLoss(), SHAPE, CLASSES, device_type="cpu")
    before = state_of(target), state_of(source)
    wrapper = [m.training for m in classifier._model.modules()]
    ARTAttack(evasion.FastGradientMethod(classifier))(Problem(target), *batch())
    assert_same_state(before[0], state_of(target))
    assert_same_state(before[1], state_of(source))
    assert wrapper == [m.training for m in classifier._model.modules()]


def test_import_does_not_load_art() -> None:
    code = "import sys, art_atmc.attacks.art; sys.exit('art' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("norm", NORMS)
def test_cpu_generator_serves_a_cuda_batch(norm: float) -> None:
    x, y = batch()
    network, attack = small_network(), PGD(0.1, 0.05, 3, norm)
    here = attack(Problem(network, clip_values=(0, 1), generator=torch.Generator().manual_seed(0)), x, y)
    there = attack(
        Problem(network.cuda(), clip_values=(0, 1), generator=torch.Generator().manual_seed(0)), x.cuda(), y.cuda()
    )
    assert there.is_cuda
    assert (there.cpu() - here).abs().mean() < 1e-3
    own = attack(Problem(network, generator=torch.Generator("cuda").manual_seed(0)), x.cuda(), y.cuda())
    assert own.is_cuda
