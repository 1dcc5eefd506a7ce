from __future__ import annotations

import itertools
import math
from fractions import Fraction

import kmeans1d
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from art_atmc.compression import codebook as module
from art_atmc.compression.codebook import fit_codebook, nearest_code

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Few different values make ties and repeats; the wide range makes tails.
elements = st.one_of(
    st.sampled_from([-2.0, -1.0, 0.5, 1.0, 3.0]),
    st.floats(-1, 1, width=16),
    st.floats(-30000, 30000, width=16),
)
arrays = hnp.arrays(np.float32, st.integers(1, 60), elements=elements)
sizes = st.integers(1, 9)


def error(values, centres):
    """The squared error of a codebook, in float64 whatever the dtype."""
    v, c = values.double().reshape(-1), centres.double()
    return float((v - nearest_code(v, c)).square().sum())


def least_error(values, size):
    """Smallest error over all partitions of the sorted values into at most ``size`` intervals."""
    ordered = np.sort(values.double().numpy())

    def cost(cuts):
        return sum(((part - part.mean()) ** 2).sum() for part in np.split(ordered, cuts))

    places = range(1, len(ordered))
    return min(cost(cuts) for k in range(min(size, len(ordered))) for cuts in itertools.combinations(places, k))


def oracle_error(values, size):
    _, centres = kmeans1d.cluster(values.double().tolist(), size)
    return error(values, torch.tensor(sorted(set(centres)), dtype=torch.float64))


def samples(count):
    rng = np.random.default_rng(20261122)
    spikes = np.where(rng.random(count) < 0.5, rng.choice(rng.normal(0, 0.05, 300), count), rng.laplace(0, 0.02, count))
    drawn = {
        "laplace": rng.laplace(0, 0.02, count),
        "normal": rng.normal(size=count),
        "uniform": rng.random(count),
        "cauchy": rng.standard_cauchy(count),
        "lognormal": rng.lognormal(0, 2, count),
        "mixture": np.append(rng.normal(-3, 0.1, count // 2), rng.normal(2, 1, count - count // 2)),
        "spikes": spikes,
        "offset": 1 + 0.01 * rng.normal(size=count),
    }
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in drawn.items()}


# --- the optimum ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 9), elements=elements), st.integers(1, 5))
def test_error_is_the_least_over_all_partitions(array, size):
    values = torch.from_numpy(array)
    least = least_error(values, size)
    assert error(values, fit_codebook(values, size)) <= least * (1 + 1e-9) + 1e-12


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, st.integers(10, 150), elements=elements), st.integers(1, 40))
def test_few_values_reach_the_exact_optimum(array, size):
    values = torch.from_numpy(array)
    assert error(values, fit_codebook(values, size)) <= oracle_error(values, size) * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("size", [4, 16, 256])
@pytest.mark.parametrize("name", samples(1))
def test_many_values_come_within_three_thousandths(name, size):
    values = samples(2 * module._BINS)[name]
    optimum = oracle_error(values, size)
    assert optimum * (1 - 1e-6) <= error(values, fit_codebook(values, size)) <= optimum * 1.003


@pytest.mark.parametrize("name", samples(1))
def test_few_bins_a_code_suffice(monkeypatch, name):
    monkeypatch.setattr(module, "_BINS", 256)
    values = samples(10_000)[name]
    assert error(values, fit_codebook(values, 32)) <= 1.003 * oracle_error(values, 32)


def test_outliers_and_spikes_have_bins_of_their_own():
    outliers = 10_000.0 * np.arange(1, 21)
    ordered = np.sort(np.concatenate((np.arange(8000.0), np.full(200_000, 2400.0), outliers)))
    runs = np.flatnonzero(np.append(True, np.diff(ordered) > 0))
    begins = module._spaced(ordered, runs, 256)
    assert len(begins) <= 256
    assert set(outliers) <= set(ordered[begins])
    spike = ordered.searchsorted(2400.0)
    assert {spike, spike + 200_001} <= set(begins)


