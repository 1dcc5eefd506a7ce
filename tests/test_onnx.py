"""The ONNX export: bit-exact weights, torch's outputs, standard operators, small."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from art_atmc import CompressedModel, Quantization, Sparsity, compressible, decompose
from art_atmc.networks import digits_cnn, lenet

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from art_atmc.files.onnx import export  # noqa: E402
from art_atmc.files.onnx_constants import compact  # noqa: E402


def run(path_or_bytes, **inputs):
    session = onnxruntime.InferenceSession(path_or_bytes, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def returned(tensor):
    """A graph that returns its one initializer."""
    kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
    output = helper.make_tensor_value_info("y", kind, tensor.shape)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [numpy_helper.from_array(tensor, "w")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def assert_comes_back(tensor):
    proto = compact(returned(tensor))
    onnx.checker.check_model(proto, full_check=True)
    [found] = run(proto.SerializeToString())
    assert found.dtype == tensor.dtype
    assert found.shape == tensor.shape
    assert found.tobytes() == tensor.tobytes()
    return proto


def coded(shape, density, codes, seed=0):
    rng = np.random.default_rng(seed)
    book = rng.standard_normal(codes).astype(np.float32)
    return np.where(rng.random(shape) < density, rng.choice(book, shape), np.float32(0)).astype(np.float32)


@given(
    st.sampled_from([(3000,), (40, 70), (10, 8, 5, 5)]),
    st.floats(0, 1),
    st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 5000]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_weight_comes_back_bit_for_bit(shape, density, codes, seed):
    assert_comes_back(coded(shape, density, codes, seed))


@pytest.mark.parametrize(
    ("places", "count"),
    [
        ([0], 1000),
        ([999], 1000),
        ([0, 15, 30, 45, 61, 999], 1000),
        ([14, 15, 254, 255, 510, 765, 1021], 2000),
        ([0, 65_535, 131_070, 199_999], 200_000),
        (list(range(700, 1000)), 1000),
    ],
    ids=["first", "last", "half bytes", "bytes", "two bytes", "clustered"],
)
def test_steps_at_the_borders_come_back(places, count):
    weight = np.zeros(count, np.float32)
    weight[places] = np.arange(1, len(places) + 1)
    assert len(assert_comes_back(weight).SerializeToString()) < weight.nbytes * 2 / 3


@pytest.mark.parametrize(
    "tensor",
    [
        np.full((20, 30), -0.0, np.float32),
        np.where(np.arange(600) == 7, np.float32(-0.0), np.float32(0)),
        coded((2000,), 0.01, 5) + np.where(np.arange(2000) == 3, np.float32(np.nan), np.float32(0)),
        np.arange(400),
        np.arange(400) - 5,
        np.arange(400) * 10**6,
        np.ones(3, np.float32),
        np.zeros(0, np.float32),
    ],
    ids=["minus zeros", "minus zero", "nan", "indices", "negative", "large", "small", "empty"],
)
def test_unusual_constants_come_back(tensor):
    assert_comes_back(tensor)


@pytest.mark.parametrize(
    ("density", "codes", "operators", "at_most"),
    [
        (0.0, 1, {"ConstantOfShape"}, 200),
        (1.0, 16, {"Cast", "Gather", "Reshape"}, 20_000 / 2 + 64 + 400),
        (1.0, 200, {"Cast", "Gather", "Reshape"}, 20_000 + 800 + 400),
        (0.01, 16, {"CumSum", "ScatterElements", "Gather"}, 200 * 1.5 * 1.4 + 64 + 600),
        (0.05, 20_000, {"CumSum", "ScatterElements"}, 1000 * 5 * 1.3 + 600),
        (1.0, 20_000, set(), 80_000 + 200),
    ],
)
def test_form_is_the_smallest(density, codes, operators, at_most):
    proto = compact(returned(coded((100, 200), density, codes)))
    assert operators <= {node.op_type for node in proto.graph.node}
    assert len(proto.SerializeToString()) <= at_most


class Mixed(nn.Module):
    """Strides, groups, padding, normalisation and a residual: what exporters stumble over."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.head = nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return self.head((x + self.grouped(x)).flatten(1))


