"""The simplex and the balls: nearest points, against brute force and solvers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from art_atmc_minmax import ascend, project_simplex, worst_weights
from art_atmc_minmax.ball import nearest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, minimize

torch.set_num_threads(1)
values = st.one_of(st.floats(-5, 5, width=32), st.sampled_from([-1.0, 0.0, 0.5, 1.0]))


def by_supports(v):
    """The nearest point of the simplex, by trying every support."""
    best = None
    for support in itertools.chain.from_iterable(itertools.combinations(range(len(v)), n + 1) for n in range(len(v))):
        w, kept = np.zeros(len(v)), list(support)
        w[kept] = v[kept] - (v[kept].sum() - 1) / len(kept)
        distance = ((w - v) ** 2).sum()
        if (w >= 0).all() and (best is None or distance < best[0]):
            best = distance, w
    return best[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(values, min_size=1, max_size=6))
def test_no_support_gives_a_nearer_point_of_the_simplex(v):
    found = project_simplex(torch.tensor([v], dtype=torch.float64))
    np.testing.assert_allclose(found[0], by_supports(np.array(v, dtype=np.float64)), atol=2e-8)  # squares tie below
    shift = torch.tensor(v, dtype=torch.float64) - found[0]
    inside = found[0] > 0
    assert float(shift[inside].max() - shift[inside].min()) <= 1e-12
    assert (shift[~inside] <= shift[inside].max() + 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(values, min_size=1, max_size=6), st.floats(-3, 3))
def test_points_of_the_simplex_stay_and_shifts_move_nothing(v, shift):
    point = torch.tensor([v])
    once = project_simplex(point)
    assert torch.equal(project_simplex(once), once)
    torch.testing.assert_close(project_simplex(point + shift), once, atol=1e-5, rtol=0)
    assert float(once.sum()) == pytest.approx(1, abs=1e-6)


def test_ties_share_and_a_single_weight_is_one():
    assert project_simplex(torch.zeros(1, 4)).tolist() == [[0.25] * 4]
    assert project_simplex(torch.tensor([[-7.0], [3.0]])).tolist() == [[1.0], [1.0]]


def test_worst_weights_are_those_of_a_solver():
    rng = np.random.default_rng(0)
    for _ in range(40):
        losses, gamma = rng.normal(size=4), float(rng.uniform(0.2, 4))

        def value(w, losses=losses, gamma=gamma):
            return gamma / 2 * ((w - 0.25) ** 2).sum() - w @ losses

        solved = minimize(value, np.full(4, 0.25), bounds=[(0, 1)] * 4, method="SLSQP", options={"ftol": 1e-14},
                          constraints={"type": "eq", "fun": lambda w: w.sum() - 1})  # fmt: skip
        found = worst_weights(torch.tensor(losses), gamma).numpy()
        assert value(found) == pytest.approx(solved.fun, abs=1e-8)


def test_the_derivative_of_the_worst_case_is_its_weights():
    losses = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64)

    def value(f):
        w = worst_weights(f, 1.5)
        return w @ f - 0.75 * (w - 1 / 3).square().sum()

    for k in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[k] = 1e-6
        slope = (value(losses + step) - value(losses - step)) / 2e-6
        assert float(slope) == pytest.approx(float(worst_weights(losses, 1.5)[k]), abs=1e-8)


def test_gamma_goes_from_one_hot_to_the_prior():
    losses, prior = torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([0.5, 0.3, 0.2])
    assert worst_weights(losses, 0).tolist() == [[0, 1, 0]]  # the first of the largest
    assert worst_weights(losses, 1e-9).tolist() == [[0, 0.5, 0.5]]
    torch.testing.assert_close(worst_weights(losses, 1e9, prior)[0], prior, atol=1e-6, rtol=0)
    torch.testing.assert_close(worst_weights(losses, math.inf, prior)[0], prior)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, min_size=3, max_size=3), st.floats(0, 5), st.floats(0.01, 0.19))
def test_the_proximal_step_is_the_papers_step_of_another_length(losses, gamma, paper):
    w = project_simplex(torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64))
    f = torch.tensor([losses], dtype=torch.float64)
    explicit = project_simplex(w + paper * (f - gamma * (w - 1 / 3)))
    torch.testing.assert_close(ascend(w, f, gamma, paper / (1 - paper * gamma)), explicit, atol=1e-9, rtol=0)


def test_the_closed_form_is_where_steps_stay():
    losses = torch.tensor([[0.4, -1.0, 0.6]], dtype=torch.float64)
    for gamma in (0.3, 1.0, 5.0):
        w = worst_weights(losses, gamma)
        torch.testing.assert_close(ascend(w, losses, gamma, 0.1), w, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", [math.inf, 2, 1, 0])
@pytest.mark.parametrize("seed", range(3))
def test_projections_lie_in_ball_and_box_and_inner_points_stay(norm, seed):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(20, 3, 4, generator=generator)
    low, high = -torch.rand(20, 3, 4, generator=generator), torch.rand(20, 3, 4, generator=generator)
    eps = {math.inf: 0.3, 2: 0.8, 1: 1.5, 0: 3}[norm]
    found = nearest(delta, eps, norm, low, high)
    assert ((found >= low) & (found <= high)).all()
    assert (torch.linalg.vector_norm(found.flatten(1), norm, dim=1) <= eps * (1 + 1e-6)).all()
    again = nearest(found, eps * (1 + 1e-6) if norm else eps, norm, low, high)
    assert torch.equal(again, found)


@pytest.mark.parametrize("norm", [2, 1])
def test_no_point_of_ball_and_box_is_nearer_than_a_solver_finds(norm):
    rng = np.random.default_rng(1)
    for _ in range(25):
        d, low, high = rng.normal(size=5), -rng.uniform(0, 1, 5), rng.uniform(0, 1, 5)
        eps = float(rng.uniform(0.2, 1.2))
        delta, lower, upper = (torch.tensor(v)[None] for v in (d, low, high))
        found = nearest(delta, eps, norm, lower, upper)[0].numpy()
        if norm == 2:  # the multiplier that makes the solver's point as long as ours; bounded least squares is exact
            lam = _multiplier(d, low, high, eps)
            solved = lsq_linear(np.vstack([np.eye(5), math.sqrt(lam) * np.eye(5)]), np.r_[d, np.zeros(5)],
                                bounds=(low - 1e-12, high + 1e-12)).x  # fmt: skip
        else:  # positive and negative parts
            bounds = [(0, max(h, 0)) for h in high] + [(0, max(-b, 0)) for b in low]
            done = minimize(lambda p, d=d: ((p[:5] - p[5:] - d) ** 2).sum(), np.zeros(10), bounds=bounds,
                            method="SLSQP",
                            options={"ftol": 1e-15, "maxiter": 500},
                            constraints={"type": "ineq", "fun": lambda p, eps=eps: eps - p.sum()})  # fmt: skip
            solved = done.x[:5] - done.x[5:]
        np.testing.assert_allclose(found, solved, atol=2e-6)


def _multiplier(d, low, high, eps):
    low_t, high_t = 0.0, 1e4
    if np.linalg.norm(np.clip(d, low, high)) <= eps:
        return 0.0
    for _ in range(200):
        middle = (low_t + high_t) / 2
        if np.linalg.norm(np.clip(d / (1 + middle), low, high)) > eps:
            low_t = middle
        else:
            high_t = middle
    return high_t


def test_no_choice_of_entries_is_nearer_for_norm_zero():
    rng = np.random.default_rng(2)
    for _ in range(30):
        d, low, high = rng.normal(size=5), -rng.uniform(0, 1, 5), rng.uniform(0, 1, 5)
        found = nearest(torch.tensor(d)[None], 2.5, 0, torch.tensor(low)[None], torch.tensor(high)[None])[0].numpy()
        clipped = np.clip(d, low, high)
        least = min(
            ((np.where(np.isin(np.arange(5), kept), clipped, 0) - d) ** 2).sum()
            for kept in itertools.combinations(range(5), 2)
        )
        assert ((found - d) ** 2).sum() == pytest.approx(least, abs=1e-12)
        assert (found != 0).sum() <= 2


def test_without_bounds_the_ball_alone_counts():
    delta, inf = torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor(math.inf)
    torch.testing.assert_close(nearest(delta, 1.0, 2, -inf, inf), delta / 5)
    torch.testing.assert_close(nearest(delta, 5.0, 1, -inf, inf), torch.tensor([[2.0, 3.0, 0.0]]))
