"""Compressed files of networks that are no classifiers, of ensembles, and of unusual modules; what is refused early."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from mutants import samples
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from art_atmc import PGD, ATMCTrainer, CompressedModel, Quantization, Sparsity, compressible, decompose
from art_atmc.files.encodable import check_encodable
from art_atmc.networks import digits_cnn

CONSTRAINTS = [Sparsity(density=0.2), Quantization(bits=2)]


def seeded(build):
    torch.manual_seed(0)
    return build()


def obeying(model, constraints=CONSTRAINTS, ignore=()):
    """``model``, perturbed and projected."""
    weights = compressible(model, ignore)
    with torch.no_grad():
        for tensor in weights.values():
            tensor.add_(0.05 * torch.randn_like(tensor))
    for constraint in constraints:
        weights.assign_(constraint.project(weights))
    return model


def assert_same_state(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def classifier_of(model, input_shape=(1, 8, 8), **options):
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), input_shape, 10, **{"clip_values": (0.0, 1.0), "device_type": "cpu"} | options
    )


class Generator(nn.Module):
    """Images to images."""

    def __init__(self):
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.InstanceNorm2d(6, affine=True)
        self.up = nn.ConvTranspose2d(6, 3, 4, stride=2, padding=1)

    def forward(self, x):
        return torch.tanh(self.up(self.norm(self.down(x)).relu()))


class Ensemble(nn.Module):
    """A weighted sum of logits."""

    weights: torch.Tensor

    def __init__(self, members, weights):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, x):
        return sum(w * member(x) for w, member in zip(self.weights, self.members, strict=True))


@pytest.mark.parametrize("factored", [False, True])
def test_generator_is_a_file_without_a_classifier(tmp_path, factored):
    model = obeying(decompose(seeded(Generator)) if factored else seeded(Generator))
    CompressedModel.of(model, CONSTRAINTS, input_shape=(3, 16, 16)).save(tmp_path / "g.atmc")
    small = CompressedModel.load(tmp_path / "g.atmc")
    assert_same_state(small.restore(Generator()).state_dict(), model.state_dict())
    small.verify()
    small.verify(Generator())
    assert small.input_shape() == (3, 16, 16)
    by_name = {weight.name: weight for weight in small.report().weights}
    assert by_name["down.weight"].multiply_adds == 8 * 8 * 6 * 3 * 9
    with pytest.raises(ValueError, match="holds no classifier but another network"):
        small.classifier(Generator())


def test_codec_needs_no_shape_of_its_inputs():
    model = obeying(seeded(lambda: nn.Embedding(30, 8)))
    small = CompressedModel.of(model, CONSTRAINTS)
    assert_same_state(small.restore(nn.Embedding(30, 8)).state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"no input shape; make it with CompressedModel\.of\(\.\.\., input_shape="):
        small.input_shape()
    with pytest.raises(TypeError, match="`input_shape` is for modules"):
        CompressedModel.of(classifier_of(digits_cnn()), input_shape=(1, 8, 8))


@pytest.fixture
def ensemble(tmp_path):
    """Three digits networks under constraints of their own, their sum, and its file."""
    bits = (1, 2, 4)
    members, files = [], {}
    for i, width in enumerate(bits):
        torch.manual_seed(i)
        constraints = [Sparsity(0.1), Quantization(width)]
        members.append(obeying(decompose(digits_cnn()) if i else digits_cnn(), constraints))
        files[f"members.{i}"] = CompressedModel.of(
            classifier_of(members[-1]), constraints, network="digits-cnn", metrics={"stage": i}
        )
    model = Ensemble(members, [1.0, 0.5, 0.25]).requires_grad_(False)
    CompressedModel.of(classifier_of(model), [Sparsity(0.1)], members=files).save(tmp_path / "e.atmc")
    return model, files, tmp_path / "e.atmc"


def test_ensemble_is_one_file_and_gives_its_members_back(ensemble):
    model, files, path = ensemble
    small = CompressedModel.load(path)
    small.verify()
    fresh = Ensemble([digits_cnn() for _ in range(3)], [0.0, 0.0, 0.0])
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(small.classifier(fresh).predict(x), classifier_of(model).predict(x))
    assert list(small.manifest.members) == list(files)
    for name, one in files.items():
        member = small.member(name)
        assert member.manifest == one.manifest
        assert member.manifest.metrics == {"stage": int(name[-1])}
        member.verify()
        assert_same_state(member.restore().state_dict(), one.restore().state_dict())
        assert member.report().totals["payload_bytes"] == one.report().totals["payload_bytes"]
    assert small.file_bytes < sum(one.file_bytes for one in files.values())
    with pytest.raises(KeyError, match=r"no member 'members\.3'; there are members\.0, members\.1, members\.2"):
        small.member("members.3")


def test_what_members_leave_alone_is_no_weight_of_the_whole(tmp_path):
    constraints = [Sparsity(0.2)]
    members = [obeying(seeded(Net), constraints, ["head"]) for _ in range(2)]
    files = {f"members.{i}": CompressedModel.of(one, constraints, ignore=["head"]) for i, one in enumerate(members)}
    inner = Ensemble(members, [1.0, 1.0])
    CompressedModel.of(inner, constraints, members=files).save(tmp_path / "a.atmc")
    small = CompressedModel.load(tmp_path / "a.atmc")
    small.verify(Ensemble([Net(), Net()], [0.0, 0.0]))
    assert small.index.compressed == ["members.0.fc.weight", "members.1.fc.weight"]
    whole = CompressedModel.of(
        Ensemble([inner], [1.0]), constraints, members={"members.0": small}
    )  # one within another
    whole.verify(Ensemble([Ensemble([Net(), Net()], [0.0, 0.0])], [0.0]))
    whole.member("members.0").member("members.1").verify(Net())


def test_members_that_changed_are_refused(ensemble):
    model, files, _ = ensemble
    exchanged = dict(zip(files, reversed(files.values()), strict=True))
    with pytest.raises(ValueError, match=r"the member `members\.0` is not the module of that name"):
        CompressedModel.of(classifier_of(model), members=exchanged)
    with torch.no_grad():
        model.members[1].layers.fc2.bias.add_(1)
    with pytest.raises(ValueError, match=r"the member `members\.1` is not the module"):
        CompressedModel.of(classifier_of(model), members=files)


def test_member_that_breaks_its_constraints_is_noticed(ensemble):
    small = CompressedModel.load(ensemble[2])
    first = small.manifest.members["members.0"].model_copy(update={"constraints": ["Sparsity(density=0.001)"]})
    manifest = small.manifest.model_copy(update={"members": small.manifest.members | {"members.0": first}})
    with pytest.raises(ValueError, match=r"do not obey Sparsity\(density=0\.001\)"):
        CompressedModel(manifest, small.index, small.tensors).verify()


# Certificates


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
        self.register_buffer("table", torch.ones(3, 3))

    def forward(self, x):
        return self.head(self.fc(x.flatten(1)).relu())


def lying(model, **changes):
    """The file of a dense network whose index and manifest say otherwise."""
    honest = CompressedModel.of(model)
    fields = {field: changes.pop(field) for field in ("compressed",) if field in changes}
    return CompressedModel(
        honest.manifest.model_copy(update=changes), honest.index.model_copy(update=fields), honest.tensors
    )


@pytest.mark.parametrize("compressed", [[], ["fc.bias"], ["head.weight"], ["fc.bias", "head.bias"]])
def test_dense_network_gets_no_certificate(compressed):
    model = Net()
    with torch.no_grad():
        model.fc.bias.zero_()
        model.head.bias.zero_()
        model.head.weight.zero_()
    forged = lying(model, compressed=compressed, constraints=["Sparsity(density=0.01)"])
    for module in (None, Net()):
        with pytest.raises(ValueError, match=r"not applied to .*'fc\.weight'.*do not trust"):
            forged.verify(module)


def test_buffers_of_two_dimensions_are_known_by_the_module():
    honest = CompressedModel.of(obeying(Net()), CONSTRAINTS)
    honest.verify(Net())
    with pytest.raises(ValueError, match=r"not applied to \['table'\].*verify\(module\) would see"):
        honest.verify()


def test_ignored_layers_are_the_manifests():
    honest = CompressedModel.of(obeying(digits_cnn(), ignore=["layers.fc*"]), CONSTRAINTS, ignore=["layers.fc*"])
    honest.verify()
    forged = honest.manifest.model_copy(update={"ignore": []})
    with pytest.raises(ValueError, match=r"not applied to \['layers\.fc1\.weight', 'layers\.fc2\.weight'\]"):
        CompressedModel(forged, honest.index, honest.tensors).verify()


def test_repeated_constraints_are_checked_once(monkeypatch):
    calls = []
    monkeypatch.setattr(Sparsity, "violation", lambda self, weights: calls.append(self) or 0.0)
    small = CompressedModel.of(obeying(digits_cnn()), [])
    manifest = small.manifest.model_copy(update={"constraints": ["Sparsity(density=1.0)"] * 100})
    CompressedModel(manifest, small.index, small.tensors).verify()
    assert len(calls) == 1


# Unusual modules


def test_repr_is_one_line():
    size = f"{len(samples()[0].payload):,}"
    expected = f"<CompressedModel: 13 tensors in {size} bytes, Sparsity(density=0.2), Quantization(bits=2)>"
    assert repr(samples()[0].model) == expected
    assert len(repr(samples()[0].model.tensors)) < 3000


@pytest.mark.parametrize("bits", [1, 3, 7, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_rounding_is_to_the_nearest(bits, dtype):
    from art_atmc.files.words import FIELDS, rounded

    torch.manual_seed(0)
    numbers = torch.randn(2000, dtype=torch.float64).mul(torch.logspace(-4, 4, 2000)).to(dtype)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, torch.finfo(dtype).max], dtype=dtype)
    result = rounded(numbers, bits)
    if bits >= FIELDS[dtype][1]:
        assert torch.equal(result, numbers)
        return
    mantissa, exponent = torch.frexp(numbers.double())
    scale = 2.0 ** (bits + 1)
    normal = numbers.double().abs() >= torch.finfo(dtype).tiny
    expected = torch.ldexp((mantissa * scale).round() / scale, exponent)  # round() takes ties to even
    assert torch.equal(result.double()[normal], expected[normal])
    assert torch.equal(rounded(special, bits).isnan(), special.isnan())
    assert torch.equal(rounded(special, bits).nan_to_num(), special.nan_to_num())


def test_bfloat16_is_seven_bits():
    numbers = torch.randn(1000)
    from art_atmc.files.words import rounded

    assert torch.equal(rounded(numbers, 7), numbers.bfloat16().float())


def test_rounding_makes_the_file_smaller_and_touches_no_weight():
    model = obeying(digits_cnn())
    whole = CompressedModel.of(classifier_of(model), CONSTRAINTS)
    small = CompressedModel.of(classifier_of(model), CONSTRAINTS, mantissa_bits=7)
    assert whole.file_bytes - small.file_bytes > 350
    for name, tensor in small.decoded().items():
        before = model.state_dict()[name]
        assert torch.equal(tensor, before if name.endswith("weight") else before.bfloat16().float())
    with pytest.raises(ValueError, match="`mantissa_bits` must be from 1 to 52, got 53"):
        CompressedModel.of(model, mantissa_bits=53)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
@pytest.mark.parametrize("factored", [False, True])
def test_empty_layers_are_stored(shape, factored, tmp_path):
    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, shape[0]), nn.Linear(*shape), nn.Linear(shape[1], 10))

    model = obeying(decompose(seeded(build)) if factored else seeded(build))
    check_encodable(model)
    CompressedModel.of(classifier_of(model), CONSTRAINTS).save(tmp_path / "a.atmc")
    small = CompressedModel.load(tmp_path / "a.atmc")
    assert_same_state(small.restore(build()).state_dict(), model.state_dict())
    str(small.report())
    x = torch.rand(3, 64)
    torch.testing.assert_close(small.restore(build(), optimize=True)(x), model.eval()(x))


@pytest.mark.parametrize(
    "wrap", [parametrizations.spectral_norm, parametrizations.weight_norm, pytest.param(weight_norm, id="old")]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_parametrized_layers_that_stay_dense_are_stored(wrap, tmp_path):
    def build():
        return nn.Sequential(nn.Flatten(), wrap(nn.Linear(64, 20)), nn.Linear(20, 10))

    model = obeying(seeded(build).train(), ignore=["1"])
    before = copy.deepcopy(model.state_dict())
    check_encodable(model, ["1"])
    CompressedModel.of(classifier_of(model), CONSTRAINTS, ignore=["1"]).save(tmp_path / "a.atmc")
    small = CompressedModel.load(tmp_path / "a.atmc")
    assert_same_state(model.state_dict(), before)  # spectral norm iterates wherever the weight is read in training
    assert_same_state(small.restore(build()).state_dict(), before)
    x = torch.rand(3, 64)
    assert torch.equal(small.restore(build()).eval()(x), model.eval()(x))
    small.verify(build())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_in_no_name(wrap, factored, part):
    def wrapped(model):
        if not part:
            return wrap(model)
        model.fc = wrap(model.fc)
        return model

    plain = obeying(decompose(seeded(Net)) if factored else seeded(Net))
    expected = CompressedModel.of(plain, CONSTRAINTS)
    network = wrapped(copy.deepcopy(plain))
    small = CompressedModel.of(network, CONSTRAINTS)
    assert (small.manifest, small.index, small.tensors) == (expected.manifest, expected.index, expected.tensors)
    assert_same_state(small.restore(Net()).state_dict(), plain.state_dict())
    again = wrapped(decompose(Net()) if factored else Net())
    assert_same_state(expected.restore(again).state_dict(), network.state_dict())


def test_patterns_of_wrapped_names_are_kept_plain():
    model = seeded(Net)
    model.head = nn.DataParallel(model.head)
    small = CompressedModel.of(obeying(model, ignore=["head.module"]), CONSTRAINTS, ignore=["head.module"])
    assert small.manifest.ignore == ["head"]
    assert small.index.compressed == ["fc.weight"]
    small.verify(Net())


def test_frozen_networks_are_stored():
    model = obeying(Net()).requires_grad_(False)
    CompressedModel.of(model, CONSTRAINTS).verify(Net())
    assert not any(p.requires_grad for p in model.parameters())


def test_numbers_of_numpy_are_metrics():
    metrics = {"accuracy": np.float64(0.5), "seeds": (np.int64(1), 2), "each": np.ones(2), "flag": np.bool_(True)}
    small = CompressedModel.of(Net(), metrics=metrics)  # type: ignore[arg-type]
    assert small.manifest.metrics == {"accuracy": 0.5, "seeds": [1, 2], "each": [1.0, 1.0], "flag": True}


def test_a_module_may_call_something_else_groups():
    class Grouped(nn.Linear):
        groups = (1, 2)

    model = nn.Sequential(Grouped(3, 2), nn.ReLU())
    assert CompressedModel.of(model).restore(nn.Sequential(Grouped(3, 2), nn.ReLU())) is not None


def test_multiply_adds_of_grouped_convolutions_are_those_of_the_layer(tmp_path):
    from art_atmc.inference import multiply_adds

    model = obeying(decompose(seeded(lambda: nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 4, 3)))))
    CompressedModel.of(model, CONSTRAINTS, input_shape=(8, 9, 9)).save(tmp_path / "a.atmc")
    small = CompressedModel.load(tmp_path / "a.atmc")
    expected = multiply_adds(model, torch.zeros(1, 8, 9, 9))
    for weight in small.report().weights:
        assert (weight.multiply_adds, weight.sparse_multiply_adds) == (
            expected[weight.name].dense,
            expected[weight.name].sparse,
        )


def test_factors_that_are_not_finite_have_no_rank():
    model = decompose(nn.Linear(6, 5))
    with torch.no_grad():
        for tensor in compressible(model).values():
            tensor.fill_(torch.nan)
    [weight] = CompressedModel.of(model).report().weights
    assert weight.rank is None


def test_dense_bytes_count_ties_once():
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    model[1].weight = model[0].weight
    small = CompressedModel.of(model)
    assert small.dense_bytes == 4 * (81 + 9 + 9)
    assert CompressedModel.of(decompose(Net())).dense_bytes == 4 * sum(t.numel() for t in Net().state_dict().values())


@pytest.mark.parametrize("build", [Net, Generator, digits_cnn, lambda: decompose(nn.Conv2d(2, 3, 1)), nn.BatchNorm1d])
def test_size_of_the_dense_file_is_that_of_safetensors(build):
    import safetensors.torch

    model = nn.Sequential(build(3) if build is nn.BatchNorm1d else build(), nn.Linear(2, 2))
    small = CompressedModel.of(model)
    assert small.report().dense_file_bytes == len(safetensors.torch.save(small.state_dict()))


# A rehearsal on the untrained network


class Odd(nn.Module):
    """All that a file can't hold, in one network."""

    def __init__(self):
        super().__init__()
        self.lazy = nn.LazyLinear(4)
        self.fc = nn.Linear(4, 4)
        self.register_buffer("wave", torch.zeros(3, dtype=torch.complex64))
        self.register_buffer("few", torch.eye(3).to_sparse())

    def get_extra_state(self):
        return {"key": 1}


