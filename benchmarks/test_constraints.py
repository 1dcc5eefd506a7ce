"""The l0 projection against zeroing the N - k smallest by torch.topk."""

from __future__ import annotations

import torch

from art_atmc import Sparsity, Weights


def test_l0_projection_of_ten_million_entries(compare):
    generator = torch.Generator().manual_seed(0)
    weights = Weights({"w": torch.randn(10_000_000, generator=generator)})
    constraint = Sparsity(0.01)
    k = constraint.budget(weights)

    def by_topk():
        flat = weights["w"].clone()
        smallest = torch.topk(flat.abs(), flat.numel() - k, largest=False, sorted=False).indices
        flat[smallest] = 0
        return flat

    assert constraint.project(weights).nnz() == k
    assert torch.equal(constraint.project(weights)["w"], by_topk())
    compare(
        "l0 projection, 10^7 entries, density 0.01, against torch.topk",
        lambda: constraint.project(weights),
        by_topk,
        at_most=0.5,
    )
