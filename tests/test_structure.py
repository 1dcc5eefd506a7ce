from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from art_atmc import decompose
from art_atmc.compression.factors import decomposed
from art_atmc.inference import optimize as structure
from art_atmc.inference.layers import Blocks, CompressedRows
from art_atmc.inference.optimize import MultiplyAdds, multiply_adds, optimized, run_factors


def masked(layer: nn.Module, rows: float, channels: float, entries: float, seed: int = 0) -> nn.Module:
    """Empty rows, unused channels and single zeros, each kept with the given share."""
    generator = torch.Generator().manual_seed(seed)

    def kept(shape, share):
        return torch.rand(shape, generator=generator) < share

    with torch.no_grad():
        weight = layer.get_parameter("weight").data
        ones = [1] * (weight.dim() - 2)
        weight *= kept((len(weight), 1, *ones), rows) * kept((1, weight.shape[1], *ones), channels)
        weight *= kept(weight.shape, entries)
    return layer


def factored(layer: nn.Module, meeting: int, sparse_rows: int = 0, seed: int = 0) -> nn.Module:
    """Random factors that meet in few places, and a C with few rows."""
    generator = torch.Generator().manual_seed(seed)
    decompose(layer)
    form = layer.parametrizations.weight
    U, V, C = form.parameters()
    with torch.no_grad():
        for factor in (U, V, C):
            factor.copy_(torch.randn(factor.shape, generator=generator, dtype=torch.float64) * 0.3)
        (V[meeting:] if form[0].wide else U[:, meeting:]).zero_()
        C[sparse_rows:] = 0
        C[:, 1:] = 0
        U[-1] = 0
    return layer


def same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Equal up to ``tolerance`` of the largest entry."""
    actual, expected = actual.detach(), expected.detach()
    if actual.shape != expected.shape or not actual.numel():
        return actual.shape == expected.shape
    return float((actual - expected).abs().max()) <= tolerance * max(1e-9, float(expected.abs().max()))


def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever saves a multiply-add be taken."""
    for name in ("CALL", "MOVE"):
        monkeypatch.setattr(structure, name, 0)
    monkeypatch.setattr(structure, "UNEVEN", 1)


share = st.sampled_from([0.0, 0.4, 0.8, 1.0])


@st.composite
def convolutions(draw):
    channels, rows = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    stride = draw(st.integers(1, 2))
    layer = nn.Conv2d(
        channels,
        rows,
        draw(st.sampled_from([1, 2, 3, (1, 3)])),
        stride,
        draw(st.sampled_from([0, 1, (1, 0)] + ["same"] * (stride == 1))),
        draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        dtype=torch.float64,
    )
    return layer, (*draw(st.sampled_from([(), (1,), (3,)])), channels, 8, 8)


@st.composite
def linears(draw):
    inputs, outputs = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    layer = nn.Linear(inputs, outputs, draw(st.booleans()), dtype=torch.float64)
    return layer, (*draw(st.sampled_from([(), (1,), (3,), (2, 3), (0,)])), inputs)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=150, deadline=None)
@given(st.one_of(convolutions(), linears()), share, share, share, st.integers(0, 99))
def test_every_plan_computes_what_a_sparse_layer_computes(case, rows, channels, entries, seed):
    layer, shape = case
    masked(layer, rows, channels, entries, seed)
    check_plans(layer, shape, seed)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=150, deadline=None)
@given(st.one_of(convolutions(), linears()), st.integers(0, 4), st.integers(0, 2), st.integers(0, 99))
def test_every_plan_computes_what_a_factored_layer_computes(case, meeting, sparse_rows, seed):
    layer, shape = case
    check_plans(factored(layer, meeting, sparse_rows, seed), shape, seed)


