"""The evaluation's attacks against slow oracles, their formulas, and ART's attacks of the same name."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize
from torch import Tensor, nn

from art_atmc import PGD
from art_atmc.attacks.apgd import _Climb, _SparseClimb
from art_atmc.attacks.ball import box, inside, length, project, random_point
from art_atmc.attacks.base import Problem
from art_atmc.attacks.built import check_importable
from art_atmc.attacks.square import margin
from art_atmc.evaluation import APGD, DLR, WRM, Built, CrossEntropy, Square, StraightThrough, quick

NORMS = [math.inf, 2, 1]
RADII = {math.inf: 0.12, 2: 0.8, 1: 3.0}

few = settings(max_examples=40, deadline=None)


def arrays(shape, low=-2.0, high=2.0):
    return hnp.arrays(
        np.float64, shape, elements=st.floats(low, high, allow_subnormal=False).map(lambda v: round(v, 3))
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def trained(digits):
    """A small network on digits, trained for a moment against FGM, and 120 examples that it classifies correctly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
    x, y = (torch.from_numpy(part) for part in digits)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(80):
        adv = PGD(0.08, 0.08, 1)(Problem(model, clip_values=(0, 1)), x[:1000], y[:1000])
        optimizer.zero_grad()
        F.cross_entropy(model(adv), y[:1000]).backward()
        optimizer.step()
    model.eval()
    rows = (model(x[1000:]).argmax(1) == y[1000:]).nonzero()[:120, 0]
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu")
    return classifier, x[1000:][rows], y[1000:][rows]


def standing(model: nn.Module, adv: Tensor | np.ndarray, y: Tensor) -> float:
    return float((model(torch.as_tensor(adv)).argmax(1) == y).float().mean())


# The ball


@given(arrays(5), arrays(5, 0, 1), st.floats(0.05, 3))
@few
def test_linf_projection_is_the_nearest_point(point, x, eps):
    found = project(torch.tensor(point)[None], torch.tensor(x)[None], eps, math.inf, box((0.0, 1.0), torch.tensor(x)))
    np.testing.assert_allclose(found[0], point.clip(x - eps, x + eps).clip(0, 1), atol=1e-12)


@given(arrays(5), arrays(5), st.floats(0.05, 3))
@few
def test_l2_projection_without_limits_is_the_nearest_point(point, x, eps):
    found = project(torch.tensor(point)[None], torch.tensor(x)[None], eps, 2, box(None, torch.tensor(x)))
    size = np.linalg.norm(point - x)
    np.testing.assert_allclose(found[0], point if size <= eps else x + (point - x) * eps / size, atol=1e-9)


@given(arrays(4), arrays(4, 0, 1), st.floats(0.05, 3), st.booleans())
@few
def test_l1_projection_is_the_nearest_point_of_ball_and_box(point, x, eps, limited):
    limits = box((0.0, 1.0) if limited else None, torch.tensor(x))
    found = project(torch.tensor(point)[None], torch.tensor(x)[None], eps, 1, limits)[0].numpy()
    # delta = up - down with both at least 0 makes the ball linear
    room = [(0, 1 - v) for v in x] + [(0, v) for v in x] if limited else [(0, None)] * 8
    oracle = minimize(
        lambda parts: ((x + parts[:4] - parts[4:] - point) ** 2).sum(),
        np.zeros(8),
        jac=lambda parts: 2 * np.tile(x + parts[:4] - parts[4:] - point, 2) * np.repeat([1, -1], 4),
        bounds=room,
        constraints={"type": "ineq", "fun": lambda parts: eps - parts.sum(), "jac": lambda parts: -np.ones(8)},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 200},
    )
    assert np.abs(found - x).sum() <= eps + 1e-9
    assert ((found - point) ** 2).sum() <= oracle.fun + 1e-6
    if limited:
        assert (found >= 0).all()
        assert (found <= 1).all()


