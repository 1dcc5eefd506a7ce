from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from art_atmc_uniform import UniformQuantization, integers
from art_atmc_uniform.search import _Search
from hypothesis import given, settings
from hypothesis import strategies as st

from art_atmc import PGD, ATMCTrainer, Sparsity, Weights, compressible
from art_atmc.plugins import from_repr, load, parse
from art_atmc.testing import check_constraint

torch.set_num_threads(1)  # small networks run many times slower on two

KINDS = [
    UniformQuantization(),
    UniformQuantization(bits=2),
    UniformQuantization(bits=3, symmetric=False),
    UniformQuantization(bits=1, symmetric=False),
    UniformQuantization(bits=4, per_channel=True),
    UniformQuantization(bits=3, symmetric=False, per_channel=True),
    UniformQuantization(bits=4, power_of_two=True),
    UniformQuantization(bits=3, symmetric=False, per_channel=True, power_of_two=True),
    UniformQuantization(bits=16),
    UniformQuantization(bits=12, symmetric=False),
]
numbers = st.one_of(st.floats(-100, 100, width=32, allow_subnormal=False), st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]))


def ranges(constraint):
    """The least and greatest n = q - z for every zero point."""
    b = constraint.bits
    if constraint.symmetric:
        return [(1 - 2 ** (b - 1), 2 ** (b - 1) - 1)]
    return [(-(2 ** (b - 1)) - z, 2 ** (b - 1) - 1 - z) for z in range(-(2 ** (b - 1)), 2 ** (b - 1))]


def least(row, constraint):
    """The squared distance to the nearest grid: integers at one scale between every two at which they change."""
    w = np.asarray(row, dtype=np.float64)
    best = float(np.square(w).sum())
    if not w.any():
        return 0.0
    if constraint.power_of_two:
        exponents = [math.frexp(v)[1] for v in w if v]
        scales = [math.ldexp(1.0, e) for e in range(min(exponents) - 6, max(exponents) + 6)]
    else:
        reach = max(high for _, high in ranges(constraint))
        breaks = sorted({abs(v) / (k - 0.5) for v in w if v for k in range(1, reach + 2)})
        scales = [2 * breaks[-1], breaks[0] / 2, *(math.sqrt(a * b) for a, b in itertools.pairwise(breaks))]
    for low, high in ranges(constraint):
        for s in scales:
            n = np.clip(np.rint(w / s), low, high)
            if n.any():
                step = s if constraint.power_of_two else (w @ n) / (n @ n)
                best = min(best, float(np.square(w - step * n).sum()))
    return best


def rows(tensor, constraint):
    return tensor.reshape(len(tensor), -1) if constraint.per_channel and tensor.dim() > 1 else tensor.reshape(1, -1)


def distance(weights, constraint):
    return sum(least(row.tolist(), constraint) for t in weights.values() for row in rows(t, constraint))


@pytest.mark.parametrize("constraint", KINDS[:7:2], ids=repr)
def test_it_keeps_the_laws(constraint):
    check_constraint(constraint)


@pytest.mark.parametrize("constraint", [c for c in KINDS if c.bits <= 4], ids=repr)
def test_no_grid_is_nearer(constraint):
    small = Weights({"a": torch.tensor([[3.0, -2.0, 0.5], [0.0, 1.0, -4.0]]), "b": torch.tensor([0.1, -0.2, 5.0])})
    check_constraint(constraint, small, distance=lambda w: distance(w, constraint))


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=6), st.sampled_from([c for c in KINDS if c.bits <= 3]))
def test_no_grid_is_nearer_to_any_values(values, constraint):
    weights = Weights({"w": torch.tensor(values, dtype=torch.float64)})
    size = sum(v * v for v in values)
    assert constraint.violation(weights) == pytest.approx(distance(weights, constraint), rel=1e-9, abs=1e-9 * size)