def check_plans(layer: nn.Module, shape: tuple[int, ...], seed: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    gradient = torch.randn(expected.shape, dtype=torch.float64)
    (expected_grad,) = torch.autograd.grad(expected, x, gradient)
    dense, *plans = structure._plans(layer, 0)  # type: ignore[arg-type]
    assert dense.build() is None
    assert plans
    for plan in plans:
        module = plan.build()
        assert same(module(x), expected, 1e-12)  # type: ignore[misc]
        assert same(torch.autograd.grad(module(x), x, gradient)[0], expected_grad, 1e-12)  # type: ignore[misc]
        with torch.no_grad():
            assert same(module(x), expected, 1e-12)  # type: ignore[misc]


@pytest.mark.parametrize("layer", [nn.Linear(40, 20), nn.Linear(20, 40), nn.Conv2d(6, 20, 3), nn.Conv2d(2, 40, 3)])
@pytest.mark.parametrize("sparse_rows", [0, 2])
def test_run_factors_holds_blocks_of_the_factors_bit_for_bit(layer, sparse_rows):
    layer = factored(copy.deepcopy(layer), 3, sparse_rows)
    x = torch.randn(2, 40, 5, 5)[:, : layer.weight.shape[1]]
    x = x[..., 0, 0] if isinstance(layer, nn.Linear) else x
    expected = layer(x)
    U, V, C = (p.detach() for p in layer.parametrizations.weight.parameters())
    square = U if layer.parametrizations.weight[0].wide else V
    known = (U, V, C, square + torch.eye(len(square)), layer.bias)
    values = torch.cat([t.detach().reshape(-1) for t in known])
    module = run_factors(layer)
    assert isinstance(module, Blocks)
    assert all(torch.isin(p, values).all() and not p.requires_grad for p in module.parameters())
    assert {type(m) for m in module.modules() if not list(m.children())} <= {nn.Linear, nn.Conv2d}
    assert same(module(x), expected, 1e-5)
    assert len(module.parts) == 1 + (sparse_rows > 0)
    assert sum(p.numel() for n, p in module.named_parameters() if n.endswith("weight")) < C.numel()


def test_run_factors_leaves_layers_that_are_cheaper_folded():
    model = nn.Sequential(
        decompose(nn.Linear(20, 20)),
        nn.Linear(20, 20),
        factored(nn.Conv2d(20, 20, 3, groups=2), 1),  # its rows see different inputs
        decompose(nn.Linear(20, 20)),
        factored(nn.Linear(20, 20), 1),
        factored(nn.Conv1d(20, 20, 1), 1),
    )
    with torch.no_grad():
        model[3].parametrizations.weight.original1.zero_()  # nothing is left
    layers = list(model)
    assert run_factors(model) is model
    assert [kept is layer for kept, layer in zip(model, layers, strict=True)] == [True] * 4 + [False, True]
    assert list(decomposed(model)) == ["0.weight", "2.weight", "3.weight", "5.weight"]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=60, deadline=None)
@given(st.one_of(convolutions(), linears()), st.integers(0, 4), st.integers(0, 2), share, share, st.booleans())
def test_no_plan_that_is_taken_needs_more_multiply_adds(case, meeting, sparse_rows, rows, channels, with_factors):
    layer, shape = case
    layer = factored(layer, meeting, sparse_rows) if with_factors else masked(layer, rows, channels, 1.0)
    if len(shape) in (2, 4):
        shape = (1, *shape[1:])
        with pytest.MonkeyPatch.context() as patch:
            free(patch)
            for change in (run_factors, optimized):
                before = multiply_adds(layer, torch.zeros(shape, dtype=torch.float64))
                changed = change(nn.Sequential(copy.deepcopy(layer)))
                after = multiply_adds(changed, torch.zeros(shape, dtype=torch.float64))
                assert sum(a.dense for a in after.values()) <= sum(b.dense for b in before.values())


