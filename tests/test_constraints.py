from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from art_atmc import Quantization, Sparsity, Weights
from art_atmc.compression.constraints import largest

floats = st.floats(-100, 100, width=32, allow_subnormal=False)
tied = st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0])
constraints = st.one_of(st.floats(0.2, 1.0).map(lambda d: Sparsity(round(d, 3))), st.integers(1, 4).map(Quantization))


@st.composite
def weights(draw, elements=st.one_of(floats, tied), smallest=5):
    shapes = draw(st.lists(hnp.array_shapes(max_dims=3, max_side=4), min_size=1, max_size=3))
    arrays = [draw(hnp.arrays(np.float32, shape, elements=elements)) for shape in shapes]
    tensors = {str(i): torch.from_numpy(a.copy()) for i, a in enumerate(arrays)}
    tensors["last"] = torch.from_numpy(draw(hnp.arrays(np.float32, smallest, elements=elements)).copy())
    return Weights(tensors)


def flat(w):
    return torch.cat([t.reshape(-1) for t in w.values()])


@given(weights(), constraints)
def test_projection_is_idempotent_bitwise_and_leaves_its_argument(w, constraint):
    before = flat(w).clone()
    once = constraint.project(w)
    assert torch.equal(flat(w), before)
    assert torch.equal(flat(constraint.project(once)), flat(once))
    assert constraint.violation(once) == 0
    assert all(once[name] is not w[name] for name in w)


@given(weights(), constraints)
def test_violation_is_the_squared_distance(w, constraint):
    gap = (flat(w) - flat(constraint.project(w))).double().square().sum().item()
    assert constraint.violation(w) == pytest.approx(gap, rel=1e-9, abs=1e-12)


@given(weights(elements=st.one_of(floats, tied), smallest=30), st.floats(0.1, 1.0))
def test_sparsity_keeps_exactly_k_or_all(w, density):
    constraint = Sparsity(round(density, 2))
    k, nnz = constraint.budget(w), w.nnz()
    kept = constraint.project(w)
    assert kept.nnz() == min(k, nnz)
    moved = flat(kept) != flat(w)
    assert (flat(kept)[moved] == 0).all()
    if nnz > k:
        assert flat(w)[moved].abs().max() <= flat(w)[flat(kept) != 0].abs().min()


@settings(max_examples=50)
@given(st.lists(st.one_of(floats, tied), min_size=2, max_size=7), st.integers(1, 6))
def test_no_support_is_nearer_than_the_projection(values, k):
    k = min(k, len(values))
    w = Weights({"w": torch.tensor(values, dtype=torch.float64)})
    constraint = Sparsity(density=k / len(values))
    assert constraint.budget(w) == k
    # every support of size k, tried one by one
    best = min(
        sum(v * v for i, v in enumerate(values) if i not in support)
        for support in itertools.combinations(range(len(values)), k)
    )
    assert constraint.violation(w) == pytest.approx(best, rel=1e-9, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(floats.filter(bool), min_size=3, max_size=7))
def test_no_codebook_is_nearer_than_the_projection(values):
    def cost(part):
        return sum((v - sum(part) / len(part)) ** 2 for v in part)

    ordered = sorted(values)
    best = min(cost(ordered[:i]) + cost(ordered[i:]) for i in range(1, len(values)))
    w = Weights({"w": torch.tensor(values, dtype=torch.float64)})
    assert Quantization(bits=1).violation(w) == pytest.approx(min(best, cost(ordered)), rel=1e-6, abs=1e-9)


@given(weights(smallest=40), st.integers(1, 4))
def test_quantization_keeps_zeros_and_bounds_the_codes(w, bits):
    coded = Quantization(bits).project(w)
    for name, tensor in w.items():
        assert (coded[name][tensor == 0] == 0).all()
        assert coded[name][coded[name] != 0].unique().numel() <= 2**bits


def test_values_that_fit_come_back_bit_for_bit():
    values = torch.tensor([0.1, -0.3, 0.1, 0.0, 7e-8]).repeat(20)
    assert torch.equal(Quantization(2).project(Weights({"w": values}))["w"], values)


def test_projection_near_a_point_is_feasible_and_keeps_zeros():
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(400, generator=generator) * (torch.rand(400, generator=generator) < 0.5)
    constraint = Quantization(2)
    near = constraint.project(Weights({"w": tensor}))
    moved = Weights({"w": tensor * 1.01})
    coded = constraint.project_near(moved, near)
    assert constraint.violation(coded) == 0
    assert torch.equal(coded["w"] == 0, tensor == 0)
    distance = (coded["w"] - moved["w"]).square().sum().item()
    assert distance <= 1.05 * constraint.violation(moved)