@pytest.mark.parametrize("shape", ["normal", "heavy", "skew", "sparse", "outlier"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_search_is_within_half_a_percent_of_a_dense_one(shape, bits, symmetric):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4608, generator=generator, dtype=torch.float64)
    if shape == "heavy":
        w = w / torch.randn(4608, generator=generator).abs().sqrt()
    elif shape == "skew":
        w = w.exp()
    elif shape == "sparse":
        w *= torch.rand(4608, generator=generator) < 0.1
    elif shape == "outlier":
        w[0] = 100.0
    constraint = UniformQuantization(bits=bits, symmetric=symmetric)
    search = _Search(w[None], constraint.grid)
    low, high = search.bracket()
    scales = (high * (low / high) ** torch.linspace(0, 1, 4000, dtype=torch.float64))[None]
    products, squares = search.moments(scales, search.lows(scales))
    dense = float(w.square().sum() - (products.square() / squares.clamp(min=1)).max())
    assert constraint.violation(Weights({"w": w})) <= 1.005 * dense


def test_weights_near_a_grid_find_it_again():
    """As ADMM asks for: a narrow optimum, which a coarse search would miss."""
    generator = torch.Generator().manual_seed(0)
    for constraint in (UniformQuantization(per_channel=True), UniformQuantization(symmetric=False, per_channel=True)):
        on_grid = constraint.project(Weights({"w": torch.randn(20, 1500, generator=generator)}))["w"]
        step = integers(on_grid, constraint).scale[:, None]
        moved = on_grid + 0.1 * step * torch.randn(on_grid.shape, generator=generator)
        again = constraint.project(Weights({"w": moved}))["w"]
        assert ((again - moved).square().sum(1) <= 1.001 * (on_grid - moved).square().sum(1)).all()


@settings(deadline=None)
@given(
    st.sampled_from(KINDS),
    st.floats(1e-6, 1e6),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    st.integers(0, 2**31),
)
def test_every_tensor_on_a_grid_comes_back_bit_for_bit(constraint, scale, dtype, seed):
    """Also those that were made elsewhere, with any scale, rounded once."""
    if constraint.bits > {torch.float16: 11, torch.bfloat16: 8}.get(dtype, 16):
        return
    scale = torch.tensor(scale, dtype=torch.float64)
    scale = (2.0 ** scale.log2().round() if constraint.power_of_two else scale).to(dtype).double()
    draw = torch.Generator().manual_seed(seed)
    every = ranges(constraint)
    low, high = every[int(torch.randint(len(every), (1,), generator=draw))]
    n = torch.randint(low, high + 1, (3, 4), generator=draw)
    w = (scale * n).to(dtype)
    if not w.isfinite().all():
        return
    assert torch.equal(constraint.project(Weights({"w": w}))["w"], w)


@pytest.mark.parametrize("constraint", KINDS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_integers_rebuild_the_tensor_bit_for_bit(constraint, dtype):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 5, 3, 3, generator=generator).to(dtype)
    w[w.abs() < 0.5] = 0
    w[2] = 0  # a channel that was pruned
    projected = constraint.project(Weights({"w": w}))["w"]
    assert (projected[w == 0] == 0).all()
    held = integers(projected, constraint)
    assert held.values.dtype == (torch.int8 if constraint.bits <= 8 else torch.int16)
    assert int(held.values.min()) >= -(2 ** (constraint.bits - 1))
    assert int(held.values.max()) < 2 ** (constraint.bits - 1)
    assert held.scale.shape == held.zero_point.shape == ((6,) if constraint.per_channel else ())
    assert not (constraint.symmetric and held.zero_point.any())
    assert not constraint.power_of_two or (torch.frexp(held.scale).mantissa == 0.5).all()
    assert held.dequantize().dtype == dtype
    assert torch.equal(held.dequantize(), projected)


def test_integers_agree_with_torch():
    w = UniformQuantization(symmetric=False).project(Weights({"w": torch.randn(20, 30)}))["w"]
    held = integers(w, UniformQuantization(symmetric=False))
    theirs = torch.fake_quantize_per_tensor_affine(w, held.scale, held.zero_point, -128, 127)
    assert torch.equal(theirs, w)


def test_integers_of_other_weights_are_refused():
    with pytest.raises(ValueError, match="1 of 1 grids do not hold their weights"):
        integers(torch.randn(50), UniformQuantization(bits=4))
    with pytest.raises(ValueError, match="empty"):
        integers(torch.empty(0), UniformQuantization(bits=4))


def test_channels_have_grids_of_their_own():
    w = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [10.0], [0.1], [3.0]])
    together = UniformQuantization(bits=4, per_channel=True).project(Weights({"w": w}))["w"]
    apart = [UniformQuantization(bits=4).project(Weights({"w": row}))["w"] for row in w]
    assert torch.equal(together, torch.stack(apart))


def test_it_is_found_by_its_name_and_its_repr():
    assert load("uniform-quantization") is UniformQuantization
    assert parse("uniform-quantization:bits=4,per_channel=true") == UniformQuantization(4, per_channel=True)
    for constraint in KINDS:
        assert from_repr(repr(constraint)) == constraint


@pytest.mark.parametrize("bits", [0, 1, 17, 2.5, True, None])
def test_bad_bits_are_refused(bits):
    with pytest.raises(ValueError, match=r"`bits` must be an integer in 2\.\.16"):
        UniformQuantization(bits=bits)
    with pytest.raises(ValueError, match="must be True or False"):
        UniformQuantization(symmetric=1)  # type: ignore[arg-type]


def test_more_bits_than_the_precision_has_are_refused():
    weights = Weights({"w": torch.ones(2, 2, dtype=torch.bfloat16)})
    UniformQuantization(bits=8).check(weights)
    with pytest.raises(ValueError, match="9-bit integers do not fit the precision of"):
        UniformQuantization(bits=9).check(weights)


def test_uniform_digits_train_end_to_end():
    from art.estimators.classification import PyTorchClassifier
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = (data.images[:, None] / 16).astype(np.float32), data.target.astype(np.int64)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    classifier = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0.0, 1.0)
    )
    constraint = UniformQuantization(bits=4, per_channel=True)
    trainer = ATMCTrainer(classifier, PGD(0.05, 0.02, 3), [Sparsity(0.3), constraint], verbose=False)
    trainer.fit(x[:1200], y[:1200], nb_epochs=4, batch_size=32)
    robust = trainer.get_classifier()
    factors = compressible(robust.model).detach()
    assert 0 < factors.nnz() <= 0.3 * factors.dense_size
    for factor in factors.values():
        assert torch.equal(integers(factor, constraint).dequantize(), factor)
    assert (robust.predict(x[1200:]).argmax(axis=1) == y[1200:]).mean() > 0.6
