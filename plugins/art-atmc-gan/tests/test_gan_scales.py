"""Scales, their budget and their penalty, against enumeration, grids and scikit-learn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from art_atmc_gan import Proximal, ResidualGenerator, ScaleSparsity, channel_scales, coupled_scales, soft_threshold
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso
from torch import nn

from art_atmc import ProjectedGradient, Weights, enforced
from art_atmc.plugins import from_repr
from art_atmc.testing import check_constraint, check_solver

numbers = st.floats(-3, 3, width=32)


def scales_of(values: list[float], sizes: tuple[int, ...] = (2, 3, 5)) -> Weights:
    return Weights({f"{i}": part.clone() for i, part in enumerate(torch.tensor(values).split(list(sizes)))})


@settings(max_examples=40, deadline=None)
@given(st.lists(numbers, min_size=10, max_size=10), st.integers(1, 2), st.integers(6, 10))
def test_projection_is_the_nearest_of_all_supports(values: list[float], least: int, k: int) -> None:
    weights = scales_of(values)
    kept = ScaleSparsity(density=k / 10, least=least).project(weights)
    error = sum(float((kept[n] - w).double().square().sum()) for n, w in weights.items())
    floors, flat = [min(least, 2), min(least, 3), min(least, 5)], torch.tensor(values).double()
    best = math.inf
    for support in itertools.product((False, True), repeat=10):
        counts = [sum(part) for part in (support[:2], support[2:5], support[5:])]
        if sum(map(max, counts, floors)) <= k:
            best = min(best, float(flat[~torch.tensor(support)].square().sum()))
    assert error == pytest.approx(best, abs=1e-9)
    again = ScaleSparsity(density=k / 10, least=least).project(kept)
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_equal_scales_stay_by_index() -> None:
    kept = ScaleSparsity(density=0.5, least=1).project(Weights({"a": torch.ones(3), "b": torch.ones(5)}))
    assert kept["a"].tolist() == [1, 1, 1]
    assert kept["b"].tolist() == [1, 0, 0, 0, 0]


def test_coupled_scales_go_together() -> None:
    weights = Weights({"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([0.0, 2.0]), "c": torch.tensor([1.0, 2.5])})
    kept = ScaleSparsity(density=0.5, least=1, coupled=(("a", "b"),)).project(weights)
    assert (kept["a"].tolist(), kept["b"].tolist(), kept["c"].tolist()) == ([3, 0], [0, 0], [0, 2.5])


def test_scale_sparsity_is_a_constraint() -> None:
    constraint = ScaleSparsity(density=0.4, least=2)
    torch.manual_seed(0)
    check_constraint(constraint, Weights({"a": torch.randn(8), "b": torch.randn(16)}))
    assert from_repr(repr(constraint)) == constraint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.0}, "density"),
        ({"density": 1.5}, "density"),
        ({"density": 0.5, "least": 0}, "least"),
        ({"density": 0.1, "least": 2}, "fewer than the 6 that 3 layers keep"),
        ({"density": 1.0, "coupled": (("0", "1"),)}, "as many scales"),
        ({"density": 1.0, "coupled": (("0", "missing"),)}, "missing"),
    ],
)
def test_impossible_budgets_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleSparsity(**arguments).check(scales_of([1.0] * 10))  # type: ignore[arg-type]
    ScaleSparsity(density=0.6, least=2).check(scales_of([1.0] * 10))


@settings(max_examples=40, deadline=None)
@given(numbers, st.floats(0, 2, width=32))
def test_soft_threshold_minimises_its_objective(v: float, t: float) -> None:
    grid = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    objective = 0.5 * (grid - v).square() + t * grid.abs()
    found = float(soft_threshold(torch.tensor(v, dtype=torch.float64), t))
    assert found == pytest.approx(float(grid[objective.argmin()]), abs=1.01e-3)


def proximal(values: list[float], **options: float) -> tuple[nn.Parameter, torch.optim.SGD, Proximal]:
    scales = nn.Parameter(torch.tensor(values))
    optimizer = torch.optim.SGD([scales], lr=0.5, momentum=0.5)
    return scales, optimizer, Proximal(Weights({"scales": scales}), optimizer, **options)  # type: ignore[arg-type]


def test_without_penalty_nothing_changes() -> None:
    scales, _, solver = proximal([0.3, -1e-20, 0.0], rho=0.0)
    before = scales.detach().clone()
    solver.step()
    assert torch.equal(scales, before)


def test_the_penalty_may_leave_the_largest_alone() -> None:
    scales, _, solver = proximal([0.1, -0.2, 0.15], rho=10.0, least=2)
    solver.step()
    torch.testing.assert_close(scales.detach(), torch.tensor([0.0, -0.2, 0.15]))


def test_the_threshold_takes_the_rate_of_the_step_and_clears_momentum() -> None:
    scales, optimizer, solver = proximal([1.0, 0.3], rho=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.1)
    with enforced(optimizer, [solver]):
        for lr, expected in ((0.5, [0.5, 0.0]), (0.05, [0.45, 0.0])):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(lr)
            scales.grad = torch.tensor([0.0, 0.1])
            optimizer.step()
            schedule.step()
            torch.testing.assert_close(scales.detach(), torch.tensor(expected))
            assert optimizer.state[scales]["momentum_buffer"][1] == 0


@pytest.mark.parametrize("orthonormal", [True, False])
def test_many_steps_solve_the_lasso(orthonormal: bool) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(60, 20, dtype=torch.float64), torch.randn(60, dtype=torch.float64)
    if orthonormal:
        a = torch.linalg.qr(a).Q
    rho = 0.3 if orthonormal else 8.0
    scales = nn.Parameter(torch.zeros(20, dtype=torch.float64))
    optimizer = torch.optim.SGD([scales], lr=1.0 / float(torch.linalg.matrix_norm(a, 2)) ** 2)
    with enforced(optimizer, [Proximal(Weights({"scales": scales}), optimizer, rho=rho)]):
        for _ in range(600):
            optimizer.zero_grad()
            (0.5 * (a @ scales - b).square().sum()).backward()
            optimizer.step()
    if orthonormal:
        expected = soft_threshold(a.T @ b, rho)
    else:
        lasso = Lasso(alpha=rho / 60, fit_intercept=False, tol=1e-12, max_iter=10**6).fit(a.numpy(), b.numpy())
        expected = torch.from_numpy(lasso.coef_)
    torch.testing.assert_close(scales.detach(), expected, atol=1e-4, rtol=0)
    assert 0 < int(scales.count_nonzero()) < 20


def test_proximal_is_a_solver() -> None:
    def built(weights: Weights) -> Proximal:
        return Proximal(weights, torch.optim.SGD(list(weights.values()), lr=0.1), rho=0.1)

    check_solver(built, Weights({"a": torch.randn(8), "b": torch.randn(16)}))


def test_bad_penalties_are_refused() -> None:
    with pytest.raises(ValueError, match="rho"):
        proximal([1.0], rho=-1.0)
    _, optimizer, _ = proximal([1.0], rho=1.0)
    with pytest.raises(ValueError, match="does not train"):
        Proximal(Weights({"other": torch.ones(1)}), optimizer, rho=1.0)


def test_scales_of_the_generator_are_those_of_channels_that_can_go() -> None:
    model = ResidualGenerator((4, 6, 8), stream=8)
    scales = channel_scales(model, torch.zeros(1, 3, 8, 8))
    assert {name: len(scale) for name, scale in scales.items()} == {
        "encoder.1.weight": 4, "blocks.0.layers.1.weight": 6, "decoder.1.weight": 8,
    }  # fmt: skip
    assert all(scale is dict(model.named_parameters())[name] for name, scale in scales.items())
    assert model.training
    assert coupled_scales(model, torch.zeros(1, 3, 8, 8)) == ()


class Stream(nn.Module):
    """Two layers that add to one stream."""

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
            nn.Conv2d(5, 4, 3, padding=1), nn.BatchNorm2d(4, affine=affine),
        )  # fmt: skip
        self.head = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y: torch.Tensor = self.head(torch.relu(x + self.branch(x)))
        return y


def test_scales_of_a_stream_are_coupled_and_bound_where_one_is_missing() -> None:
    x = torch.zeros(1, 3, 8, 8)
    assert coupled_scales(Stream(), x) == (("branch.5.weight", "stem.1.weight"),)
    assert list(channel_scales(Stream(affine=False), x)) == ["branch.2.weight"]
    weights, coupled = channel_scales(Stream(), x), coupled_scales(Stream(), x)
    with torch.no_grad():
        weights["branch.5.weight"][0] = 0
        ProjectedGradient(weights, ScaleSparsity(density=0.6, least=1, coupled=coupled)).finalize()
    assert int((weights["stem.1.weight"] != 0).sum()) + int((weights["branch.2.weight"] != 0).sum()) == 5


def test_a_network_without_scales_is_refused_with_the_alternative() -> None:
    with pytest.raises(ValueError, match="FilterSparsity"):
        channel_scales(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Conv2d(4, 3, 3)), torch.zeros(1, 3, 8, 8)
        )