@pytest.mark.parametrize("n", [10, 200_000, 1_000_003])
@pytest.mark.parametrize("kind", ["normal", "ties", "sparse", "sorted", "constant"])
def test_largest_equal_a_stable_sort(n, kind):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator)
    if kind == "ties":
        x = (x * 2).round()
    elif kind == "sparse":
        x[torch.rand(n, generator=generator) < 0.99] = 0
    elif kind == "sorted":
        x = x.sort().values
    elif kind == "constant":
        x = torch.ones(n)
    for k in (1, n // 100 or 1, n // 2, n - 1):
        keep = largest(x.abs(), k)
        oracle = x.abs().sort(descending=True, stable=True).indices[:k].sort().values
        if keep is None:
            assert x.count_nonzero() <= k
        else:
            assert torch.equal(keep, oracle)


def test_ties_at_the_border_go_to_the_earlier_entries():
    w = Weights({"a": torch.tensor([1.0, -1.0]), "b": torch.tensor([1.0, 1.0])})
    kept = Sparsity(density=0.75).project(w)
    assert kept["a"].tolist() == [1, -1]
    assert kept["b"].tolist() == [1, 0]


def test_budget_counts_the_dense_weights_though_factors_hold_more():
    w = Weights({"U": torch.ones(100), "V": torch.ones(100)}, dense_size=50)
    assert Sparsity(0.1).budget(w) == 5
    assert Sparsity(0.1).project(w).nnz() == 5


def test_budget_takes_the_decimal_that_was_written():
    assert Sparsity(0.29).budget(Weights({"w": torch.ones(100)})) == 29  # 0.29 * 100 is below 29 in binary


@pytest.mark.parametrize("constraint", [Sparsity(0.5), Quantization(1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_shape_are_kept_also_of_non_contiguous_weights(constraint, dtype):
    tensor = torch.arange(1.0, 25.0).reshape(4, 6).T.to(dtype)
    projected = constraint.project(Weights({"w": tensor}))["w"]
    reference = constraint.project(Weights({"w": tensor.contiguous()}))["w"]
    assert projected.dtype == dtype
    assert torch.equal(projected, reference)


def test_relaxed_density_falls_along_a_cubic_to_the_target():
    target = Sparsity(0.1)
    assert target.relaxed(0).density == 1
    assert target.relaxed(0.5).density == pytest.approx(0.1 + 0.9 / 8)
    assert target.relaxed(1) is target


@pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan"), "a", None])
def test_bad_densities_are_refused(density):
    with pytest.raises(ValueError, match=r"`density` must be in \(0, 1\]"):
        Sparsity(density)


@pytest.mark.parametrize("bits", [0, -1, 17, 32, 2.5, True, None])
def test_bad_bits_are_refused(bits):
    with pytest.raises(ValueError, match="`bits` must be an integer in 1..16"):
        Quantization(bits)


def test_limits_of_the_ranges_are_accepted():
    assert Sparsity(1).density == 1
    assert Quantization(1).bits == 1
    assert Quantization(16).bits == 16


def test_a_density_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="keeps none of 10 weights"):
        Sparsity(0.01).check(Weights({"w": torch.ones(10)}))
    Sparsity(0.1).check(Weights({"w": torch.ones(10)}))


@given(constraints)
def test_repr_rebuilds_the_constraint(constraint):
    assert eval(repr(constraint), {"Sparsity": Sparsity, "Quantization": Quantization}) == constraint


def test_a_sample_that_misleads_falls_back_to_the_full_ranking():
    """Large values exactly where the strided sample looks: its bound admits fewer than k entries."""
    x = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    x[::3] += 10
    k = 100_000
    oracle = x.sort(descending=True, stable=True).indices[:k].sort().values
    assert torch.equal(largest(x, k), oracle)  # type: ignore[arg-type]


def test_projection_near_a_point_starts_from_its_codes(monkeypatch):
    import art_atmc.compression.constraints as module

    starts = []
    fit = module.fit_codebook
    monkeypatch.setattr(module, "fit_codebook", lambda v, n, start=None: starts.append(start) or fit(v, n, start=start))
    weights = Weights({"w": torch.randn(500, generator=torch.Generator().manual_seed(0))})
    near = Quantization(2).project(weights)
    Quantization(2).project_near(weights.map(lambda t: t * 1.01), near)
    assert starts[0] is None
    assert torch.equal(starts[1], near["w"].unique())
