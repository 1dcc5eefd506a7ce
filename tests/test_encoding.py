"""Encoding: bit for bit, near the entropy bound, in the form that is cheapest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from art_atmc import Quantization, Sparsity, Weights
from art_atmc.files.encoding import DTYPES, EncodedTensor, codebook_bits, decode, encode, entropy_bits
from art_atmc.files.range_coding import RangeEncoder, SymbolReader
from art_atmc.files.words import packed_bits, put_words, rounded, take_words


def bits_of(tensor):
    return (
        tensor.contiguous().numpy().tobytes() if tensor.dtype != torch.bfloat16 else bits_of(tensor.view(torch.int16))
    )


def assert_comes_back(tensor):
    encoded = encode(tensor)
    decoded = decode(encoded)
    assert decoded.dtype == tensor.dtype
    assert decoded.shape == tensor.shape
    assert bits_of(decoded) == bits_of(tensor)
    return encoded


def network_weight(count, density, bits, seed=0):
    """Laplacian weights, the largest kept, then coded: what training leaves."""
    values = np.random.default_rng(seed).laplace(0, 0.02, count)
    weights = Weights({"w": torch.tensor(values, dtype=torch.float32)})
    for constraint in (Sparsity(density), *([Quantization(bits)] if bits else [])):
        weights = constraint.project(weights)
    return weights["w"]


@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12),
        elements=st.sampled_from([0.0, 0.0, 0.0, -0.0, 1.5, -2.0, 1e-45, np.inf, -np.inf, np.nan]),
    )
)
def test_any_tensor_comes_back_bit_for_bit(array):
    assert_comes_back(torch.from_numpy(array))


@given(
    st.integers(1, 5000),
    st.floats(0, 1),
    st.sampled_from([1, 2, 3, 16, 200, 10**6]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=200)
def test_any_density_and_codebook_comes_back(count, density, codes, seed):
    rng = np.random.default_rng(seed)
    book = rng.standard_normal(min(codes, count)).astype(np.float32)
    tensor = torch.from_numpy(np.where(rng.random(count) < density, rng.choice(book, count), np.float32(0)))
    assert_comes_back(tensor)


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_comes_back(name):
    tensor = (torch.arange(-6, 30) % 5 - 2).to(DTYPES[name]).reshape(4, 9)
    assert_comes_back(tensor)
    assert_comes_back(tensor[:, ::2])  # not contiguous
    for shape, strides in (((1,), (3,)), ((1,), (0,)), ((1, 1, 1), (7, 5, 3)), ((3, 0), (1, 3))):
        assert_comes_back(tensor.reshape(-1).as_strided(shape, strides, 2))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0),
        torch.tensor(3.0),
        torch.zeros(1000),
        torch.ones(1000),
        torch.eye(300),
        torch.cat([torch.zeros(2_000_000), torch.ones(1)]),  # a gap far beyond the low bits
        torch.cat([torch.ones(5), torch.zeros(900_000), torch.ones(5)]),  # clustered
        torch.arange(70_000, dtype=torch.float32),  # more values than a codebook holds
        torch.arange(70_000, dtype=torch.float32).repeat(2),
    ],
    ids=["empty", "number", "zeros", "ones", "eye", "last", "clustered", "distinct", "twice"],
)
def test_extreme_supports_come_back(tensor):
    assert_comes_back(tensor)


@pytest.mark.parametrize(
    ("density", "bits", "form"),
    [(1, 0, "raw"), (1, 4, "codes"), (0.1, 0, "positions"), (0.1, 4, "positions + codes")],
)
def test_form_is_the_cheapest(density, bits, form):
    weight = network_weight(20_000, density, bits)
    encoded = encode(weight)
    assert encoded.form == form
    distinct = weight[weight != 0].unique().numel()
    support = (
        20_000 * (-density * math.log2(density) - (1 - density) * math.log2(1 - density)) / 8 if density < 1 else 0
    )
    nnz = 20_000 * density
    # Each form's size by hand, the codes at most of full entropy.
    sizes = {
        "raw": 80_000.0,
        "positions": support + 4 * nnz,
        "codes": 20_000 * math.log2(distinct + 1) / 8 + 5 * distinct,
        "positions + codes": support + nnz * math.log2(distinct) / 8 + 5 * distinct,
    }
    assert len(encoded.record) <= 1.01 * min(sizes.values()) + 20


@pytest.mark.parametrize("density", [1, 0.5, 0.05, 0.01, 0.001])
@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_record_is_near_the_entropy(density, bits):
    weight = network_weight(300_000, density, bits)
    encoded = encode(weight)
    bound = (entropy_bits(weight, encoded) + codebook_bits(weight, encoded)) / 8
    # Frequencies take up to five bits a code, the coder's last word and the frequencies of the gaps some thirty.
    assert bound - 8 <= len(encoded.record) <= 1.005 * bound + 0.7 * (encoded.codes or 0) + 40


@given(
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]),
    st.integers(1, 300),
    st.integers(0, 52),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=200)
def test_packed_words_come_back_in_the_bits_that_were_announced(dtype, count, zeros, seed):
    rng = np.random.default_rng(seed)
    size = 8 * dtype.itemsize
    words = rng.integers(0, 1 << min(size, 63), count, np.uint64) >> np.uint64(min(zeros, size - 1) // 2)
    words = (words >> np.uint64(zeros % size) << np.uint64(zeros % size)).astype(f"<u{dtype.itemsize}")
    coder = RangeEncoder()
    put_words(coder, words, dtype)
    record = coder.get_compressed().astype("<u4").tobytes()
    assert (take_words(SymbolReader(record), count, dtype) == words).all()
    assert packed_bits(words, dtype) - 1 <= 8 * len(record) <= packed_bits(words, dtype) + 64


def test_biases_take_the_bits_that_they_need():
    biases = torch.tensor(np.random.default_rng(0).uniform(0.25, 1, 1000), dtype=torch.float32)
    assert 1000 * 24 <= 8 * len(encode(biases).record) <= 1000 * 24 + 100  # two exponents, 23 bits of mantissa
    assert 1000 * 5 <= 8 * len(encode(rounded(biases, 4)).record) <= 1000 * 5.2 + 100
    count = torch.tensor([230], dtype=torch.int64)
    assert len(encode(count).record) == 4  # of eight


def test_entropy_is_that_of_the_textbook():
    weight = torch.zeros(1024)
    weight[:256] = torch.tensor([1.0, 2.0, 2.0, 3.0]).repeat(64)
    support = 256 * 2 + 768 * math.log2(4 / 3)
    assert entropy_bits(weight, encode(weight)) == pytest.approx(support + 256 * 1.5)


def test_the_same_tensor_gives_the_same_bytes():
    weight = network_weight(50_000, 0.02, 4)
    assert encode(weight) == encode(weight.clone())


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="complex64 can't be stored"):
        encode(torch.zeros(3, dtype=torch.complex64))


@pytest.mark.parametrize(
    "change",
    [
        {"nnz": 10**9},
        {"nnz": -1},
        {"codes": 0},
        {"codes": 65_537},
        {"gaps": 0},
        {"gaps": 10**9},
        {"shift": 40},
        {"shift": -1},
        {"record": b""},
        {"shape": (10,)},
    ],
    ids=str,
)
def test_broken_headers_are_refused(change):
    encoded = encode(network_weight(20_000, 0.05, 4))
    fields = {name: getattr(encoded, name) for name in EncodedTensor.__dataclass_fields__}
    assert torch.equal(decode(EncodedTensor(**fields)), decode(encoded))
    with pytest.raises(ValueError, match=r"announces|early|broken|leave|whole words|frequencies|more codes"):
        decode(EncodedTensor(**(fields | change)))
