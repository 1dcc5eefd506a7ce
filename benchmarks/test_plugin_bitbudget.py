"""A bit budget: the projection of several tensors against a sort of as many values."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("art_atmc_bitbudget")
from art_atmc_bitbudget import BitBudget

from art_atmc import Weights

SHAPES = [(64, 64, 3, 3), (128, 128, 3, 3), (256, 128, 3, 3), (128, 128, 3, 3), (746, 500)]  # 10^6 values


def weights(heavy: bool) -> Weights:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) / shape[1] ** 0.5 for shape in SHAPES]
    if heavy:
        tensors = [t / (torch.randn(t.shape, generator=generator).abs() + 0.2) for t in tensors]
    return Weights({f"w{i}": t for i, t in enumerate(tensors)})


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy tails"])
@pytest.mark.parametrize("bits_per_weight", [0.05, 0.5, 2.0])
def test_projections_take_at_most_three_sorts(compare, bits_per_weight, heavy):
    w, constraint = weights(heavy), BitBudget(bits_per_weight)
    values = torch.cat([t.reshape(-1) for t in w.values()])
    name = f"{constraint}{', heavy tails' * heavy}, {len(values)} values"
    compare(name, lambda: constraint.project(w), lambda: values.sort(), at_most=3)


def test_projections_near_a_point_take_at_most_three_sorts(compare):
    w, constraint = weights(heavy=False), BitBudget(0.5)
    near = constraint.project(w)
    values = torch.cat([t.reshape(-1) for t in w.values()])
    name = f"{constraint}, near a point, {len(values)} values"
    compare(name, lambda: constraint.project_near(w, near), lambda: values.sort(), at_most=3)
