from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from art_atmc_bitbudget import BitBudget
from art_atmc_bitbudget.allocation import _best_widths, _by_loss, _worth, allocate
from art_atmc_bitbudget.coding import Coding, Values
from art_atmc_bitbudget.exhaustive import exhaustive
from hypothesis import given, settings
from hypothesis import strategies as st

from art_atmc import Quantization, Sparsity, Weights
from art_atmc.compression.paper_size import paper_bits
from art_atmc.plugins import from_repr, load, parse
from art_atmc.testing import check_constraint

torch.set_num_threads(1)  # small networks run many times slower on two

numbers = st.one_of(
    st.floats(-100, 100, width=32, allow_subnormal=False), st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, 2.5])
)
layers = {"conv1": (20, 25), "conv2": (50, 500), "fc": (10, 500)}


def weights(seed=0, shapes=layers):
    generator = torch.Generator().manual_seed(seed)
    return Weights({n: torch.randn(s, generator=generator) / math.sqrt(s[-1]) for n, s in shapes.items()})


def size(projected):
    """The definition, written down once more."""
    total = 0
    for tensor in projected.values():
        values = tensor[tensor != 0]
        if values.numel():
            width = max(1, math.ceil(math.log2(values.unique().numel())))
            total += width * values.numel() + 32 * 2**width if width <= 8 else math.inf  # type: ignore[assignment]
    return total


def parted(values, cells):
    """The least squared error of the sorted values in at most so many cells, by trying all cuts."""
    ordered = sorted(values)
    cuts = itertools.combinations(range(1, len(ordered)), min(cells, len(ordered)) - 1)
    return min(
        sum(float(np.square(np.subtract(cell, np.mean(cell))).sum()) for cell in np.split(ordered, list(cut)))
        for cut in cuts
    )


def options(values):
    """Bits and squared error of every support at every width."""
    yield 0, sum(v * v for v in values)
    for kept in itertools.chain.from_iterable(itertools.combinations(values, n) for n in range(1, len(values) + 1)):
        rest = sum(v * v for v in values) - sum(v * v for v in kept)
        for width in (1, 2, 3):
            yield width * len(kept) + 32 * 2**width, rest + parted(kept, 2**width)


def least(tensors, budget):
    """The least squared distance, by trying everything."""
    choices = [[o for o in options([v for v in t if v]) if o[0] <= budget] for t in tensors]
    return min(sum(e for _, e in c) for c in itertools.product(*choices) if sum(b for b, _ in c) <= budget)


@pytest.mark.parametrize("constraint", [BitBudget(bits_per_weight=0.5), BitBudget(total_bits=150)], ids=repr)
def test_it_keeps_the_laws(constraint):
    check_constraint(constraint, feasible=lambda w: size(w) <= constraint.budget(w))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=2), st.integers(65, 300))
def test_no_support_and_no_widths_are_nearer(values, budget):
    w = Weights({str(i): torch.tensor(v, dtype=torch.float64) for i, v in enumerate(values)})
    distance = BitBudget(total_bits=budget).violation(w)
    assert distance == pytest.approx(
        least(values, budget), rel=1e-9, abs=1e-9 * (1 + sum(v * v for t in values for v in t))
    )


@pytest.mark.parametrize("budget", [90, 190, 400])
def test_up_to_128_values_the_nearest_point_is_found(budget):
    for seed in range(8):
        w = weights(seed, {"a": (8, 8), "b": (64,)}).map(lambda t: t.double() ** 3)
        exact = exhaustive([Values(t) for t in w.values()], budget).captured
        squares = sum(float(t.square().sum()) for t in w.values())
        assert BitBudget(total_bits=budget).violation(w) == pytest.approx(squares - exact, rel=1e-9)


@pytest.mark.parametrize(("count", "share", "off"), [(200, 1.0, 1.02), (400, 0.5, 1.005), (400, 2.0, 1.005)])
def test_relaxation_is_near_the_exact_answer(count, share, off):
    generator = torch.Generator().manual_seed(0)
    for heavy in (False, True):
        t = torch.randn(count, generator=generator, dtype=torch.float64)
        t = t / (torch.randn(count, generator=generator).abs() + 0.2) if heavy else t
        tensors, budget = [Values(t)], 130 + int(share * count)
        error, exact = (float(t.square().sum()) - f(tensors, budget).captured for f in (allocate, exhaustive))
        assert exact * (1 - 1e-9) <= error <= off * exact


