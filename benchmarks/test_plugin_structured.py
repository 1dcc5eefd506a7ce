"""Structured sparsity: projections against a sort of as many values, and smaller networks against dense ones."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("art_atmc_structured")
from art_atmc_structured import (
    BlockSparsity,
    ChannelSparsity,
    ColumnSparsity,
    FilterSparsity,
    KernelSparsity,
    NMSparsity,
    coupled_filters,
    remove_filters,
)

from art_atmc import Weights, compressible
from art_atmc.networks import NETWORKS

CONSTRAINTS = [
    FilterSparsity(0.5),
    FilterSparsity(0.5, per_layer=True),
    ChannelSparsity(0.5),
    ColumnSparsity(0.5),
    KernelSparsity(0.5),
    BlockSparsity(0.5, rows=4, columns=4),
    BlockSparsity(0.5, rows=1, columns=4),
    NMSparsity(2, 4),
    NMSparsity(4, 16),
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=repr)
def test_projections_take_at_most_three_sorts(compare, constraint):
    generator = torch.Generator().manual_seed(0)
    weights = Weights({f"w{i}": torch.randn(512, 512, 3, 3, generator=generator) for i in range(4)})
    values = torch.cat([w.reshape(-1) for w in weights.values()])
    name = f"{constraint}, {len(values)} values"
    compare(name, lambda: constraint.project(weights), lambda: values.sort(), at_most=3, rounds=3)


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize(("network", "round_to"), [("lenet", 1), ("resnet18", 1), ("resnet18", 16)])
def test_half_the_filters_take_at_most_two_thirds_of_the_time(compare, network, round_to, batch_size):
    torch.manual_seed(0)
    model = NETWORKS[network](10).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.bias.data.normal_()  # so that channels without filters carry constants, as after training
    x = torch.rand(batch_size, *model.input_shape)
    constraint = FilterSparsity(0.5, per_layer=True, coupled=coupled_filters(model, x))
    weights = compressible(model)
    weights.assign_(constraint.project(weights))
    small = remove_filters(model, x[:2], round_to=round_to).model
    rounds = 101 if network == "lenet" else 9
    name = f"{network} with half the filters, rounded to {round_to}, batch {batch_size}"
    with torch.inference_mode():
        compare(name, lambda: small(x), lambda: model(x), at_most=0.65, rounds=rounds)
