from __future__ import annotations

import pytest
import torch
from torch import nn

from art_atmc import Weights, compressible, decompose


def test_map_keeps_names_and_dense_size():
    weights = Weights({"a": torch.ones(2), "b": torch.ones(3)}, dense_size=4)
    doubled = weights.map(torch.add, weights)
    assert list(doubled) == ["a", "b"]
    assert doubled.dense_size == 4
    assert doubled["b"].tolist() == [2, 2, 2]


def test_assign_writes_into_the_tensors():
    parameter = nn.Parameter(torch.zeros(2))
    Weights({"a": parameter}).assign_({"a": torch.tensor([1.0, 2.0])})
    assert parameter.tolist() == [1, 2]
    assert parameter.grad is None


def test_empty_weights_are_refused():
    with pytest.raises(ValueError, match="nothing to compress"):
        Weights({})


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 3),
        nn.Conv1d(2, 3, 3),
        nn.Conv2d(2, 3, 3),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Conv3d(2, 3, 3),
        nn.ConvTranspose1d(2, 3, 3),
        nn.ConvTranspose2d(2, 3, 3),
        nn.ConvTranspose3d(2, 3, 3),
        nn.Embedding(5, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_weight_of_each_supported_layer_is_found_and_its_bias_is_not(layer):
    weights = compressible(nn.Sequential(layer))
    assert list(weights) == ["0.weight"]
    assert weights["0.weight"] is layer.weight
    assert weights.dense_size == layer.weight.numel()


def test_attention_projections_are_found():
    assert sorted(compressible(nn.MultiheadAttention(4, 2))) == ["in_proj_weight", "out_proj.weight"]
    separate = compressible(nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True))
    assert sorted(separate) == ["k_proj_weight", "out_proj.weight", "q_proj_weight", "v_proj_weight"]


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm((4, 6, 6)), nn.InstanceNorm2d(4, affine=True)]
)
def test_normalisation_is_never_compressed(norm):
    assert list(compressible(nn.Sequential(nn.Conv2d(1, 4, 3), norm))) == ["0.weight"]


def test_a_decomposed_model_lists_its_factors_against_the_dense_size():
    model = decompose(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    weights = compressible(model)
    assert list(weights) == [f"{i}.weight.{f}" for i in (0, 1) for f in "UVC"]
    assert weights.dense_size == 4 * 3 + 3 * 2
    parameters = {id(p) for p in model.parameters()}
    assert all(id(p) in parameters for p in weights.values())


@pytest.mark.parametrize("pattern", ["features", "features.0", "features.0.weight", "feat*", "*.0"])
def test_ignore_matches_parameter_layer_or_module(pattern):
    model = nn.ModuleDict({"features": nn.Sequential(nn.Linear(4, 3)), "head": nn.Linear(3, 2)})
    assert list(compressible(model, ignore=[pattern])) == ["head.weight"]


def test_ignore_holds_for_factors_too():
    model = nn.ModuleDict({"body": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    decompose(model)
    assert all(name.startswith("body") for name in compressible(model, ignore=["head"]))


def test_an_ignore_pattern_without_match_is_refused():
    with pytest.raises(ValueError, match=r"'heda'.*match no weight"):
        compressible(nn.Sequential(nn.Linear(2, 2)), ignore=["heda"])


def test_ignore_as_a_string_is_refused():
    with pytest.raises(TypeError, match="must be a list"):
        compressible(nn.Linear(2, 2), ignore="head")


def test_a_model_without_compressible_weight_is_refused():
    with pytest.raises(ValueError, match="no compressible weight"):
        compressible(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))


class WithPosition(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(3, 4))
        self.lstm = nn.LSTM(4, 4)
        self.fc = nn.Linear(4, 2)


def test_unsupported_parameters_are_all_named_with_the_remedy():
    with pytest.raises(ValueError, match="ignore") as refusal:
        compressible(WithPosition())
    assert "`position`" in str(refusal.value)
    assert "`lstm.weight_ih_l0`" in str(refusal.value)
    assert list(compressible(WithPosition(), ignore=["position", "lstm"])) == ["fc.weight"]


def test_frozen_weights_are_refused():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        compressible(layer)


def test_lazy_layers_are_refused():
    with pytest.raises(ValueError, match="run one batch"):
        compressible(nn.Sequential(nn.LazyLinear(3)))


def test_sparse_embeddings_are_refused():
    with pytest.raises(ValueError, match="sparse=False"):
        compressible(nn.Embedding(3, 2, sparse=True))


def test_foreign_parametrizations_are_refused():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="remove_parametrizations"):
        compressible(layer)


def test_a_tied_weight_counts_once():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    weights = compressible(model)
    assert list(weights) == ["a.weight"]
    assert weights.dense_size == 9