@pytest.mark.parametrize("name", ["cauchy", "mixture", "offset"])
def test_the_widest_gaps_part_bins(name):
    ordered = samples(10_000)[name].unique().numpy()
    begins = module._spaced(ordered, np.arange(len(ordered)), 256)
    widest = 1 + np.argsort(-np.diff(ordered))[:8]
    assert set(widest) <= set(begins)


@pytest.mark.parametrize("name", ["laplace", "cauchy"])
def test_distinct_values_within_the_bins_are_exact(name):
    values = samples(module._BINS)[name].repeat(3)
    assert error(values, fit_codebook(values, 64)) == pytest.approx(oracle_error(values, 64), rel=1e-6)


def test_two_groups_get_their_means():
    assert fit_codebook(torch.tensor([7.0, 1.0, 2.0, 9.0, 8.0]), 2).tolist() == [1.5, 8.0]


def test_one_code_is_the_mean():
    assert fit_codebook(torch.tensor([1.0, 2.0, 6.0]), 1).tolist() == [3.0]


def test_centres_are_the_means_of_their_cells():
    values = samples(3000)["laplace"]
    centres = fit_codebook(values, 16)
    codes = nearest_code(values, centres)
    for centre in centres:
        cell = values[codes == centre].double()
        assert centre == torch.tensor(math.fsum(cell) / len(cell), dtype=torch.float32)


def test_more_codes_than_the_exact_search_serves_stay_near_the_optimum():
    values = samples(module._BINS + 500)["laplace"]
    size = module._BINS // 4 + 1
    centres = fit_codebook(values, size)
    assert len(centres) == size
    assert error(values, centres) <= 1.45 * oracle_error(values, size)


def test_scale_and_offset_do_not_matter():
    values = samples(2000)["cauchy"].double()
    centres = fit_codebook(values, 16)
    assert torch.equal(fit_codebook(values * 2.0**400, 16), centres * 2.0**400)
    assert torch.equal(fit_codebook(values * 2.0**-900, 16), centres * 2.0**-900)
    integers = (values * 8).round()
    assert torch.equal(fit_codebook(integers + 2.0**30, 16).round(), (fit_codebook(integers, 16) + 2.0**30).round())


@pytest.mark.parametrize("power", [90, -90])
def test_float32_neither_overflows_nor_vanishes(power):
    values = samples(module._BINS + 1000)["cauchy"]
    values = values[values.abs() > 1e-3]  # no subnormal numbers at the smaller scale
    assert torch.equal(fit_codebook(values * 2.0**power, 16), fit_codebook(values, 16) * 2.0**power)


# --- values that already fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("warm", [False, True])
@given(array=arrays)
@settings(max_examples=25, deadline=None)
def test_values_within_the_size_come_back_bit_for_bit(array, dtype, warm):
    values = torch.from_numpy(array).to(dtype)
    start = torch.zeros(1, dtype=dtype) if warm else None
    centres = fit_codebook(values, values.unique().numel(), start=start)
    assert torch.equal(centres, values.unique())
    assert torch.equal(nearest_code(values, centres), values)


@pytest.mark.parametrize("dtype", DTYPES)
@given(array=arrays, size=sizes)
@settings(max_examples=25, deadline=None)
def test_coding_twice_changes_nothing(array, size, dtype):
    values = torch.from_numpy(array).to(dtype)
    coded = nearest_code(values, fit_codebook(values, size))
    assert coded.unique().numel() <= size
    again = fit_codebook(coded, size)
    assert torch.equal(nearest_code(coded, again), coded)


@pytest.mark.parametrize("dtype", DTYPES)
@given(array=arrays, size=sizes)
@settings(max_examples=25, deadline=None)
def test_centres_ascend_and_keep_the_dtype(array, size, dtype):
    values = torch.from_numpy(array).to(dtype)
    before = values.clone()
    centres = fit_codebook(values, size)
    assert centres.dtype == dtype
    assert 1 <= len(centres) <= size
    assert (centres[1:] > centres[:-1]).all()
    assert values.min() <= centres[0]
    assert centres[-1] <= values.max()
    assert torch.equal(values, before)
    assert torch.equal(centres, fit_codebook(values, size))