def drawn(seed):
    """A few tensors of unlike distributions and scales, 129 to 300 values, and a budget for them."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    parts = int(rng.integers(1, 5))

    def tensor(count):
        normal = torch.randn(count, generator=generator, dtype=torch.float64)
        shape = rng.choice(["normal", "heavy", "flat", "few"])
        shaped = {
            "normal": normal,
            "heavy": normal * normal.abs() ** 3,
            "flat": normal.erf(),
            "few": (2 * normal).round(),
        }
        return shaped[shape] * 10 ** rng.uniform(-1, 1)

    tensors = [tensor(int(rng.integers(140 // parts, 300 // parts))) for _ in range(parts)]
    return [Values(t) for t in tensors], int(rng.integers(65, 2000)), sum(float(t.square().sum()) for t in tensors)


def test_relaxation_is_as_near_the_exact_answer_as_the_documentation_says():
    ratios = []
    for seed in range(40):
        tensors, budget, squares = drawn(seed)
        found, exact = allocate(tensors, budget), exhaustive(tensors, budget)
        bits = sum(int(c.size(n[:, None])[0]) for c, n in zip(found.codings, found.counts, strict=True) if c)
        assert bits <= budget
        assert found.captured <= min(found.limit, exact.captured) * (1 + 1e-9)
        least = squares - exact.captured
        if least > 1e-6 * squares:
            ratios.append((squares - found.captured) / least)
    assert len(ratios) > 30
    assert np.median(ratios) < 1.002
    assert np.quantile(ratios, 0.9) < 1.1
    assert max(ratios) < 1.5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(66, 260))
def test_no_support_and_no_widths_with_the_same_codebooks_beat_the_bound(seed, budget):
    """Every number of kept values of either sign, in each of two tensors, at each of three widths or none."""
    rng = np.random.default_rng(seed)
    tensors = [Values(torch.from_numpy(rng.normal(size=8) * scale)) for scale in (1, 3)]
    every = np.stack(np.meshgrid(np.arange(9), np.arange(9)), -1).reshape(-1, 2)
    codings = [{w: tensor.fitted(w, 0.1) for w in (1, 2, 3)} for tensor in tensors]
    price = rng.uniform(0.001, 0.1)
    limit = price * budget + sum(max(0, *(_worth(c, price) for c in known.values())) for known in codings)
    choices = []
    for tensor, known in zip(tensors, codings, strict=True):
        counts = [n for n in every if all(n <= [len(side.ordered) for side in tensor.sides])]
        choices.append(
            [(0, 0.0), *((int(c.size(n[:, None])[0]), c.captured(n)) for c in known.values() for n in counts)]
        )
    (a, gains), (b, others) = (map(np.array, zip(*choice, strict=True)) for choice in choices)
    best = (gains[:, None] + others)[a[:, None] + b <= budget].max()
    assert best <= limit + 1e-9
    assert _best_widths(codings, budget, price).captured <= best + 1e-9


@pytest.mark.parametrize("bits_per_weight", [0.01, 0.1, 0.5, 2.0])
def test_budget_is_kept_and_nearly_spent(bits_per_weight):
    w = weights()
    constraint = BitBudget(bits_per_weight)
    projected = constraint.project(w)
    budget = constraint.budget(w)
    assert budget - 8 < size(projected) <= budget
    assert paper_bits(projected) <= budget
    assert torch.equal(constraint.project(projected)["conv2"], projected["conv2"])


@pytest.mark.parametrize("bits_per_weight", [0.1, 0.5, 2.0])
def test_no_uniform_width_is_nearer(bits_per_weight):
    """Sparsity and quantization at one width for all tensors are points of the set."""
    w = weights()
    w = w.like({"conv1": 3 * w["conv1"], "conv2": w["conv2"], "fc": w["fc"] / (w["fc"].abs() + 0.01)})
    constraint = BitBudget(bits_per_weight)
    distance, budget = constraint.violation(w), constraint.budget(w)
    for width in range(1, 9):
        kept = (budget - 3 * 32 * 2**width) / width
        if kept >= 1:
            rival = Quantization(width).project(Sparsity(min(1, kept / w.dense_size)).project(w))
            assert size(rival) <= budget
            assert distance <= 1.0001 * sum(float((rival[n] - t).square().sum()) for n, t in w.items())


def test_allocation_reports_what_is_projected():
    w = weights()
    constraint = BitBudget(0.5)
    allocation = constraint.allocation(w)
    projected = constraint.project(w)
    assert allocation.bits == size(projected) <= allocation.budget == constraint.budget(w)
    assert [share.nonzeros for share in allocation.shares] == [int(t.count_nonzero()) for t in projected.values()]
    assert allocation.error == pytest.approx(constraint.violation(w))
    assert 0 <= allocation.gap < 0.01
    assert allocation.bound <= allocation.error * (1 + 1e-6)
    at_once = constraint.allocation(projected)
    assert (at_once.error, at_once.gap, at_once.bits) == (0, 0, allocation.bits)


def test_all_options_come_once_and_in_order():
    tensors = [[(0.0, 2), (1.0, 1), (4.0, 0)], [(0.0, 0)], [(0.0, 3), (0.5, 4)]]
    every = list(_by_loss(tensors))
    assert [loss for loss, _ in every] == [0.0, 0.5, 1.0, 1.5, 4.0, 4.5]
    assert len({widths for _, widths in every}) == 6


@given(st.lists(numbers, min_size=1, max_size=30), st.integers(1, 4), st.floats(0, 10))
def test_what_a_coding_captures_is_what_it_says(values, width, price):
    tensor = Values(torch.tensor(values, dtype=torch.float64))
    codes = np.unique([v for v in values if v][: 2**width])
    counts, captured = Coding(tensor, codes, width).at(np.array([price]))
    gains = [max([0.0, *(float(c * (2 * v - c)) for c in codes)]) for v in values]
    # Values whose gain is the price itself may go either way.
    worth = sum(max(0.0, gain - price) for gain in gains)
    assert captured[0] - price * counts.sum() == pytest.approx(worth, rel=1e-9, abs=1e-6)
    assert captured[0] <= tensor.bound(np.array([price]))[0] + price * counts.sum() + 1e-6


def test_projection_near_a_point_keeps_its_widths():
    w = weights()
    constraint = BitBudget(0.5)
    near = constraint.project(w)
    generator = torch.Generator().manual_seed(1)
    moved = w.map(lambda t: t + 0.02 * t.std() * torch.randn(t.shape, generator=generator))
    coded = constraint.project_near(moved, near)
    assert size(coded) <= constraint.budget(w)
    assert constraint.violation(coded) == 0
    distance = sum(float((coded[n] - t).square().sum()) for n, t in moved.items())
    assert distance <= 1.01 * constraint.violation(moved)
    widths = [[share.width for share in constraint.allocation(z).shares] for z in (near, coded)]
    assert widths[0] == widths[1]


def test_a_tensor_that_became_zero_may_come_back():
    w = weights()
    constraint = BitBudget(0.05)
    near = constraint.project(w)
    near = near.like({**near, "fc": torch.zeros_like(near["fc"])})
    assert constraint.project_near(w.like({**w, "fc": 10 * w["fc"]}), near)["fc"].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_feasible_weights_come_back_bit_for_bit(dtype):
    w = weights(shapes={"a": (30, 40), "b": (10, 20)}).map(lambda t: t.to(dtype))
    constraint = BitBudget(0.7)
    once = constraint.project(w)
    assert once["a"].dtype == dtype
    assert all(torch.equal(t, constraint.project(once)[n]) for n, t in once.items())
    assert all((once[n][w[n] == 0] == 0).all() for n in w)


def test_equal_magnitudes_fill_the_budget():
    w = Weights({"w": torch.ones(50, 20)})
    projected = BitBudget(total_bits=64 + 300).project(w)["w"]
    assert projected.count_nonzero() == 300
    assert projected.flatten()[:300].all()


def test_it_is_found_by_its_name_and_its_repr():
    assert load("bit-budget") is BitBudget
    assert parse("bit-budget:bits_per_weight=0.5") == BitBudget(0.5)
    assert parse("bit-budget:total_bits=1000") == BitBudget(total_bits=1000)
    for constraint in (BitBudget(0.5), BitBudget(total_bits=1000)):
        assert from_repr(repr(constraint)) == constraint


@pytest.mark.parametrize("fields", [{}, {"bits_per_weight": 0.5, "total_bits": 100}])
def test_exactly_one_budget_is_needed(fields):
    with pytest.raises(ValueError, match="exactly one of `bits_per_weight`"):
        BitBudget(**fields)


@pytest.mark.parametrize("share", [0, -1, math.inf, math.nan, "a"])
def test_bad_shares_are_refused(share):
    with pytest.raises(ValueError, match="`bits_per_weight` must be positive"):
        BitBudget(share)


@pytest.mark.parametrize("total", [64, 0, 100.0, True])
def test_bad_totals_are_refused(total):
    with pytest.raises(ValueError, match="`total_bits` must be an integer of at least 65"):
        BitBudget(total_bits=total)
    assert BitBudget(total_bits=65).total_bits == 65


def test_a_budget_that_no_network_meets_is_refused():
    w = Weights({"w": torch.ones(100)})
    BitBudget(0.65).check(w)
    with pytest.raises(ValueError, match=r"leaves 64 bits for 100 weights.*give at least 0\.65 bits a weight"):
        BitBudget(0.64).check(w)
