"""The reweighted penalty against its formulas, its proximal operator against brute force, and the laws of a solver."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from art_atmc_reweighted import Reweighted, group_lengths, reweighted
from art_atmc_structured import (
    BlockSparsity,
    ChannelSparsity,
    ColumnSparsity,
    FilterSparsity,
    KernelSparsity,
    NMSparsity,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from art_atmc import ADMM, Constraint, Quantization, Ramp, Sparsity, Weights, enforced
from art_atmc.testing import check_solver

torch.set_num_threads(1)  # small networks run many times slower on two

CONSTRAINTS = [
    Sparsity(0.4),
    FilterSparsity(0.5, ignore=()),
    FilterSparsity(0.5, per_layer=True, ignore=()),
    FilterSparsity(0.5, ignore=(), coupled=(("a", "b"),)),
    ChannelSparsity(0.5, ignore=()),
    ColumnSparsity(0.5),
    BlockSparsity(0.5, rows=2, columns=2),
    KernelSparsity(0.5),
    NMSparsity(1, 2),
]


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 3, 2), "b": (4, 5), "c": (3, 2, 1, 2)}
    return Weights({n: torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for n, s in shapes.items()})


def groups(constraint: Constraint, weights: Weights) -> list[list[tuple[str, tuple[int, ...]]]]:
    """The groups that the constraint may drop, entry by entry, from their definitions."""
    key: Callable[..., Any] = {  # type: ignore[assignment]
        Sparsity: lambda name, *at: (name, at),
        NMSparsity: lambda name, *at: (name, at),
        FilterSparsity: lambda name, i, *at: ("ab" if getattr(constraint, "coupled", ()) and name in "ab" else name, i),
        ChannelSparsity: lambda name, i, j, *at: (name, j),
        ColumnSparsity: lambda name, i, *at: (name, at),
        KernelSparsity: lambda name, i, j, *at: (name, i, j),
        BlockSparsity: lambda name, i, column: (name, i // 2, column // 2),
    }[type(constraint)]
    found: dict[Any, list[tuple[str, tuple[int, ...]]]] = {}
    for name, weight in weights.items():
        if isinstance(constraint, KernelSparsity) and weight.dim() == 2:
            continue
        for index in torch.cartesian_prod(*map(torch.arange, weight.shape)).tolist():
            at = tuple(index)
            column = math.prod(weight.shape[2:]) * at[1] + sum(
                x * math.prod(weight.shape[n + 3 :]) for n, x in enumerate(at[2:])
            )
            place = (at[0], column) if isinstance(constraint, BlockSparsity) else at
            found.setdefault(key(name, *place), []).append((name, at))
    return list(found.values())


def length(group: list[tuple[str, tuple[int, ...]]], weights: Weights) -> float:
    return math.sqrt(sum(float(weights[name][at]) ** 2 for name, at in group))


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=repr)
def test_it_keeps_the_laws(constraint: Constraint) -> None:
    check_solver(lambda weights: Reweighted(weights, constraint, Ramp(1, 6)), parameters())
    check_solver(lambda weights: Reweighted(weights, constraint, Ramp(0, 8), every=2, updates=2), parameters())
    check_solver(lambda weights: Reweighted(weights, constraint), parameters())


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=repr)
def test_lengths_are_those_of_the_groups(constraint: Constraint) -> None:
    weights = parameters().detach()
    lengths = group_lengths(constraint, weights)
    grouped = groups(constraint, weights)
    for group in grouped:
        for name, at in group:
            assert float(lengths[name][at]) == pytest.approx(length(group, weights), rel=1e-5)
    left_alone = weights.keys() - {name for group in grouped for name, _ in group}
    assert all(bool(lengths[name].isinf().all()) for name in left_alone)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=repr)
def test_a_step_is_the_formula_group_by_group(constraint: Constraint) -> None:
    weights = parameters(dtype=torch.float64)
    before = weights.clone()
    kept = constraint.project(before)
    dropped = [g for g in groups(constraint, before) if not any(kept[name][at] for name, at in g)]
    assert dropped
    solver = Reweighted(weights, constraint, Ramp(0, 30), reach=330)
    solver.step()
    epsilon = max(length(g, before) for g in dropped)
    # The penalty is still what it was, and so above its path, (29/30)^3 of it: lambda grows by the most it can.
    expected_strength = min(
        1e-5 * epsilon**2 * math.exp(min(1, -30 * math.log(29 / 30)) * 11),
        max(length(g, before) * (length(g, before) + epsilon) for g in dropped),
    )
    assert solver.strength == pytest.approx(expected_strength)
    expected = dict(before.clone())
    for group in dropped:
        r = length(group, before)
        for name, at in group:
            expected[name][at] *= max(0.0, 1 - solver.strength / (r + epsilon) / r)
    assert any(not torch.equal(expected[name], before[name]) for name in before)
    for name, weight in weights.items():
        assert torch.allclose(weight.detach(), expected[name], rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3),
    st.floats(0.001, 3),
)
def test_shrinking_is_the_proximal_operator(values: list[float], strength: float) -> None:
    """No point near by has less of |z - w|^2 / 2 + lambda R(z), for a group as for single entries."""
    weights = Weights({"w": torch.nn.Parameter(torch.tensor([values, [9.0, 9.0, 9.0]], dtype=torch.float64))})
    for constraint in (FilterSparsity(0.5, ignore=()), Sparsity(0.5)):
        solver = Reweighted(weights, constraint, Ramp(0, 100))
        lengths = group_lengths(constraint, weights.detach())["w"]
        factor = 1 / (lengths + 2)
        factor[1] = 0
        solver.strength = strength
        z = solver._thresholded(weights["w"].detach(), factor, lengths)

        def objective(z: Tensor, factor: Tensor = factor, constraint: Constraint = constraint) -> float:
            r = group_lengths(constraint, Weights({"w": z}))["w"]
            penalty = (factor * z * z / r.clamp_min(1e-300)).sum()
            return float((z - weights["w"].detach()).square().sum() / 2 + strength * penalty)

        best = objective(z)
        generator = torch.Generator().manual_seed(0)
        rivals = [torch.zeros_like(z), weights["w"].detach()]
        rivals += [
            z + scale * torch.randn(2, 3, generator=generator, dtype=z.dtype)
            for scale in (1.0, 0.1, 0.01)
            for _ in range(10)
        ]
        rivals += [z * torch.tensor([[s], [1.0]], dtype=z.dtype) for s in (0.9, 0.99, 1.01, 1.1)]
        assert all(best <= objective(rival) + 1e-12 for rival in rivals)


def quadratic(weights: Weights, solver: Reweighted, steps: int, lr: float = 0.05) -> list[dict[str, float]]:
    """Descend |w - target|^2 / 2 under the solver."""
    targets = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = torch.optim.SGD(list(weights.values()), lr=lr)
    rows = []
    with enforced(optimizer, [solver]):
        for _ in range(steps):
            for name, weight in weights.items():
                weight.grad = weight.detach() - targets[name]
            optimizer.step()
            rows.append({"updated": solver.updated, "strength": solver.strength, "nnz": weights.nnz()})
    return rows


def test_the_weights_of_the_penalty_are_set_a_few_times_and_held_in_between() -> None:
    weights = parameters()
    solver = Reweighted(weights, Sparsity(0.2), Ramp(0, 40), updates=4)
    rows = quadratic(weights, solver, 60)
    assert [rows[step]["updated"] for step in (0, 8, 9, 18, 19, 29, 38, 59)] == [1, 1, 2, 2, 3, 4, 4, 4]


def test_the_penalty_follows_its_path() -> None:
    """Where lambda may move fast enough, R(w) stays near R(w_0) (1 - p)^3."""
    weights = Weights({"w": torch.nn.Parameter(torch.randn(2000, generator=torch.Generator().manual_seed(1)))})
    weight, targets = weights["w"].detach(), weights.clone()["w"]
    solver = Reweighted(weights, Sparsity(0.2), Ramp(0, 1000), updates=1, reach=60)
    excess = [1.0]
    for step in range(1, 750):
        weight.sub_(0.01 * (weight - targets))
        if solver.factors is not None:
            dropped = Sparsity(0.2).project(weights.detach())["w"] == 0
            penalty = float((solver.factors["w"] * weight.abs())[dropped].sum())
            excess.append(penalty / solver.start / (1 - step / 1000) ** 3)
        solver.step()
    assert all(0.8 < e < 1.25 for e in excess[150:])
    assert weights.nnz() < 1000


def test_lambda_goes_as_far_when_it_acts_rarely() -> None:
    strengths = []
    for every in (1, 4):
        solver = Reweighted(parameters(), Sparsity(0.2), Ramp(0, 400), every=every)
        for _ in range(80):
            solver.step()
        strengths.append(math.log(solver.strength / 1e-5))
    assert strengths[0] > 2
    assert strengths[1] == pytest.approx(strengths[0], abs=0.2)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
def test_the_density_is_met_exactly_whatever_the_scale(density: float) -> None:
    for scale in (1e-6, 1.0, 1e6):
        weights = parameters().map(lambda w, scale=scale: torch.nn.Parameter(w.detach() * scale))
        rows = quadratic(weights, Reweighted(weights, Sparsity(density), Ramp(5, 60)), 80)
        assert rows[3]["nnz"] == weights.dense_size
        assert weights.nnz() == Sparsity(density).budget(weights)


def test_it_does_not_depend_on_the_unit_of_the_weights() -> None:
    runs = []
    for scale in (1.0, 2.0**-20):
        weights = parameters().map(lambda w, scale=scale: torch.nn.Parameter(w.detach() * scale))
        quadratic(weights, Reweighted(weights, Sparsity(0.2), Ramp(0, 40)), 35)
        runs.append(weights.detach().map(lambda w, scale=scale: w / scale))
    assert all(torch.allclose(runs[0][name], runs[1][name], rtol=1e-4) for name in runs[0])


def test_the_support_is_settled_at_the_end_of_the_ramp() -> None:
    weights = parameters()
    solver = Reweighted(weights, Sparsity(0.25), Ramp(0, 20))
    for _ in range(20):
        solver.step()
    support = weights.map(lambda w: w.detach() != 0)
    assert weights.nnz() == Sparsity(0.25).budget(weights)
    assert solver.factors is None
    for weight in weights.values():
        weight.data.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    assert not solver.holds()
    solver.step()
    assert all(torch.equal(w.detach() != 0, support[name]) for name, w in weights.items())
    assert solver.holds()


def test_without_a_ramp_it_prunes_in_one_shot() -> None:
    weights = parameters()
    expected = Sparsity(0.25).project(weights.detach())
    Reweighted(weights, Sparsity(0.25)).step()
    assert all(torch.equal(w.detach(), expected[name]) for name, w in weights.items())


def test_feasible_weights_stay_until_training_moves_them() -> None:
    weights = parameters()
    weights.assign_(Sparsity(0.25).project(weights.detach()))
    before = weights.clone()
    solver = Reweighted(weights, Sparsity(0.25), Ramp(0, 10))
    solver.step()
    assert all(torch.equal(w.detach(), before[name]) for name, w in weights.items())
    assert (solver.strength, solver.factors) == (0, None)
    for _ in range(9):
        for weight in weights.values():
            weight.data.add_(0.01)
        solver.step()
    assert solver.holds()


def test_long_runs_stay_finite() -> None:
    """The gradient revives weights against a path that ends in zero; lambda must not grow without bound."""
    weights = parameters()
    quadratic(weights, solver := Reweighted(weights, Sparsity(0.2), Ramp(0, 1000), reach=5000), 999)
    assert 0 < solver.strength < 10
    assert all(bool(w.isfinite().all()) for w in weights.values())


def test_weights_that_the_constraint_leaves_alone_are_trained_on() -> None:
    weights = parameters()
    with torch.no_grad():
        weights["b"].zero_()  # a matrix has no kernels, and zeros in it may grow
    solver = Reweighted(weights, KernelSparsity(0.5), Ramp(0, 4))
    for _ in range(4):
        solver.step()
    with torch.no_grad():
        weights["b"].fill_(1.0)
    solver.step()
    assert bool((weights["b"] == 1).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("constraint", [Sparsity(0.25), FilterSparsity(0.5, ignore=())], ids=repr)
def test_other_precisions_work(constraint: Constraint, dtype: torch.dtype) -> None:
    weights = parameters(dtype=dtype) if dtype == torch.float64 else parameters().map(lambda w: w.detach().to(dtype))
    solver = Reweighted(weights, constraint, Ramp(0, 20))
    for _ in range(19):
        solver.step()
    assert solver.strength > 0
    solver.step()
    assert solver.holds()
    assert {w.dtype for w in weights.values()} == {dtype}


@pytest.mark.parametrize("updates", [0, -1, 2.5, True, "4"])
def test_updates_that_make_no_sense_are_refused(updates: Any) -> None:
    with pytest.raises(ValueError, match="`updates` must be an integer of at least 1"):
        Reweighted(parameters(), Sparsity(0.5), updates=updates)
    Reweighted(parameters(), Sparsity(0.5), updates=1)


@pytest.mark.parametrize("reach", [0.0, -1.0, math.inf, math.nan])
def test_a_reach_that_makes_no_sense_is_refused(reach: float) -> None:
    with pytest.raises(ValueError, match="`reach` must be positive and finite"):
        Reweighted(parameters(), Sparsity(0.5), reach=reach)
    Reweighted(parameters(), Sparsity(0.5), reach=1)


def test_constraints_that_weights_cannot_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="keeps none"):
        Reweighted(parameters(), Sparsity(1e-9))
    with pytest.raises(ValueError, match="every"):
        Reweighted(parameters(), Sparsity(0.5), every=0)


@dataclasses.dataclass(frozen=True)
class Halved(Constraint):
    """Not a set of zeros."""

    def project(self, weights: Weights) -> Weights:
        return weights.map(lambda w: w.clamp(-0.5, 0.5))


@pytest.mark.parametrize("constraint", [Quantization(2), Halved()], ids=repr)
def test_sets_of_values_are_refused_with_the_remedy(constraint: Constraint) -> None:
    with pytest.raises(TypeError, match=r"says more than which entries are zero.*art_atmc_reweighted\.reweighted"):
        Reweighted(parameters(), constraint)


def test_a_codebook_is_refused_even_where_it_holds() -> None:
    with pytest.raises(TypeError, match="says more than which entries are zero"):
        Reweighted(Weights({"w": torch.nn.Parameter(torch.ones(4))}), Quantization(2))


def test_the_factory_leaves_codebooks_to_admm_and_hands_on_options() -> None:
    assert isinstance(reweighted(parameters(), Quantization(2), Ramp(), updates=2), ADMM)
    solver = reweighted(parameters(), Sparsity(0.5), Ramp(0, 5), updates=2)
    assert isinstance(solver, Reweighted)
    assert (solver.updates, solver.ramp) == (2, Ramp(0, 5))