# --- the nearest code -------------------------------------------------------------------------------------------------


@given(
    hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    hnp.arrays(np.float32, st.integers(1, 8), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
)
@settings(deadline=None)
def test_nearest_code_is_nearest_and_ties_go_down(array, codes):
    centres = torch.from_numpy(np.unique(codes))
    coded = nearest_code(torch.from_numpy(array), centres)
    # Exact arithmetic: the midpoints of float32 numbers need more than 24 bits.

    def nearest(value: float) -> float:
        return min(centres.tolist(), key=lambda code: (abs(Fraction(code) - Fraction(value)), code))

    assert coded.tolist() == list(map(nearest, array.tolist()))


def chain(first, steps, dtype):
    """Neighbouring floating-point numbers."""
    numbers = [dtype(first)]
    for _ in range(steps):
        numbers.append(np.nextafter(numbers[-1], dtype(np.inf)))
    return torch.from_numpy(np.array(numbers))


@given(st.floats(-(2.0**120), 2.0**120, width=32), st.integers(1, 4))
@settings(deadline=None)
def test_midpoints_that_float32_cannot_hold_part_the_codes_exactly(first, steps):
    values = chain(first, steps, np.float32)
    low, high = Fraction(values[0].item()), Fraction(values[-1].item())
    nearest = [low if Fraction(v) - low <= high - Fraction(v) else high for v in values.tolist()]
    assert nearest_code(values, values[[0, -1]]).tolist() == nearest


@given(st.floats(-1e308, 1e308), st.integers(1, 4))
@settings(deadline=None)
def test_neighbouring_float64_codes_keep_themselves(first, steps):
    centres = chain(first, steps, np.float64)
    assert torch.equal(nearest_code(centres, centres), centres)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_views_and_parameters_are_accepted(dtype):
    table = torch.arange(24.0).reshape(4, 6).to(dtype)
    view = table.t()[::2]
    centres = fit_codebook(view, 3)
    assert torch.equal(centres, fit_codebook(view.contiguous(), 3))
    coded = nearest_code(view, centres)
    assert (coded.shape, coded.dtype) == (view.shape, dtype)
    assert torch.equal(coded, nearest_code(view.contiguous(), centres))
    column = table[:, 1]
    assert torch.equal(nearest_code(column, centres), nearest_code(column.contiguous(), centres))
    parameter = torch.nn.Parameter(table)
    assert not nearest_code(parameter, fit_codebook(parameter, 3)).requires_grad


def test_nearest_code_of_no_values_is_empty():
    assert nearest_code(torch.empty(0, 3), torch.tensor([1.0])).shape == (0, 3)


# --- warm starts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@given(array=arrays, start=hnp.arrays(np.float32, st.integers(1, 6), elements=elements), spare=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_warm_start_never_ends_above_its_error(array, start, spare, dtype):
    values, former = torch.from_numpy(array).to(dtype), torch.from_numpy(start).to(dtype)
    size = len(former) + spare
    centres = fit_codebook(values, size, start=former)
    assert (centres[1:] > centres[:-1]).all()
    assert len(centres) <= size
    assert error(values, centres) <= error(values, former.unique()) * (1 + 1e-6) + 1e-12


def test_a_warm_start_follows_moving_values():
    values = samples(20_000)["laplace"]
    former = fit_codebook(values, 16)
    moved = values + 1e-4 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    assert error(moved, fit_codebook(moved, 16, start=former)) <= 1.001 * error(moved, fit_codebook(moved, 16))


def test_codes_without_values_return():
    values = samples(5000)["laplace"]
    far = torch.cat([fit_codebook(values, 12), torch.tensor([50.0, 60.0, 70.0, 80.0])])
    centres = fit_codebook(values, 16, start=far)
    assert len(centres) == 16
    assert error(values, centres) <= 0.75 * error(values, far)


def test_spikes_are_not_parted():
    values = torch.cat([torch.full((1000,), 5.0), torch.linspace(0, 1, 50)])
    assert len(fit_codebook(values, 20, start=torch.tensor([0.5, 5.0]))) > 4
    assert (fit_codebook(values, 20, start=torch.tensor([0.5, 5.0])) == 5.0).sum() == 1


def test_rows_sorted_apart_give_the_same_codebook(monkeypatch):
    values = samples(20_000)["cauchy"]
    former = fit_codebook(values[:5000], 32)
    whole = fit_codebook(values, 32, start=former)
    monkeypatch.setattr(module, "_ROW", 3001)
    # The sums are taken in another order, which may show in the last bit of float32.
    torch.testing.assert_close(fit_codebook(values, 32, start=former), whole, rtol=2e-7, atol=0)


@pytest.mark.parametrize("radix_from", [1, None])
def test_sort_orders_all_numbers(monkeypatch, radix_from):
    monkeypatch.setattr(module, "_RADIX_FROM", radix_from)
    numbers = torch.tensor([3.0, -0.0, 1e-45, -2.5, 0.0, -1e-45, -3e38, 3e38, -2.5])
    assert module._sorted(numbers).tolist() == sorted(numbers.tolist())


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 2.0, True, None])
def test_size_is_checked(size):
    with pytest.raises(ValueError, match="`size` must be an integer of at least 1"):
        fit_codebook(torch.ones(3), size)


