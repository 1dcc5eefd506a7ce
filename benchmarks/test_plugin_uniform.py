"""Projections on uniform grids against a sort of as many values, and how far from the nearest grid they end."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("art_atmc_uniform")
from art_atmc_uniform import UniformQuantization
from art_atmc_uniform.search import _Search

from art_atmc import Weights

CONSTRAINTS = [
    UniformQuantization(),
    UniformQuantization(bits=4),
    UniformQuantization(symmetric=False),
    UniformQuantization(per_channel=True),
    UniformQuantization(symmetric=False, per_channel=True),
    UniformQuantization(power_of_two=True),
    UniformQuantization(bits=16),
    UniformQuantization(bits=16, per_channel=True),
]


@pytest.mark.parametrize("shape", [(1000, 1000), (512, 512, 3, 3), (2048, 4882)], ids=str)
@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=repr)
def test_projections_take_at_most_three_sorts(compare, constraint, shape):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weights, flat = Weights({"w": w}), w.flatten()
    compare(f"{constraint}, {shape}", lambda: constraint.project(weights), flat.sort, at_most=3, rounds=3)


def drawn(kind: str, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(count, generator=generator, dtype=torch.float64)
    if kind == "Student, 3 degrees":
        return w / torch.randn(3, count, generator=generator).double().square().mean(0).sqrt()
    if kind == "uniform":
        return torch.rand(count, generator=generator, dtype=torch.float64) - 0.5
    if kind == "log-normal":
        return w.exp()
    return w


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize(
    ("bits", "count", "percent"), [(4, 100_000, 0.1), (8, 3_000, 1), (8, 100_000, 1), (10, 5_000, 5)]
)
def test_squared_error_is_near_the_least(report, symmetric, bits, count, percent):
    """The least: over 4,000 scales and every offset, each with the scale that suits its integers."""
    constraint = UniformQuantization(bits=bits, symmetric=symmetric)
    worst = 0.0
    for kind in ("normal", "Student, 3 degrees", "uniform", "log-normal"):
        w = drawn(kind, count)
        search = _Search(w[None], constraint.grid)
        low, high = search.bracket()
        scales = (high * (low / high) ** torch.linspace(0, 1, 4000, dtype=torch.float64))[None]
        products, squares = search.moments(scales, search.lows(scales))
        least = float(w.square().sum() - (products.square() / squares.clamp(min=1)).max())
        worst = max(worst, constraint.violation(Weights({"w": w})) / least - 1)
    name = f"{'symmetric' if symmetric else 'affine'}, {bits} bits, {count:,} values: error above the least"
    report(name, 100 * worst, percent, " %")
