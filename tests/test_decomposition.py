from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from art_atmc import compressible, decompose, recompose
from art_atmc.compression.factors import LowRankPlusSparse, decomposed, factors_of

LAYERS = {
    "linear": (nn.Linear(5, 3), (2, 5)),
    "linear-tall": (nn.Linear(3, 5), (2, 3)),
    "conv1d": (nn.Conv1d(2, 3, 3), (2, 2, 8)),
    "conv2d": (nn.Conv2d(2, 3, 3), (2, 2, 8, 8)),
    "conv2d-tall": (nn.Conv2d(1, 12, 3), (2, 1, 8, 8)),
    "conv3d": (nn.Conv3d(2, 3, 3), (2, 2, 4, 4, 4)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 8, 8)),
    "transposed1d": (nn.ConvTranspose1d(2, 3, 3), (2, 2, 8)),
    "transposed2d": (nn.ConvTranspose2d(2, 3, 3), (2, 2, 8, 8)),
    "transposed3d": (nn.ConvTranspose3d(2, 3, 3), (2, 2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_network_is_unchanged_by_decomposition_and_back(name):
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight, output = layer.weight.detach().clone(), layer(x)
    decompose(layer)
    assert torch.equal(layer.weight, weight)  # type: ignore[arg-type]
    assert torch.equal(layer(x), output)
    assert compressible(layer).nnz() == weight.numel()  # the identity and the zeros cost nothing
    recompose(layer)
    assert torch.equal(layer.weight, weight)  # type: ignore[arg-type]
    assert not parametrize.is_parametrized(layer)


@pytest.mark.parametrize("name", LAYERS)
def test_every_factor_of_every_layer_is_trained(name):
    layer, shape = LAYERS[name]
    layer = decompose(copy.deepcopy(layer))
    layer(torch.randn(shape)).square().sum().backward()
    factors = compressible(layer)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in factors.values())


def test_embeddings_and_attention_train_and_compute_as_before():
    torch.manual_seed(0)
    embedding, attention = nn.Embedding(7, 4), nn.MultiheadAttention(4, 2, batch_first=True)
    tokens = torch.tensor([[1, 2, 3]])

    def output():
        e = embedding(tokens)
        return attention(e, e, e)[0]

    before = output()
    decompose(embedding), decompose(attention)
    assert torch.allclose(output(), before, atol=1e-6)
    output().square().sum().backward()
    assert all(p.grad is not None for p in compressible(attention).values())
    attention.eval()
    with torch.no_grad():
        assert torch.allclose(output(), before, atol=1e-6)


def explicit(u, v, c):
    """The definition, written out with the identity as a matrix."""
    rows, columns = c.shape[0], c[0].numel()
    if rows <= columns:
        w = (torch.eye(rows, dtype=u.dtype) + u) @ v
    else:
        w = u @ (torch.eye(columns, dtype=v.dtype) + v)
    return w.reshape(c.shape) + c


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.integers(0, 99))
def test_form_and_its_gradients_equal_the_definition(rows, columns, density, seed):
    generator = torch.Generator().manual_seed(seed)
    form = LowRankPlusSparse((rows, columns))
    small = min(rows, columns)
    square = torch.randn(small, small, generator=generator, dtype=torch.float64)
    square *= torch.rand(square.shape, generator=generator) < density
    full = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    sparse = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    u, v = (square, full) if rows <= columns else (full, square)
    factors = [t.clone().requires_grad_() for t in (u, v, sparse)]
    oracle = [t.clone().requires_grad_() for t in (u, v, sparse)]
    weight, expected = form(*factors), explicit(*oracle)
    assert torch.allclose(weight, expected)
    weight.square().sum().backward()
    expected.square().sum().backward()
    assert all(torch.allclose(f.grad, o.grad) for f, o in zip(factors, oracle, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("density", [0.001, 0.2])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
def test_sparse_and_dense_products_agree(shape, density):
    generator = torch.Generator().manual_seed(1)
    form = LowRankPlusSparse(shape)
    square = torch.randn(60, 60, generator=generator) * (torch.rand(60, 60, generator=generator) < density)
    full, sparse = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    u, v = (square, full) if shape[0] <= shape[1] else (full, square)
    u.requires_grad_(), v.requires_grad_()
    weight = form(u, v, sparse)
    gradients = torch.autograd.grad(weight.square().sum(), (u, v))
    expected = explicit(u, v, sparse)
    assert torch.allclose(weight, expected, atol=1e-4)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.square().sum(), (u, v)), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-2)


def test_weight_is_formed_once_in_a_cached_block(monkeypatch):
    layer = decompose(nn.Linear(4, 3))
    formed = []
    forward = LowRankPlusSparse.forward
    monkeypatch.setattr(LowRankPlusSparse, "forward", lambda *a: formed.append(1) or forward(*a))
    with parametrize.cached():
        for _ in range(5):
            layer(torch.ones(1, 4))
    assert len(formed) == 1