def test_rehearsal_names_all_offences_at_once():
    with pytest.raises(ValueError, match="the network can't be stored:") as caught:
        check_encodable(Odd(), metrics={"model": nn.Linear(1, 1), "fine": np.float32(1)})
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert len(lines) == 6
    for name, remedy in {
        "`lazy.weight`": "run one batch",
        "`lazy.bias`": "run one batch",
        "`wave`": "is of type torch.complex64",
        "`few`": "make it dense",
        "`_extra_state`": "keep it in a buffer",
        "`metrics['model']`": "as JSON has them",
    }.items():
        assert any(name in line and remedy in line for line in lines), name
    check_encodable(Net(), metrics={"fine": np.float32(1)})


def test_rehearsal_counts_the_names_that_factors_will_have(tmp_path):
    model = Holder({("x" * 1000) + str(i): nn.Linear(2, 2) for i in range(150)})
    check_encodable(model)
    CompressedModel.of(model).save(tmp_path / "a.atmc")
    with pytest.raises(ValueError, match="the names of its 600 tensors are longer than"):
        check_encodable(model, decompose=True)
    with pytest.raises(ValueError, match="the names of its 600 tensors are longer than"):
        CompressedModel.of(decompose(model))


class Holder(nn.Module):
    def __init__(self, modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def test_trainer_rehearses_before_it_trains():
    class Extra(Net):
        def get_extra_state(self):
            return {}

    for build in (Net, Extra):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        classifier = classifier_of(model, optimizer=optimizer)
        if build is Net:
            ATMCTrainer(classifier, PGD(0.1, 0.1, 1), CONSTRAINTS)
        else:
            with pytest.raises(ValueError, match="`_extra_state` is a dict, no tensor"):
                ATMCTrainer(classifier, PGD(0.1, 0.1, 1), CONSTRAINTS)


def test_rehearsal_asks_what_the_file_would_be_refused_for():
    """Whatever it lets pass is stored, whatever it refuses is not."""
    for build in (Net, Generator, digits_cnn, lambda: nn.TransformerEncoderLayer(8, 2, 16)):
        for factored in (False, True):
            model = seeded(build)
            check_encodable(model, decompose=factored)
            CompressedModel.of(decompose(model) if factored else model)
    with pytest.raises(ValueError, match="can't be stored"):
        CompressedModel.of(Odd(), ignore=["lazy"])


def test_rehearsal_changes_nothing():
    model = seeded(digits_cnn).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    check_encodable(model, decompose=True)
    assert_same_state(model.state_dict(), before)
    assert not any(p.requires_grad for p in model.parameters())
