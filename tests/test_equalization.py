"""Equalized layers: the same function, weights of one size, and nothing touched beyond what may be."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from art_atmc import Sparsity, compressible
from art_atmc.compression import decompose, equalize
from art_atmc.networks import NETWORKS


def rms(layer) -> float:
    return float(layer.weight.detach().square().mean().sqrt())


@pytest.mark.parametrize("name", ["digits-cnn", "lenet", "lenet-relu"])
def test_the_function_stays_and_the_sizes_become_one(name):
    torch.manual_seed(0)
    model = NETWORKS[name](10).eval()
    model.layers.conv2.weight.data.mul_(7)
    x = torch.rand(5, *model.input_shape)
    before = model(x)
    scales = equalize(model)
    assert torch.allclose(model(x), before, rtol=1e-4, atol=1e-5)
    assert list(scales) == ["layers.conv1", "layers.conv2", "layers.fc1", "layers.fc2"]
    sizes = [rms(model.get_submodule(layer)) for layer in scales]
    assert max(sizes) == pytest.approx(min(sizes), rel=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(-8, 8), min_size=3, max_size=3), st.booleans(), st.integers(0, 100))
def test_whatever_the_sizes_the_function_stays(exponents, bias, seed):
    torch.manual_seed(seed)
    layers = [nn.Linear(3, 3, bias=bias).double() for _ in range(3)]
    for layer, exponent in zip(layers, exponents, strict=True):
        layer.weight.data.mul_(2.0**exponent)
    model = nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.Flatten(), layers[2])
    x = torch.randn(4, 3).double()
    before = model(x)
    equalize(model)
    assert torch.allclose(model(x), before, rtol=1e-9, atol=1e-12)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = x + self.b(x)
        return self.d(self.norm(self.c(x)).relu())


def test_branches_additions_and_normalisations_end_a_chain():
    model = Residual()
    before = copy.deepcopy(model.state_dict())
    assert equalize(model) == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_bends_is_no_link():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert list(equalize(model)) == ["2", "4"]


def test_a_layer_that_is_used_twice_is_left_alone():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(2, 2))
    assert equalize(model) == {}


def test_an_equalized_budget_leaves_small_layers_their_share():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))
    model[0].weight.data.mul_(0.001)
    starved = Sparsity(0.5).project(compressible(model))
    assert starved["0.weight"].count_nonzero() <= 1
    equalize(model)
    kept = Sparsity(0.5).project(compressible(model))
    assert 40 <= kept["0.weight"].count_nonzero() <= 60


def test_what_can_not_be_equalized_is_refused():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    decompose(model)
    with pytest.raises(ValueError, match="before"):
        equalize(model)
    zero = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    zero[2].weight.data.zero_()
    with pytest.raises(ValueError, match="all zero"):
        equalize(zero)

    class Depends(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="trace"):
        equalize(Depends())