@pytest.mark.parametrize("norm", NORMS)
@given(point=arrays((3, 2, 4)), x=arrays((3, 2, 4), 0, 1), eps=st.floats(0.05, 3))
@few
def test_projection_ends_inside_and_keeps_what_is_inside(norm, point, x, eps):
    point, x = torch.tensor(point, dtype=torch.float32), torch.tensor(x, dtype=torch.float32)
    limits = box((0.0, 1.0), x)
    once = project(point, x, eps, norm, limits)
    assert inside(once, x, eps, norm, limits).all()
    torch.testing.assert_close(project(once, x, eps, norm, limits), once, atol=2e-6, rtol=0)
    torch.testing.assert_close(project(x, x, eps, norm, limits), x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_random_points_lie_inside_and_differ(norm, clip):
    x = torch.rand((200, 1, 8, 8), generator=generator())
    x[0], x[1] = 0.0, 1.0  # corners
    limits = box(clip, x)
    points = random_point(x, RADII[norm], norm, limits, generator(1))
    assert inside(points, x, RADII[norm], norm, limits).all()
    assert not torch.equal(points, random_point(x, RADII[norm], norm, limits, generator(2)))
    assert torch.equal(points, random_point(x, RADII[norm], norm, limits, generator(1)))
    assert (points != x).flatten(1).any(dim=1).all()
    if clip is None and norm != math.inf:
        torch.testing.assert_close(length(points - x, norm).flatten(), torch.full((200,), RADII[norm]))


@pytest.mark.parametrize("norm", NORMS)
def test_membership_follows_the_definition(norm):
    x = torch.full((5, 4), 0.5)
    points = x.clone()
    points[1, 0] += 0.2
    points[2, 0] += 0.2011
    points[3] += 0.1
    points[4, 2] = math.nan
    on_edge = {math.inf: True, 2: True, 1: False}[norm]  # lengths 0.1, 0.2 and 0.4
    expected = [True, True, False, on_edge, False]
    assert inside(points, x, 0.2, norm, box(None, x)).tolist() == expected


def test_membership_respects_each_limit():
    x = torch.zeros(1, 1)
    for clip, point, expected in [
        ((-1.0, 1.0), 1.0, True),
        ((-1.0, 1.0), 1.001, False),
        ((-1.0, 1.0), -1.001, False),
        ((-math.inf, 1.0), 1.001, False),
        ((-math.inf, 1.0), -50.0, True),
        ((0.0, math.inf), -0.001, False),
        ((np.array([0.0]), np.array([1.0])), 0.5, True),
    ]:
        limits = box(clip, x)  # type: ignore[arg-type]
        assert inside(torch.tensor([[point]]), x, math.inf, 2, limits).item() is expected


def test_membership_allows_for_the_rounding_of_large_inputs():
    x = torch.full((1, 3), 20000.3)
    assert inside(x + 0.01, x, 0.01, math.inf, box(None, x)).all()
    assert not inside(x + 0.1, x, 0.01, math.inf, box(None, x)).any()


# Losses


@given(arrays((6, 5), -9, 9), hnp.arrays(np.int64, 6, elements=st.integers(0, 4)), st.integers(0, 3))
@few
def test_dlr_equals_its_formula(logits, y, rank):
    logits += np.arange(5) * 1e-4  # no ties
    loss = DLR(rank)
    target = loss.target(torch.tensor(logits), torch.tensor(y))
    values = loss(torch.tensor(logits), torch.tensor(y), target)
    for z, label, t, value in zip(logits, y, target.tolist(), values.tolist(), strict=True):
        order = sorted(range(5), key=lambda i: -z[i])
        wrong = [i for i in order if i != label]
        if rank:
            assert t == wrong[rank - 1]
            expected = -(z[label] - z[t]) / (z[order[0]] - (z[order[2]] + z[order[3]]) / 2)
        else:
            expected = -(z[label] - z[wrong[0]]) / (z[order[0]] - z[order[2]])
        assert value == pytest.approx(expected, rel=1e-6)


@given(arrays((4, 6), -5, 5), st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 2))
@few
def test_dlr_does_not_see_scale_and_shift(logits, scale, shift, rank):
    logits = torch.tensor(logits + np.arange(6) * 1e-3)
    y, loss = torch.arange(4), DLR(rank)
    expected = loss(logits, y, loss.target(logits, y))
    torch.testing.assert_close(loss(scale * logits + shift, y, loss.target(logits, y)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("rank", [0, 1, 5])
def test_dlr_with_few_classes_is_the_margin(classes, rank):
    logits, y = torch.tensor([[3.0, 1.0, 0.5][:classes]]), torch.tensor([0])
    value = DLR(rank)(logits, y, DLR(rank).target(logits, y)).item()
    expected = {(3, 0): -2 / 2.5, (3, 1): -2, (3, 5): -2.5}.get((classes, rank), -2)
    assert value == pytest.approx(expected)


def test_cross_entropy_is_torchs_sample_by_sample():
    logits, y = torch.randn(5, 3, generator=generator()), torch.tensor([0, 1, 2, 0, 1])
    expected = torch.stack([F.cross_entropy(logits[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(CrossEntropy()(logits, y, y), expected)


# APGD


def test_apgd_looks_at_its_progress_when_the_paper_does():
    def looks(steps, kind=_Climb):
        return np.cumsum(kind.periods(object.__new__(kind), steps)).tolist()

    assert looks(100) == [22, 41, 57, 70, 80, 87, 93, 99, 100]
    assert looks(1) == [1]
    assert looks(20)[-1] == 20
    assert looks(100, _SparseClimb) == list(range(4, 101, 4))


def reference_apgd(network, x, y, attack, start, clip):
    """Algorithm 1 of Croce and Hein 2020 for one sample, as it stands in the paper; stops at a misclassified point."""
    eps, n = attack.eps, attack.max_iter
    limits = box(clip, x)

    def ask(point):
        point = point.clone().requires_grad_()
        logits = network(point)
        value = attack.objective(logits, y, y)
        (gradient,) = torch.autograd.grad(value.sum(), point)
        return value.item(), gradient, logits.argmax().item() != y.item()

    def ascended(point, step, gradient):
        along = gradient.sign() if attack.norm == math.inf else gradient / gradient.norm()
        return project(point + step * along, x, eps, attack.norm, limits)

    shares = [0, 0.22]
    while shares[-1] < 1:
        shares.append(min(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06), 1))
    looks = [math.ceil(round(share * n, 9)) for share in shares]
    step, points, values = 2 * eps, [start], []
    value, gradient, wrong = ask(start)
    values.append(value)
    best, best_value, best_gradient = start, value, gradient
    rises, halved_before, best_before = 0, True, value
    for k in range(n):
        if wrong:
            return points[-1]
        z = ascended(points[-1], step, gradient)
        if k:
            z = project(
                points[-1] + 0.75 * (z - points[-1]) + 0.25 * (points[-1] - points[-2]), x, eps, attack.norm, limits
            )
        points.append(z)
        value, gradient, wrong = ask(z)
        values.append(value)
        rises += values[-1] > values[-2]
        if value > best_value:
            best, best_value, best_gradient = z, value, gradient
        if k + 1 in looks:
            period = k + 1 - looks[looks.index(k + 1) - 1]
            halved = rises < 0.75 * period or (not halved_before and best_value == best_before)
            if halved and not wrong:
                step, gradient = step / 2, best_gradient
                points[-1], values[-1] = best, best_value
            rises, halved_before, best_before = 0, halved, best_value
    return points[-1] if wrong else best


@pytest.mark.parametrize("objective", [CrossEntropy(), DLR()])
@pytest.mark.parametrize("norm", [math.inf, 2])
def test_apgd_equals_the_papers_algorithm_sample_by_sample(trained, norm, objective):
    classifier, x, y = trained
    model, x, y = classifier.model.double(), x[:25].double(), y[:25]
    try:
        attack = APGD(RADII[norm] * 0.8, norm, 15, objective)
        adv = attack(Problem(model, clip_values=(0, 1), generator=generator()), x, y)
        starts = random_point(x, attack.eps, norm, box((0.0, 1.0), x), generator())
        expected = torch.cat(
            [
                reference_apgd(model, x[i : i + 1], y[i : i + 1], attack, starts[i : i + 1], (0.0, 1.0))
                for i in range(25)
            ]
        )
        torch.testing.assert_close(adv, expected)
        assert 0.1 < standing(model, adv, y) < 0.95
    finally:
        model.float()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("objective", "loss_type"), [(CrossEntropy(), "cross_entropy"), (DLR(), "difference_logits_ratio")]
)
def test_apgd_is_at_least_as_strong_as_arts(trained, norm, objective, loss_type):
    classifier, x, y = trained
    eps, steps = RADII[norm] * 0.7, 20
    adv = APGD(eps, norm, steps, objective)(Problem(classifier.model, clip_values=(0, 1), generator=generator()), x, y)
    np.random.seed(0)
    art = evasion.AutoProjectedGradientDescent(
        classifier, norm=norm, eps=eps, eps_step=2 * eps, max_iter=steps, nb_random_init=1, loss_type=loss_type,
        batch_size=len(x), verbose=False,
    )  # fmt: skip
    theirs = standing(classifier.model, art.generate(x.numpy().copy(), y.numpy()), y)
    # Equal within the luck of the start; for p = 1 ART's steps are too small for its own random start.
    assert standing(classifier.model, adv, y) <= (theirs - 0.2 if norm == 1 else theirs + 0.03)
    assert theirs < 0.8


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_is_at_least_as_strong_as_pgd_of_as_many_steps(trained, norm):
    classifier, x, y = trained
    eps = RADII[norm] * 0.7
    mine, pgd = (
        standing(
            classifier.model, attack(Problem(classifier.model, clip_values=(0, 1), generator=generator()), x, y), y
        )
        for attack in (APGD(eps, norm, 40), PGD(eps, eps / 8, 40, norm))
    )
    assert mine <= pgd + 0.01


def test_apgd_hands_samples_over_when_they_are_misclassified():
    sizes = []

    class Seen(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return torch.cat([x, -x], dim=1)

    x = torch.tensor([[0.01], [0.3], [5.0]])
    APGD(0.5, max_iter=20)(Problem(Seen(), generator=generator(1)), x, torch.tensor([0, 0, 0]))
    assert sizes[:2] == [3, 3]
    assert sizes[-1] == 1  # nothing fools the last one
    assert len(sizes) == 22  # the target's logits, the start, 20 steps


def test_apgd_keeps_a_misclassified_point_that_the_loss_leads_away_from():
    class Band(nn.Module):
        """Class 1 only within 0.2 of 0, while the loss rises outwards by class 2, which never wins."""

        def forward(self, x):
            return torch.cat([torch.zeros_like(x), 1e-3 * (0.2 - x.abs()), 5 * x.abs() - 5.001], dim=1)

    x, y = torch.zeros(1, 1), torch.tensor([0])
    starts = [random_point(x, 1.0, math.inf, box(None, x), generator(seed)).item() for seed in range(20)]
    seed = next(seed for seed, start in enumerate(starts) if abs(start) < 0.2)
    adv = APGD(1.0, max_iter=10)(Problem(Band(), generator=generator(seed)), x, y)
    assert adv.item() == pytest.approx(starts[seed])


def test_apgd_refuses_gradients_that_are_not_finite():
    network = nn.Linear(1, 2)
    network.weight.data.fill_(math.nan)
    for attack in (APGD(0.1, max_iter=2), WRM()):
        with pytest.raises(FloatingPointError, match="gradient .*is not finite"):
            attack(Problem(network), torch.zeros(1, 1), torch.tensor([0]))


# Square


@pytest.mark.parametrize("norm", NORMS)
def test_square_is_comparable_to_arts(trained, norm):
    small, x, y = trained
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)  # ART's divides by zero on 8 x 8 pixels for p = 2
    model = nn.Sequential(nn.AvgPool2d(2), small.model).eval()
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 16, 16), 10, clip_values=(0, 1), preprocessing=None, device_type="cpu"
    )
    eps, limits = {math.inf: 0.12, 2: 2.4, 1: 24.0}[norm], box((0.0, 1.0), x)
    adv = Square(eps, norm, 150)(Problem(model, clip_values=(0, 1), generator=generator()), x, y)
    np.random.seed(0)
    art = evasion.SquareAttack(
        classifier, norm=norm, eps=eps, max_iter=150, nb_restarts=1, batch_size=len(x), p_init=0.8, verbose=False
    )
    with np.errstate(all="ignore"):  # for p = 2 ART divides by zero; what comes of it is not inside
        theirs = torch.as_tensor(art.generate(x.numpy().copy(), y.numpy()))
    theirs = torch.where(inside(theirs, x, eps, norm, limits)[:, None, None, None], theirs, x)
    mine = standing(model, adv, y)
    assert mine <= standing(model, theirs, y) + 0.05
    assert 0.05 < mine < 0.9


def test_square_begins_with_vertical_stripes():
    x, y = torch.full((4, 2, 6, 5), 0.5), torch.zeros(4, dtype=torch.long)
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    network[1].weight.data.zero_(), network[1].bias.data.copy_(torch.tensor([1.0, 0.0, 0.0]))
    delta = Square(0.1, max_iter=1)(Problem(network, clip_values=(0, 1), generator=generator()), x, y) - x
    torch.testing.assert_close(delta.abs(), torch.full_like(x, 0.1))
    assert (delta == delta[:, :, :1]).all()
    assert len({tuple(row.flatten().sign().tolist()) for row in delta}) > 1


@pytest.mark.parametrize("norm", NORMS)
def test_square_never_lowers_the_margin_with_more_queries(trained, norm):
    classifier, x, y = trained
    eps = RADII[norm] * 0.3
    margins = []
    for queries in (1, 10, 100):
        attack = Square(eps, norm, queries)
        with torch.no_grad():
            adv = attack(Problem(classifier.model, clip_values=(0, 1), generator=generator()), x, y)
            margins.append(margin(classifier.model(adv), y).mean().item())
    assert margins[0] < margins[1] < margins[2]


@pytest.mark.parametrize(("shape"), [(7,), (3, 9), (2, 5, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("norm", NORMS)
def test_square_takes_inputs_of_every_shape(shape, norm):
    torch.manual_seed(0)
    x = torch.rand((6, *shape))
    network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3))
    y = network(x).argmax(1)
    adv = Square(0.3, norm, 30)(Problem(network, clip_values=(0.0, 1.0), generator=generator()), x, y)
    assert adv.shape == x.shape
    assert inside(adv, x, 0.3, norm, box((0.0, 1.0), x)).all()
    assert (adv != x).flatten(1).any(dim=1).all()


def test_square_asks_no_more_about_misclassified_samples():
    sizes = []

    class Seen(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return torch.cat([x, -x], dim=1)

    Square(0.5, max_iter=30)(
        Problem(Seen(), generator=generator()), torch.tensor([[0.01], [5.0]]), torch.tensor([0, 0])
    )
    assert sizes[0] == 2
    assert sizes[-1] == 1
    assert len(sizes) == 30


# All attacks of our own


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("clip", [None, (0.0, 1.0), (np.zeros((1, 8, 8)), np.linspace(0.9, 1, 64).reshape(1, 8, 8))])
def test_examples_lie_inside_follow_the_generator_and_leave_the_network_alone(trained, norm, clip):
    classifier, x, y = trained
    x, y, eps, model = (x[:30] * 0.9).to(memory_format=torch.channels_last), y[:30], RADII[norm], classifier.model
    before = x.clone()
    for attack in (APGD(eps, norm, 5), APGD(eps, norm, 5, DLR(1)), Square(eps, norm, 5)):
        model.train()
        adv, again = (attack(Problem(model, clip_values=clip, generator=generator(3)), x, y) for _ in range(2))
        assert model.training
        assert all(p.requires_grad and p.grad is None for p in model.parameters() if p.grad is None)
        assert torch.equal(adv, again)
        assert not adv.requires_grad
        assert torch.equal(x, before)
        assert inside(adv, x, eps, norm, box(clip, x)).all()
        one_hot = F.one_hot(y, 10).float()
        assert torch.equal(attack(Problem(model, clip_values=clip, generator=generator(3)), x, one_hot), adv)
    model.eval()


@pytest.mark.parametrize("norm", [math.inf, 2])
def test_fgm_of_the_suites_equals_arts(trained, norm):
    classifier, x, y = trained
    fgm = next(attack.method for attack in quick(RADII[norm], norm).attacks if attack.name == "FGM")
    adv = fgm(Problem(classifier.model, clip_values=(0, 1)), x, y)
    theirs = evasion.FastGradientMethod(classifier, norm=norm, eps=RADII[norm], batch_size=len(x)).generate(
        x.numpy(), y.numpy()
    )
    torch.testing.assert_close(adv, torch.as_tensor(theirs), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("attack", "wrong"),
    [
        (APGD(0.1), {"eps": 0}),
        (APGD(0.1), {"eps": math.inf}),
        (APGD(0.1), {"norm": 3}),
        (APGD(0.1), {"max_iter": 0}),
        (APGD(0.1), {"max_iter": 2.5}),
        (Square(0.1), {"eps": -1}),
        (Square(0.1), {"norm": 0}),
        (Square(0.1), {"max_iter": 0}),
        (Square(0.1), {"share": 0}),
        (Square(0.1), {"share": 1.1}),
        (WRM(), {"gamma": 0}),
        (WRM(), {"max_iter": 0}),
        (DLR(), {"rank": -1}),
        (DLR(), {"rank": 0.5}),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(attack, wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`.*got"):
        dataclasses.replace(attack, **wrong)


def test_all_parameters_out_of_range_are_named_at_once():
    with pytest.raises(ValueError, match="`eps`.*`norm`.*`max_iter`.*`share`"):
        Square(0, 3, 0, 2)
    assert (Square(0.1, 1, 1, 1).share, APGD(0.1, 2, 1).max_iter, WRM(20, 1).gamma) == (1, 1, 20)


# WRM, ART's attacks, borrowed gradients


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_wrm_equals_an_explicit_loop_sample_by_sample(trained, clip):
    classifier, x, y = trained
    model, x, y = classifier.model, x[:6], y[:6]
    adv = WRM(gamma=20, max_iter=5)(Problem(model, clip_values=clip), x, y)
    for i in range(6):
        point = x[i : i + 1]
        for t in range(5):
            moving = point.clone().requires_grad_()
            gain = 20 * F.cross_entropy(model(moving), y[i : i + 1]) - ((moving - x[i : i + 1]) ** 2).sum() / 2
            (gradient,) = torch.autograd.grad(gain, moving)
            point = point + gradient / math.sqrt(t + 1)
            point = point if clip is None else point.clamp(*clip)
        torch.testing.assert_close(adv[i : i + 1], point, atol=2e-3, rtol=2e-3)  # each step multiplies a rounding
    assert not adv.requires_grad
    assert not x.requires_grad


def test_built_attack_equals_arts_on_the_same_network(trained):
    classifier, x, y = trained
    expected = evasion.DeepFool(classifier, batch_size=20, verbose=False).generate(
        x[:20].numpy().copy(), y[:20].numpy()
    )
    adv = Built(evasion.DeepFool)(Problem(classifier.model, clip_values=(0, 1), generator=generator()), x[:20], y[:20])
    torch.testing.assert_close(adv, torch.as_tensor(expected))
    options = {"eps": 0.1, "eps_step": 0.02, "max_iter": 5}
    expected = evasion.ProjectedGradientDescent(classifier, **options, verbose=False).generate(x.numpy(), y.numpy())
    adv = Built(evasion.ProjectedGradientDescent, options)(Problem(classifier.model, clip_values=(0, 1)), x, y)
    torch.testing.assert_close(adv, torch.as_tensor(expected), atol=2e-6, rtol=0)


def test_built_autoattack_runs(trained):
    classifier, x, y = trained
    pytest.importorskip("multiprocess")
    members = [evasion.FastGradientMethod(classifier, eps=0.1)]
    adv = Built(evasion.AutoAttack, {"eps": 0.1, "eps_step": 0.1, "attacks": members})(
        Problem(classifier.model, clip_values=(0, 1), generator=generator()), x[:20], y[:20]
    )
    assert standing(classifier.model, adv, y[:20]) < 1


def test_built_refuses_what_is_no_attack_class(trained):
    for wrong in (nn.Linear, evasion.DeepFool(trained[0], verbose=False), "DeepFool"):
        with pytest.raises(TypeError, match="must be a class of art.attacks.evasion"):
            Built(wrong)  # type: ignore[arg-type]


def test_only_autoattack_needs_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    check_importable(evasion.DeepFool)
    with pytest.raises(ImportError, match="multiprocess"):
        check_importable(evasion.AutoAttack)


def test_straight_through_has_the_values_of_one_and_the_gradients_of_the_other():
    torch.manual_seed(0)
    values, gradients = nn.Sequential(nn.Linear(3, 2), nn.Threshold(9.0, 0.5)), nn.Linear(3, 2)
    x = torch.randn(4, 3, requires_grad=True)
    both = StraightThrough(values, gradients)
    torch.testing.assert_close(both(x), values(x))
    for column in range(2):
        (mine,) = torch.autograd.grad(both(x)[:, column].sum(), x)
        (expected,) = torch.autograd.grad(gradients(x)[:, column].sum(), x)
        torch.testing.assert_close(mine, expected)