def test_recomposing_a_deep_copy_leaves_the_original_decomposed():
    model = decompose(nn.Sequential(nn.Linear(4, 3)))
    recompose(copy.deepcopy(model))
    assert list(decomposed(model)) == ["0.weight"]
    assert model(torch.ones(1, 4)).shape == (1, 3)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_optimizer_is_repointed_at_the_factors(kind):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = kind([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.01}])
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    decompose(model, optimizer=optimizer)
    assert [len(g["params"]) for g in optimizer.param_groups] == [4, 4]
    in_groups = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert in_groups == {id(p) for p in model.parameters()}
    before = compressible(model).clone()
    optimizer.zero_grad()
    model(torch.ones(1, 4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(compressible(model)["0.weight.V"], before["0.weight.V"])


def test_decomposing_twice_changes_nothing():
    model = decompose(nn.Linear(4, 3))
    names = list(compressible(model))
    assert list(compressible(decompose(model))) == names


def test_ignored_layers_stay_plain():
    model = nn.ModuleDict({"body": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    assert list(decomposed(decompose(model, ignore=["head"]))) == ["body.weight"]


def test_state_dict_round_trip_and_deepcopy():
    model = decompose(nn.Sequential(nn.Linear(4, 3)))
    with torch.no_grad():
        compressible(model)["0.weight.U"].fill_(0.5)
    other = decompose(nn.Sequential(nn.Linear(4, 3)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].weight, model[0].weight)
    assert torch.equal(copy.deepcopy(model)[0].weight, model[0].weight)


def test_tied_weights_are_refused_with_both_names():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    with pytest.raises(ValueError, match=r"`a.weight` and `b.weight`.*factored=False"):
        decompose(model)
    untied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    assert len(decomposed(decompose(untied))) == 2


def test_shapes_of_factors_are_known_before_they_are_made():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(5, 9))
    decompose(model, ignore=["2"])
    before = factors_of(compressible(model), decomposed(model))
    after = compressible(decompose(model))
    assert {name: t.shape for name, t in before.items()} == {name: t.shape for name, t in after.items()}
    assert before.dense_size == after.dense_size
    assert all(t.is_meta for t in before.values())


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
@pytest.mark.parametrize("few", [True, False])
def test_factors_train_under_autocast_as_the_weight_does(shape, few):
    """The weight is formed in full precision and rounded once, where the layer uses it."""
    torch.manual_seed(0)
    layer = nn.Linear(*shape)
    decompose(layer)
    with torch.no_grad():
        square = layer.parametrizations.weight.original0 if layer.weight.shape[0] <= shape[0] else None
        square = layer.parametrizations.weight.original1 if square is None else square
        square[0, 1] = 0.5
        if not few:
            square.add_(0.1)
    plain = recompose(copy.deepcopy(layer))
    x = torch.randn(7, shape[0])
    outputs = []
    for network in (layer, plain):
        with torch.autocast("cpu", torch.bfloat16):
            out = network(x)
        out.float().square().sum().backward()
        outputs.append(out)
    assert outputs[0].dtype == torch.bfloat16
    assert torch.equal(*outputs)
    assert torch.equal(layer.parametrizations.weight.original2.grad, plain.weight.grad)  # type: ignore[arg-type]


def test_an_optimizer_of_named_parameters_keeps_its_names():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = [{"params": list(layer.named_parameters())} for layer in model]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    before = [list(group["param_names"]) for group in optimizer.param_groups]
    decompose(model, optimizer=optimizer)
    names = dict(model.named_parameters())
    for group in optimizer.param_groups:
        assert len(group["param_names"]) == len(group["params"])
        assert all(names[n] is p for n, p in zip(group["param_names"], group["params"], strict=True) if n in names)
        assert sum("parametrizations.weight.original" in n for n in group["param_names"]) == 3
    optimizer.load_state_dict(optimizer.state_dict())
    recompose(model, optimizer)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    assert len(before[0]) == len(optimizer.param_groups[0]["param_names"])


def test_training_goes_on_with_the_weights_after_recomposition():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    decompose(model, optimizer=optimizer)
    recompose(model, optimizer)
    before = model[0].weight.detach().clone()
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)  # type: ignore[arg-type]
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [
        id(p) for layer in model for p in (layer.weight, layer.bias)
    ]


def test_a_frozen_layer_gets_a_frozen_parameter_back():
    layer = decompose(nn.Linear(3, 2))
    layer.requires_grad_(False)
    weight = recompose(layer).weight
    assert isinstance(weight, nn.Parameter)
    assert not weight.requires_grad
    assert "weight" in dict(layer.named_parameters())
