"""Boosting: what an attack on a sum costs, and whether stacking the members makes it cheaper."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

pytest.importorskip("art_atmc_boosting")
from art_atmc_boosting import Ensemble

STACKING = round(1 / 1.3, 3)  # of the time of one member after the other, where it would be worth having


def member(width: int) -> nn.Module:
    a, b, c = 8 * width, 16 * width, 32 * width
    return nn.Sequential(
        nn.Conv2d(1, a, 3), nn.ReLU(), nn.Conv2d(a, b, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * b, c), nn.ReLU(), nn.Linear(c, 10),
    )  # fmt: skip


def gradient(network, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(nn.functional.cross_entropy(network(x), y), x)[0]


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("members", [2, 4, 8])
def test_stacked_members_take_less_time_than_one_after_the_other(compare, members, width):
    torch.manual_seed(0)
    ensemble = Ensemble([member(width) for _ in range(members)]).requires_grad_(False).eval()
    parameters, buffers = stack_module_state(list(ensemble.members))
    parameters = {name: tensor.detach() for name, tensor in parameters.items()}
    form = copy.deepcopy(ensemble.members[0]).to("meta")

    def stacked(x):
        return vmap(lambda p, b: functional_call(form, (p, b), (x,)))(parameters, buffers).mean(dim=0)

    x, y = torch.rand(128, 1, 8, 8), torch.randint(10, (128,))
    torch.testing.assert_close(gradient(stacked, x, y), gradient(ensemble, x, y), rtol=1e-3, atol=1e-6)
    name = f"input gradient of {members} members of width {width}, stacked against one by one"
    compare(name, lambda: gradient(stacked, x, y), lambda: gradient(ensemble, x, y), at_most=STACKING)
