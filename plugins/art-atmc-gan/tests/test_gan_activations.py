"""Grids of activations: levels, zero, sign, gradient, ranges."""

from __future__ import annotations

import pytest
import torch
from art_atmc_gan import ActivationQuantizer, activation_ranges, calibrate_, clipped, quantize_activations_
from torch import nn


def quantizer(bits: int, low: float, high: float) -> ActivationQuantizer:
    made = ActivationQuantizer(bits).eval()
    made.observe(torch.tensor([low, high]), 1.0)
    return made


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize(("low", "high"), [(0.0, 4.0), (-1.0, 1.0), (-3.0, 0.5), (0.5, 2.0)])
def test_levels_are_two_to_the_bits_with_zero_among_them(bits: int, low: float, high: float) -> None:
    grid = quantizer(bits, low, high)
    levels = grid(torch.linspace(-5, 5, 20_001)).unique()
    assert len(levels) <= 2**bits  # the released code has one more
    assert 0.0 in levels.tolist()
    assert (float(levels.min()) < 0) == (low < 0)  # what is negative stays so; the released code clamps it to zero
    x = torch.linspace(min(low, 0), high, 501)
    assert float((grid(x) - x).abs().max()) <= 1.01 * float(grid.grid()[0])


def test_the_gradient_is_one_within_the_range_and_zero_outside() -> None:
    grid = quantizer(8, -1.0, 2.0)
    x = torch.tensor([-1.5, -0.9, 0.0, 0.3, 1.9, 2.5], requires_grad=True)
    grid(x).sum().backward()
    assert x.grad is not None

    def clamped(v: torch.Tensor) -> torch.Tensor:
        return v.clamp(-1.0, 2.0)

    with torch.no_grad():
        by_differences = (clamped(x + 1e-3) - clamped(x - 1e-3)) / 2e-3
    torch.testing.assert_close(x.grad, by_differences, atol=1e-3, rtol=0)


def test_ranges_follow_batches_in_training_only() -> None:
    grid = quantizer(8, -1.0, 1.0)
    grid(torch.tensor([5.0]))
    assert float(grid.high) == 1.0
    grid.train()(torch.tensor([-1.0, 5.0]))
    assert float(grid.high) == pytest.approx(1.04)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))


def test_every_layer_reads_what_lies_on_its_grid() -> None:
    model, x = network(), torch.rand(8, 3, 8, 8) * 2 - 1
    before = model(x)
    quantize_activations_(model, 8, x)
    assert (model(x) - before).abs().max() < 0.02
    ranges = activation_ranges(model)
    assert list(ranges) == ["0", "2"]
    assert ranges["0"][0] < 0
    assert ranges["2"][0] == 0
    read: list[torch.Tensor] = []
    model[2].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    model(x)
    assert len(read[0].unique()) <= 256
    with pytest.raises(ValueError, match="already"):
        quantize_activations_(model, 8, x)


def test_saturation_is_seen() -> None:
    model, x = network(), torch.rand(8, 3, 8, 8)
    quantize_activations_(model, 8, x)
    assert max(clipped(model, x).values()) == 0
    assert clipped(model, 4 * x)["0"] > 0.5
    calibrate_(model, 4 * x)
    assert max(clipped(model, 4 * x).values()) == 0


@pytest.mark.parametrize("bits", [1, 17, 2.5])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        ActivationQuantizer(bits)