class Net(nn.Module):
    """Strides, normalisation, a residual, and a linear layer on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(32)
        self.block = nn.Conv2d(32, 32, 3, padding="same", bias=False)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=32)
        self.mix = nn.Linear(32, 48)
        self.head = nn.Linear(48 * 64, 10)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.depthwise(self.block(x))).relu()
        return self.head(self.mix(x.flatten(2).mT).relu().flatten(1))


def sparse_net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    net = Net().eval()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    for name in ("stem", "block", "depthwise", "mix", "head"):
        layer = getattr(net, name)
        if kind == "factored":
            factored(layer, 2, 1)
        elif kind == "clustered":
            masked(layer, 0.5, 0.5, 1.0)
        else:
            masked(layer, 1.0, 1.0, 0.02)
    return net


@pytest.mark.parametrize("kind", ["factored", "clustered", "random"])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("change", [run_factors, optimized])
@pytest.mark.parametrize("price", ["free", "measured"])
def test_outputs_and_input_gradients_stay(kind, batch, change, price, monkeypatch):
    if price == "free":
        free(monkeypatch)
    net = sparse_net(kind)
    x = torch.rand(batch, 3, 16, 16, requires_grad=True)
    labels = torch.arange(batch) % 10
    expected = net(x)
    (expected_grad,) = torch.autograd.grad(nn.functional.cross_entropy(expected, labels), x)
    changed = change(copy.deepcopy(net))
    assert same(changed(x), expected, 1e-5)
    gradient = torch.autograd.grad(nn.functional.cross_entropy(changed(x), labels), x)[0]
    assert same(gradient, expected_grad, 1e-5)
    channels_last = x.detach().contiguous(memory_format=torch.channels_last)
    assert same(changed(channels_last), expected, 1e-5)
    assert not decomposed(changed) or change is run_factors


def test_optimized_takes_each_plan_where_it_pays():
    model = nn.Sequential(
        nn.Linear(1000, 1000),
        masked(nn.Linear(1000, 1000), 0.3, 0.3, 1.0),
        masked(nn.Linear(1000, 1000), 1.0, 1.0, 0.01),
        factored(nn.Linear(1000, 1000), 10),
        nn.Conv1d(1, 1, 1),
        masked(nn.Linear(10, 10), 0.3, 0.3, 1.0),  # too small for anything
    )
    layers = list(model)
    optimized(model)
    assert [type(layer) for layer in model] == [nn.Linear, Blocks, CompressedRows, Blocks, nn.Conv1d, nn.Linear]
    assert [kept is layer for kept, layer in zip(model, layers, strict=True)] == [True, *[False] * 3, True, True]
    assert isinstance(model[3].parts[0].layer, nn.Sequential)


def test_empty_rows_and_unused_channels_are_left_out():
    layer = nn.Conv2d(4, 5, 3)
    with torch.no_grad():
        layer.weight[1:3] = 0
        layer.weight[:, 0] = 0
        layer.weight[0, 1] = 0  # used by other rows
    _, plan = structure._plans(layer, 0)
    [part] = plan.build().parts  # type: ignore[misc]
    assert part.layer.weight.shape == (3, 3, 3, 3)
    assert part.outputs.tolist() == [0, 3, 4]
    assert part.inputs.tolist() == [1, 2, 3]
    assert torch.equal(part.layer.bias, layer.bias[[0, 3, 4]])


def test_compressed_rows_are_for_types_that_torch_multiplies_on_a_cpu():
    layer = masked(nn.Linear(1000, 1000), 1.0, 1.0, 0.01)
    assert isinstance(optimized(copy.deepcopy(layer).double()), CompressedRows)
    assert isinstance(optimized(copy.deepcopy(layer).bfloat16()), nn.Linear)


def test_known_positions_decide_on_a_convolution():
    layer = masked(nn.Conv2d(20, 50, 5), 0.4, 0.6, 1.0)
    assert isinstance(optimized(copy.deepcopy(layer), {"weight": 4}), nn.Conv2d)
    assert isinstance(optimized(copy.deepcopy(layer), {"weight": 1000}), Blocks)


def test_compressed_rows_have_first_and_second_derivatives():
    layer = masked(nn.Linear(7, 5, dtype=torch.float64), 1.0, 1.0, 0.4)
    rows = CompressedRows(layer.weight, layer.bias)  # type: ignore[arg-type]
    for shape in [(1, 7), (3, 7), (7,), (2, 2, 7)]:
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: rows(x).square(), (x,))
        assert torch.autograd.gradgradcheck(lambda x: rows(x).square(), (x,))


@pytest.mark.parametrize("kind", ["factored", "clustered", "random"])
def test_changed_networks_copy_save_and_move(kind, monkeypatch):
    free(monkeypatch)
    net = optimized(sparse_net(kind))
    x = torch.rand(2, 3, 16, 16)
    expected = net(x)
    assert torch.equal(copy.deepcopy(net)(x), expected)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = optimized(sparse_net(kind))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)
    assert same(net.double()(x.double()).float(), expected, 1e-5)


def test_shared_layers_are_replaced_wherever_they_stand():
    layer = factored(nn.Linear(60, 60), 2)
    model = nn.ModuleDict({"first": layer, "deep": nn.Sequential(layer, nn.ReLU())})
    run_factors(model)
    assert isinstance(model["first"], Blocks)
    assert model["deep"][0] is model["first"]


def test_a_single_layer_comes_back_as_its_replacement():
    assert isinstance(optimized(masked(nn.Linear(1000, 1000), 1.0, 1.0, 0.01)), CompressedRows)
    plain = nn.Linear(10, 10)
    assert optimized(plain) is plain
    whole = optimized(decompose(nn.Linear(10, 10)))
    assert type(whole) is nn.Linear
    assert not parametrize.is_parametrized(whole)


def test_layers_that_do_more_than_multiply_stay(monkeypatch):
    free(monkeypatch)
    hooked, normed = (masked(nn.Linear(30, 30), 1.0, 0.5, 1.0) for _ in range(2))
    hooked.register_forward_hook(lambda layer, args, output: output + 1)
    nn.utils.parametrizations.weight_norm(normed)
    encoder = nn.TransformerEncoderLayer(30, 2, 60, batch_first=True).eval()
    for layer in (encoder.linear1, encoder.linear2):
        masked(layer, 0.5, 0.5, 1.0)
    model = nn.Sequential(hooked, normed, encoder).eval()
    x = torch.rand(2, 3, 30)
    with torch.no_grad():
        expected = model(x)
        layers = list(model.modules())
        optimized(model)
        assert [a is b for a, b in zip(model.modules(), layers, strict=True)] == [True] * len(layers)
        assert same(model(x), expected, 1e-6)


def test_networks_without_plain_layers_are_folded_only():
    model = decompose(nn.ModuleList([nn.Embedding(7, 4), nn.MultiheadAttention(4, 2), nn.Conv1d(2, 3, 3)]))
    weights = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    optimized(model)
    assert not decomposed(model)
    assert torch.equal(model[0].weight, weights[0])
    assert torch.equal(model[2].weight, weights[1])


def test_modes_and_random_state_stay(monkeypatch):
    free(monkeypatch)
    model = nn.Sequential(factored(nn.Linear(60, 60), 2).eval(), masked(nn.Linear(60, 60), 0.5, 0.5, 1.0).train())
    state = torch.get_rng_state()
    optimized(model)
    assert [layer.training for layer in model] == [False, True]
    assert all(isinstance(layer, Blocks) and not any(p.requires_grad for p in layer.parameters()) for layer in model)
    assert torch.equal(torch.get_rng_state(), state)


def test_beta_warning_is_silenced_here_only():
    program = """