class Sequence(nn.Module):
    """Linear layers and attention on sequences, whose weights exporters transpose, and parameters of common names."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(32, 128)
        self.attention = nn.MultiheadAttention(128, 4, batch_first=True)
        self.head = nn.Linear(128, 10)
        for name in ("zero", "first", "last", "U0", "sum0"):
            self.register_parameter(name, nn.Parameter(torch.linspace(1, 2, 10)))

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return (self.head(x.mean(1)) * self.zero + self.first) * self.last + self.U0 * self.sum0


def compressed(model, input_shape, *, factored=True, spread=0.02, density=0.05, bits=4, network=None):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    model = decompose(model) if factored else model
    weights = compressible(model)
    with torch.no_grad():
        for tensor in weights.values():
            tensor.add_(spread * torch.randn_like(tensor))
    constraints = [Sparsity(density), Quantization(bits)]
    for constraint in constraints:
        weights.assign_(constraint.project(weights))
    options = {"clip_values": (0, 1), "device_type": "cpu"}
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), input_shape, 10, **options)
    return CompressedModel.of(classifier, constraints, network=network)


def low_rank(model):
    """Few rows of V, of which U makes many, no C: cheaper as two layers."""
    model = decompose(model)
    with torch.no_grad():
        for layer in ("conv2", "fc1"):
            weights = compressible(model)
            weights[f"layers.{layer}.weight.V"][6:] = 0
            weights[f"layers.{layer}.weight.U"][:, :6] = 0.1
    return model


CASES = {
    "lenet": lambda: (compressed(lenet(), (1, 28, 28), network="lenet"), lenet),
    "lenet, no U and C": lambda: (compressed(lenet(), (1, 28, 28), spread=0, density=0.01), lenet),
    "lenet, plain": lambda: (compressed(lenet(), (1, 28, 28), factored=False), lenet),
    "mixed": lambda: (compressed(Mixed(), (1, 8, 8), density=0.2, bits=8), Mixed),
    "sequence": lambda: (compressed(Sequence(), (16, 32), density=0.2, bits=8), Sequence),
    "low rank": lambda: (compressed(low_rank(digits_cnn()), (1, 8, 8), spread=0, density=0.9), digits_cnn),
}


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def exported(request, tmp_path_factory):
    small, make = CASES[request.param]()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    module = make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export(small, path, module=module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    return small, make, path


@pytest.mark.parametrize("batch_size", [1, 5])
def test_outputs_are_those_of_torch(exported, batch_size):
    small, make, path = exported
    x = torch.rand(batch_size, *small.manifest.input_shape)
    with torch.no_grad():
        expected = small.restore(make())(x)
    [found] = run(path, input=x.numpy())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5 * float(expected.abs().max()))


def test_graph_is_standard_and_bare(exported):
    proto = onnx.load(exported[2])
    assert {node.domain for node in proto.graph.node} == {""}
    assert [entry.domain for entry in proto.opset_import] == [""]
    assert not proto.metadata_props
    assert not proto.graph.value_info
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert b"/" not in proto.producer_name.encode()
    assert [value.name for value in proto.graph.input] == ["input"]
    assert [value.name for value in proto.graph.output] == ["output"]


def test_file_is_small(exported, tmp_path):
    small, _, path = exported
    assert path.stat().st_size <= 1.9 * small.save(tmp_path / "model.atmc") + 2000


def test_factors_run_where_that_is_cheaper_and_form_the_weight_elsewhere(exported, request):
    small, _, path = exported
    nodes = onnx.load(path).graph.node
    if "low rank" in request.node.name:
        products = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
        running = [node for node in products if not node.output[0].startswith(".")]  # the others form weights
        assert len(running) == 4 + 2  # convolutions and linear layers, and a second one for each that runs its factors
    else:
        assert {output for node in nodes for output in node.output} >= set(small.index.factored)


def test_dense_export_holds_plain_weights(tmp_path):
    small, make = CASES["sequence"]()
    export(small, tmp_path / "dense.onnx", module=make(), dense=True)
    proto = onnx.load(tmp_path / "dense.onnx")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name, parameter in small.restore(make()).named_parameters():
        if "parametrizations" not in name:
            np.testing.assert_array_equal(weights[name], parameter.detach())
    for name in small.index.factored:
        np.testing.assert_array_equal(weights[name], small.state_dict()[name])
    assert not {"CumSum", "ScatterElements"} & {node.op_type for node in proto.graph.node}
    x = np.random.default_rng(0).random((3, *small.manifest.input_shape), np.float32)
    with torch.no_grad():
        expected = small.restore(make())(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(tmp_path / "dense.onnx", input=x)[0], expected, atol=1e-5)


def test_runtime_folds_the_weights_when_it_loads(exported, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    onnxruntime.InferenceSession(exported[2], options, providers=["CPUExecutionProvider"])
    folded = onnx.load(tmp_path / "folded.onnx")
    assert not {"CumSum", "ScatterElements", "Where"} & {node.op_type for node in folded.graph.node}


def small_linear():
    def make():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    return compressed(make(), (1, 8, 8)), make


def test_export_says_nothing(tmp_path, capfd):
    small, make = small_linear()
    export(small, tmp_path / "model.onnx", module=make())
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    small, make = small_linear()

    def broken(proto):
        for tensor in proto.graph.initializer:
            if tensor.name.endswith(".bias"):
                tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, 9, np.float32), tensor.name))
        return proto

    monkeypatch.setattr("art_atmc.files.onnx_constants.compact", broken)
    with pytest.raises(RuntimeError, match="outputs are .* from the network.s.* export the state dict instead"):
        export(small, tmp_path / "model.onnx", module=make())
    assert not (tmp_path / "model.onnx").exists()


class Colour(nn.Module):
    """A convolution and a linear layer on three channels, or on features."""

    def __init__(self, features=False):
        super().__init__()
        self.body = nn.Linear(12, 8) if features else nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.body(x).relu())


STANDARDISED = {
    "numbers": ((3, 3, 3), False, (0.4, 0.25)),
    "channels": ((3, 3, 3), False, ([0.1, 0.5, 0.9], [0.5, 0.25, 2.0])),
    "features": ((12,), True, (np.linspace(0, 1, 12), np.linspace(1, 2, 12))),
}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("case", STANDARDISED)
def test_graph_computes_what_predict_does(case, dense, tmp_path):
    shape, features, preprocessing = STANDARDISED[case]
    torch.manual_seed(0)
    options = {"clip_values": (0, 1), "device_type": "cpu", "preprocessing": preprocessing}
    model = decompose(Colour(features))
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, 10, **options)
    small = CompressedModel.of(classifier)
    export(small, tmp_path / "a.onnx", module=Colour(features), dense=dense)
    x = np.random.default_rng(0).random((5, *shape), np.float32)
    expected = classifier.predict(x)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", input=x)[0], expected, atol=1e-5, rtol=1e-5)
    export(small, tmp_path / "bare.onnx", module=Colour(features), dense=dense, preprocessing=False)
    bare = run(tmp_path / "bare.onnx", input=x)[0]
    assert np.abs(bare - expected).max() > 0.01
    with torch.no_grad():
        np.testing.assert_allclose(bare, model.eval()(torch.from_numpy(x)), atol=1e-5, rtol=1e-5)


def test_defences_are_refused_unless_left_out(tmp_path):
    from art.defences.postprocessor import Rounded
    from art.defences.preprocessor import SpatialSmoothing

    for defences in (
        {"preprocessing_defences": [SpatialSmoothing(channels_first=True)]},
        {"postprocessing_defences": [Rounded(decimals=1)]},
    ):
        classifier = PyTorchClassifier(Colour(), nn.CrossEntropyLoss(), (3, 3, 3), 10, device_type="cpu", **defences)
        small = CompressedModel.of(classifier)
        with pytest.raises(ValueError, match=rf"made with \['{next(iter(defences))}'\], which no graph can hold"):
            export(small, tmp_path / "a.onnx", module=Colour())
        assert not (tmp_path / "a.onnx").exists()
        export(small, tmp_path / "a.onnx", module=Colour(), preprocessing=False)
        assert (tmp_path / "a.onnx").exists()
        (tmp_path / "a.onnx").unlink()


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_graphs_compute_in_float32(dtype, factored, tmp_path):
    torch.manual_seed(0)
    model = decompose(Colour().to(dtype)) if factored else Colour().to(dtype)
    small = CompressedModel.of(model, input_shape=(3, 3, 3))
    export(small, tmp_path / "a.onnx", module=Colour().to(dtype))
    x = np.random.default_rng(0).random((5, 3, 3, 3), np.float32)
    with torch.no_grad():
        expected = small.restore(Colour().to(dtype)).float()(torch.from_numpy(x))
    np.testing.assert_allclose(run(tmp_path / "a.onnx", input=x)[0], expected, atol=1e-5, rtol=1e-5)


class Ensemble(nn.Module):
    weights: torch.Tensor

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList([Colour(), Colour()])
        self.register_buffer("weights", torch.tensor([1.0, 0.5]))

    def forward(self, x):
        return sum(w * member(x) for w, member in zip(self.weights, self.members, strict=True))


def test_ensemble_is_one_graph(tmp_path):
    torch.manual_seed(0)
    model = Ensemble()
    decompose(model.members[1])
    members = {f"members.{i}": CompressedModel.of(member) for i, member in enumerate(model.members)}
    small = CompressedModel.of(model, members=members, input_shape=(3, 3, 3))
    export(small, tmp_path / "a.onnx", module=Ensemble())
    x = np.random.default_rng(0).random((5, 3, 3, 3), np.float32)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(x))
    np.testing.assert_allclose(run(tmp_path / "a.onnx", input=x)[0], expected, atol=1e-5, rtol=1e-5)


def test_other_suffixes_are_refused(tmp_path):
    small, make = small_linear()
    for name in ("model.pt", "model", "model.npz"):
        with pytest.raises(ValueError, match=rf"written to \.onnx, got .*{name}"):
            export(small, tmp_path / name, module=make())


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install 'art-atmc\[onnx\]'"):
        export(small_linear()[0], tmp_path / "model.onnx")


def test_kinds_hold_what_they_say():
    from art_atmc.files.onnx_constants import KINDS

    assert KINDS == {0.5: TensorProto.UINT4, 1: TensorProto.UINT8, 2: TensorProto.UINT16}