def test_all_faults_are_named_at_once():
    with pytest.raises(ValueError, match=r"(?s)`values` must hold.*`size` must be"):
        fit_codebook(torch.empty(0), 0)


@pytest.mark.parametrize("count", [3, 50_000])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("start", [None, torch.tensor([1.0])])
def test_values_that_are_not_finite_are_refused(bad, count, start):
    values = torch.linspace(0, 1, count)
    values[count // 2] = bad
    with pytest.raises(ValueError, match="`values` must be finite"):
        fit_codebook(values, 4, start=start)


def test_values_whose_squares_overflow_are_refused():
    with pytest.raises(ValueError, match="below 1e150"):
        fit_codebook(torch.tensor([1e160, 1.0], dtype=torch.float64), 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="`values` must be floating-point"):
        fit_codebook(torch.ones(3).to(dtype), 2)


@pytest.mark.parametrize(
    "start", [torch.arange(4.0), torch.empty(0), torch.tensor([math.nan]), torch.tensor([math.inf])]
)
def test_start_is_checked(start):
    with pytest.raises(ValueError, match="`start` must hold 1 to 3 finite entries"):
        fit_codebook(torch.arange(9.0), 3, start=start)


def test_start_of_the_full_size_in_any_order_is_accepted():
    assert fit_codebook(torch.arange(9.0), 3, start=torch.tensor([7.0, 1.0, 4.0])).tolist() == [1, 4, 7]


@pytest.mark.parametrize(
    "codes",
    [
        torch.empty(0),
        torch.tensor([2.0, 1.0]),
        torch.tensor([1.0, 1.0]),
        torch.tensor([[1.0, 2.0]]),
        torch.tensor(1.0),
        torch.tensor([1.0], dtype=torch.float64),
        torch.tensor([1.0, math.nan]),
    ],
)
def test_codebook_is_checked(codes):
    with pytest.raises(ValueError, match="`codebook` must be a vector of ascending values"):
        nearest_code(torch.ones(2), codes)


# --- an accelerator ---------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_accelerator_gives_the_codebook_of_the_host(dtype):
    values = samples(20_000)["laplace"].to(dtype)
    start = values[:8]
    for options in ({}, {"start": start}):
        centres = fit_codebook(values.cuda(), 16, **options)
        assert centres.device.type == "cuda"
        assert torch.equal(centres.cpu(), fit_codebook(values, 16, **options))
        assert torch.equal(nearest_code(values.cuda(), centres).cpu(), nearest_code(values, centres.cpu()))
