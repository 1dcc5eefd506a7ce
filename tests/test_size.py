from __future__ import annotations

import pytest
import torch

from art_atmc import Quantization, Weights
from art_atmc.compression.paper_size import TensorSize, paper_bits, tensor_sizes


def test_sizes_count_non_zeros_and_distinct_values():
    weights = Weights({"a": torch.tensor([0.0, 1.0, 1.0, -1.0]), "b": torch.zeros(3)})
    assert tensor_sizes(weights) == [TensorSize("a", (4,), 3, 2), TensorSize("b", (3,), 0, 0)]


@pytest.mark.parametrize(
    ("nnz", "distinct", "bits"),
    [
        (0, 0, 0),
        (1000, 1, 1000 + 32),  # one value still needs a bit each in the reference's count
        (1000, 16, 4000 + 16 * 32),
        (1000, 17, 5000 + 17 * 32),
        (16, 16, 32 * 16),  # as many codes as values: counted as plain values
        (300, 250, 32 * 300),  # codebook and codes would cost 10,400 bits
        (2_126_508, 256, 8 * 2_126_508 + 256 * 32),
    ],
)
def test_bits_are_the_reference_count(nnz, distinct, bits):
    assert TensorSize("w", (1,), nnz, distinct).paper_bits == bits


def test_paper_figure_for_eight_bits_on_cifar10_is_met():
    """ResNet-34 at 10 %: the plot shows 0.02611 of the dense size; 92 of its 111 factors hold values."""
    nnz, tensors = 2_126_508, 92
    total = tensors * TensorSize("w", (1,), nnz // tensors, 256).paper_bits
    assert total / 680_482_816 == pytest.approx(0.02611, abs=2e-5)


def test_quantized_weights_are_smaller_by_the_count():
    weights = Weights({"w": torch.randn(5000, generator=torch.Generator().manual_seed(0))})
    assert paper_bits(Quantization(4).project(weights)) == 5000 * 4 + 16 * 32
    assert paper_bits(weights) == 32 * 5000