import torch, warnings
from art_atmc.inference.layers import CompressedRows
filters = list(warnings.filters)
layer = CompressedRows(torch.eye(3), None)
layer(torch.ones(2, 3))
layer(torch.ones(2, 3, requires_grad=True)).sum().backward()
assert warnings.filters == filters
"""
    subprocess.run([sys.executable, "-W", "error:Sparse CSR", "-c", program], check=True)


def test_multiply_adds_are_those_of_torch(monkeypatch):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, padding=1),
        nn.Conv2d(8, 12, 3, groups=4, dilation=2),
        nn.ConvTranspose2d(12, 6, 2, stride=2, groups=2),
        nn.Flatten(2),
        nn.Conv1d(6, 4, 3),
        nn.Linear(62, 5),
        nn.Unflatten(1, (1, 4, 1)),
        nn.Conv3d(1, 2, (1, 1, 2)),
    )
    x = torch.rand(1, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        model(x)
    counts = multiply_adds(model, x)
    assert list(counts) == [f"{i}.weight" for i in (0, 1, 2, 4, 5, 7)]
    assert 2 * sum(count.dense for count in counts.values()) == counter.get_total_flops()
    assert all(count.sparse == count.dense for count in counts.values())
    assert multiply_adds(model, torch.rand(3, 3, 16, 16)) == counts


def test_multiply_adds_count_non_zeros_of_factors_and_no_identity():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(4 * 16, 10))
    dense = {"0.weight": 16 * 72, "1.weight": 16 * 8, "3.weight": 640}
    assert multiply_adds(model, torch.zeros(1, 2, 6, 6)) == {n: MultiplyAdds(d, d) for n, d in dense.items()}
    decompose(model)
    assert multiply_adds(model, torch.zeros(1, 2, 6, 6)) == {n: MultiplyAdds(d, d) for n, d in dense.items()}
    with torch.no_grad():
        for layer in (model[0], model[1], model[3]):
            U, V, C = layer.parametrizations.weight.parameters()
            V.zero_()
            V[0, :2] = 1.0
            U[1, 0] = 1.0
            C[0, 0] = 1.0
    counts = multiply_adds(model, torch.zeros(1, 2, 6, 6))
    C_entries = 9
    assert counts["0.weight"].sparse == 16 * (2 + 1 + C_entries)
    # W of the tall grouped layer is U (I + V) + C with V = (1 1; 0 0): only the folded weight can be run.
    assert counts["1.weight"].sparse == 16 * int(model[1].weight.count_nonzero())
    assert counts["3.weight"].sparse == 2 + 1 + 1


def test_multiply_adds_count_the_weight_of_other_parametrizations():
    layer = masked(nn.Linear(4, 3), 1.0, 0.5, 1.0)
    weight_norm = nn.utils.parametrizations.weight_norm(layer)
    count = MultiplyAdds(12, int(weight_norm.weight.count_nonzero()))
    assert count.sparse < 12
    assert multiply_adds(layer, torch.zeros(1, 4)) == {"weight": count}


def test_multiply_adds_sum_over_uses_and_leave_out_the_rest():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(6, 4)
            self.attention = nn.MultiheadAttention(4, 2)
            self.twice = nn.Linear(4, 4)
            self.tied = nn.Linear(4, 4)
            self.tied.weight = self.twice.weight
            self.never = nn.Linear(4, 4)
            self.kernel = nn.ConvTranspose1d(4, 2, 3)

        def forward(self, tokens):
            x = self.embedding(tokens)
            x = self.tied(self.twice(self.twice(self.attention(x, x, x)[0])))
            return self.kernel(input=x.mT)

    assert multiply_adds(Shared(), torch.zeros(1, 5, dtype=torch.long)) == {
        "twice.weight": MultiplyAdds(3 * 5 * 16, 3 * 5 * 16),
        "kernel.weight": MultiplyAdds(5 * 24, 5 * 24),
    }


def test_counting_leaves_the_model_as_it_was():
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1  # type: ignore[assignment]
            return x + torch.rand(())

    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        Restless(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(64, 2),
        nn.BatchNorm1d(2),
    )
    model[1].eval()
    modes = [m.training for m in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    multiply_adds(model, torch.zeros(1, 1, 6, 6))
    with pytest.raises(RuntimeError, match="shape"):
        multiply_adds(model, torch.zeros(1, 1, 7, 7))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_factors_without_products_are_folded():
    """U is empty, so (I + U) V is V, and there is nothing to run one after another."""
    layer = decompose(nn.Linear(40, 10))
    with torch.no_grad():
        layer.parametrizations.weight.original1[:, 25:] = 0
    assert run_factors(layer) is layer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_optimized_layers_run_under_autocast(dtype):
    """Compressed rows, and blocks whose outputs are spread among the biases."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1500, 1500), nn.ReLU(), nn.Linear(1500, 1500))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand_like(model[0].weight) < 0.001)  # type: ignore[arg-type]
        model[2].weight[100:].zero_()
    small = optimized(copy.deepcopy(model))
    assert (type(small[0]), type(small[2])) == (CompressedRows, Blocks)
    x = torch.rand(4, 1500, requires_grad=True)
    gradients: list[Tensor] = []
    outputs: list[Tensor] = []
    for network in (model, small):
        with torch.autocast("cpu", dtype):
            out = network(x)
        outputs.append(out.float())
        gradients += torch.autograd.grad(out.float().sum(), x)
    assert torch.allclose(*outputs, atol=0.02)  # type: ignore[arg-type, misc]
    assert torch.allclose(*gradients, atol=0.02)  # type: ignore[arg-type, misc]
