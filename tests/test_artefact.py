"""The compressed model: made from a classifier, saved, loaded, and turned back into the same network."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.defences.preprocessor import SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from safetensors.torch import load_file
from torch import nn

from art_atmc import (
    ATMCTrainer,
    CompressedModel,
    Quantization,
    Sparsity,
    compressible,
    decompose,
    recompose,
)
from art_atmc.files.state_dict import export_npz, export_state_dict
from art_atmc.networks import digits_cnn, lenet

CONSTRAINTS = [Sparsity(density=0.1), Quantization(bits=4)]


def projected(model, constraints=CONSTRAINTS):
    weights = compressible(model)
    for constraint in constraints:
        weights.assign_(constraint.project(weights))
    return model


def spread(model, seed=0):
    """Factors of a network in training: the square one and C hold entries too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in compressible(model).values():
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model


def classifier_of(model, input_shape=(1, 8, 8), **options):
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"} | options
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), input_shape, 10, **settings)


def assert_same_state(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture
def trained():
    """A factored, sparse and coded digits network."""
    torch.manual_seed(0)
    return classifier_of(projected(spread(decompose(digits_cnn()))))


@pytest.fixture
def saved(trained, tmp_path):
    model = CompressedModel.of(trained, CONSTRAINTS, network="digits-cnn", metrics={"clean_accuracy": 0.98})
    model.save(tmp_path / "model.atmc")
    return tmp_path / "model.atmc"


def test_trainer_compresses_what_it_trained(make_classifier, digits):
    x, y = digits[0][:200], digits[1][:200]
    classifier = make_classifier()
    attack = FastGradientMethod(classifier, eps=0.1)
    trainer = ATMCTrainer(classifier, attack, CONSTRAINTS, verbose=False)
    trainer.fit(x, y, nb_epochs=2, batch_size=50)
    small = trainer.compress(metrics={"epochs": 2})
    assert small.manifest.constraints == ["Sparsity(density=0.1)", "Quantization(bits=4)"]
    assert small.manifest.metrics == {"epochs": 2}
    for constraint in CONSTRAINTS:
        assert constraint.violation(small.weights()) == 0
    robust = trainer.get_classifier()
    fresh = make_classifier(seed=1).model
    assert_same_state(small.restore(fresh).state_dict(), robust.model.state_dict())
    np.testing.assert_array_equal(small.classifier(fresh).predict(x), robust.predict(x))


def test_constraints_that_do_not_hold_are_named(trained):
    with torch.no_grad():
        next(iter(compressible(trained.model).values())).add_(0.01)
    with pytest.raises(ValueError, match=r"do not obey .*Quantization\(bits=4\).*fit\(\) ends"):
        CompressedModel.of(trained, CONSTRAINTS)
    with pytest.raises(ValueError, match=r"Sparsity\(density=0.001\)"):
        CompressedModel.of(trained, [Sparsity(0.001)])


def test_file_restores_bit_for_bit(trained, saved):
    loaded = CompressedModel.load(saved)
    assert_same_state(loaded.restore().state_dict(), trained.model.state_dict())
    assert not loaded.restore().training
    assert loaded.file_bytes == saved.stat().st_size
    assert loaded.manifest.metrics == {"clean_accuracy": 0.98}
    assert loaded.weights().dense_size == compressible(trained.model).dense_size
    loaded.save(saved.with_name("again.atmc"))
    assert saved.read_bytes() == saved.with_name("again.atmc").read_bytes()


def test_restored_network_may_be_factored_already(trained, saved):
    module = spread(decompose(digits_cnn()), seed=5)
    assert_same_state(CompressedModel.load(saved).restore(module).state_dict(), trained.model.state_dict())


def test_restore_leaves_the_random_state_alone(saved):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    CompressedModel.load(saved).restore()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types_are_kept(dtype):
    model = projected(lenet().to(dtype), [Sparsity(0.02)])
    small = CompressedModel.of(classifier_of(model, (1, 28, 28)), [Sparsity(0.02)])
    assert_same_state(small.restore(lenet().to(dtype)).state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"`layers.conv1.weight` is float32 .* in the module, "):
        small.restore(lenet())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_device_is_kept(saved, trained):
    module = CompressedModel.load(saved).restore(digits_cnn().cuda())
    assert all(tensor.is_cuda for tensor in module.state_dict().values())
    assert_same_state({n: t.cpu() for n, t in module.state_dict().items()}, trained.model.state_dict())


def test_memory_layout_of_the_module_is_kept(saved):
    module = digits_cnn().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recompose(CompressedModel.load(saved).restore(module))
    plain = recompose(CompressedModel.load(saved).restore())
    assert torch.equal(module.layers.conv2.weight, plain.layers.conv2.weight)  # type: ignore[arg-type]


class Tied(nn.Module):
    """One weight under two names, a buffer, and a normalisation."""

    def __init__(self, tie=True):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        if tie:
            self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 10)
        self.register_buffer("seen", torch.arange(7))

    def forward(self, x):
        return self.head(self.norm(self.second(self.first(x.flatten(1)).relu())))


def test_tied_weights_are_stored_once(tmp_path):
    model = projected(Tied())
    small = CompressedModel.of(classifier_of(model), CONSTRAINTS)
    assert small.index.tied == {"second.weight": "first.weight"}
    assert small.weights().dense_size == 64 * 64 + 640
    assert_same_state(small.restore(Tied()).state_dict(), model.state_dict())
    assert_same_state(small.restore(Tied(tie=False)).state_dict(), model.state_dict())
    assert_same_state(small.state_dict(), model.state_dict())
    export_state_dict(small, tmp_path / "dense.safetensors")
    assert_same_state(load_file(tmp_path / "dense.safetensors"), dict(model.state_dict()))


def test_weights_that_only_the_module_ties_are_refused():
    small = CompressedModel.of(classifier_of(projected(Tied(tie=False))), CONSTRAINTS)
    with pytest.raises(ValueError, match="`second.weight` and `first.weight` are one tensor in the module only"):
        small.restore(Tied())


def test_ignored_layers_stay_dense_and_come_back():
    model = decompose(digits_cnn(), ignore=["layers.fc2"])
    weights = compressible(model, ignore=["layers.fc2"])
    weights.assign_(Sparsity(0.05).project(weights))
    small = CompressedModel.of(classifier_of(model), [Sparsity(0.05)], ignore=["layers.fc2"], network="digits-cnn")
    assert small.tensors["layers.fc2.weight"].form == "raw"
    assert "layers.fc2.weight" not in small.weights()
    assert small.weights().dense_size == weights.dense_size
    assert_same_state(small.restore().state_dict(), model.state_dict())


def test_other_networks_are_refused_with_every_difference(saved):
    loaded = CompressedModel.load(saved)
    module = lenet()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"does not fit") as caught:
        loaded.restore(module)
    assert "`layers.conv1.weight` is float32 (20, 1, 5, 5) in the module, float32 (32, 1, 3, 3) in the file" in str(
        caught.value
    )
    assert str(caught.value).count("\n") == 7
    assert_same_state(module.state_dict(), before)


def test_factors_that_the_file_does_not_hold_are_refused():
    plain = CompressedModel.of(classifier_of(projected(digits_cnn())), CONSTRAINTS)
    with pytest.raises(ValueError, match="is factored in the module only; call art_atmc.recompose"):
        plain.restore(decompose(digits_cnn()))


def test_named_network_must_be_the_network(trained):
    with pytest.raises(ValueError, match="the network `lenet` does not fit"):
        CompressedModel.of(trained, network="lenet")
    with pytest.raises(ValueError, match="no network `letnet`; the names are digits-cnn, lenet"):
        CompressedModel.of(trained, network="letnet")
    with pytest.raises(ValueError, match="names no network; hand over the module"):
        CompressedModel.of(trained).restore()


def test_another_classifier_is_refused():
    with pytest.raises(TypeError, match="must be an ART PyTorchClassifier or a torch module, got str"):
        CompressedModel.of("Linear")


def test_state_that_is_no_tensor_is_refused():
    class Extra(Tied):
        def get_extra_state(self):
            return {"key": 1}

    with pytest.raises(ValueError, match=r"`_extra_state` is a dict, no tensor; keep it in a buffer"):
        CompressedModel.of(classifier_of(Extra()))


def test_dense_state_dict_loads_into_a_plain_network(trained, saved):
    plain = digits_cnn()
    plain.load_state_dict(CompressedModel.load(saved).state_dict())
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(plain.eval()(x), trained.model.eval()(x))
    assert_same_state(dict(plain.state_dict()), dict(recompose(CompressedModel.load(saved).restore()).state_dict()))


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors", "npz"])
def test_exports_hold_the_dense_weights(saved, tmp_path, suffix):
    loaded, path = CompressedModel.load(saved), tmp_path / f"dense.{suffix}"
    if suffix == "npz":
        export_npz(loaded, path)
        with np.load(path, allow_pickle=False) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays}
    else:
        export_state_dict(loaded, path)
        state = load_file(path) if suffix == "safetensors" else torch.load(path, weights_only=True)
    assert_same_state(dict(state), loaded.state_dict())


def renamed(model, names):
    """One tensor of ``model`` under other names, as only a forger writes them."""
    entry, tensor = model.index.tensors["weight"], model.tensors["weight"]
    index = model.index.model_copy(update={"tensors": dict.fromkeys(names, entry), "compressed": [], "positions": {}})
    return CompressedModel(model.manifest, index, dict.fromkeys(names, tensor))


@pytest.mark.parametrize("names", [["file"], ["allow_pickle", "file", "args", "é", "__class__", ".."]])
def test_arrays_may_have_the_names_of_arguments(tmp_path, names):
    layer = nn.Linear(2, 2)
    export_npz(renamed(CompressedModel.of(layer), names), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == sorted(names)
        for name in names:
            np.testing.assert_array_equal(arrays[name], layer.weight.detach())


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\\b", "c:x", "", "a\n", "\x1b[31m"])
def test_arrays_get_no_paths_as_names(tmp_path, name):
    with pytest.raises(ValueError, match="would be paths in an archive; export a state dict instead"):
        export_npz(renamed(CompressedModel.of(nn.Linear(2, 2)), [name]), tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


def test_exports_to_other_suffixes_are_refused(saved, tmp_path):
    loaded = CompressedModel.load(saved)
    with pytest.raises(ValueError, match=r"written to \.pt, \.pth or \.safetensors, got"):
        export_state_dict(loaded, tmp_path / "model.bin")
    with pytest.raises(ValueError, match=r"written to \.npz, got"):
        export_npz(loaded, tmp_path / "model.pt")


def test_classifier_is_that_of_the_training(trained, saved, digits):
    restored = CompressedModel.load(saved).classifier(device_type="cpu")
    np.testing.assert_array_equal(restored.predict(digits[0][:20]), trained.predict(digits[0][:20]))
    assert restored.clip_values[1] == 1
    adversarial = FastGradientMethod(restored, eps=0.1).generate(digits[0][:5], digits[1][:5])
    assert adversarial.max() <= 1


def test_preprocessing_comes_back(digits):
    classifier = classifier_of(projected(digits_cnn()), preprocessing=([0.3], [0.5]), clip_values=([0.0], [1.0]))
    small = CompressedModel.of(classifier, CONSTRAINTS, network="digits-cnn")
    restored = small.classifier(device_type="cpu")
    np.testing.assert_array_equal(restored.predict(digits[0][:20]), classifier.predict(digits[0][:20]))
    assert not np.allclose(
        small.classifier(device_type="cpu", preprocessing=None).predict(digits[0][:20]),
        classifier.predict(digits[0][:20]),
    )


def test_defences_must_be_handed_over_again(digits):
    defence = SpatialSmoothing(window_size=3, channels_first=True)
    classifier = classifier_of(projected(digits_cnn()), preprocessing_defences=[defence])
    small = CompressedModel.of(classifier, CONSTRAINTS, network="digits-cnn")
    with pytest.raises(ValueError, match=r"made with \['preprocessing_defences'\], which the file can't hold"):
        small.classifier()
    restored = small.classifier(device_type="cpu", preprocessing_defences=[defence])
    np.testing.assert_array_equal(restored.predict(digits[0][:20]), classifier.predict(digits[0][:20]))


def test_receiver_can_verify_the_constraints(trained, saved):
    CompressedModel.load(saved).verify()
    honest = CompressedModel.of(trained, CONSTRAINTS)
    liar = CompressedModel(
        honest.manifest.model_copy(update={"constraints": ["Sparsity(density=0.01)"]}), honest.index, honest.tensors
    )
    with pytest.raises(ValueError, match=r"do not obey Sparsity\(density=0.01\).*do not trust"):
        liar.verify()


def test_file_has_ordinary_permissions(saved):
    plain = saved.with_name("plain")
    plain.write_bytes(b"")
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert os.listdir(saved.parent).count("model.atmc") == 1
    assert not [name for name in os.listdir(saved.parent) if name.endswith(".tmp")]


def test_report_adds_up(trained, saved):
    loaded = CompressedModel.load(saved)
    report = loaded.report()
    assert f"{report.file_bytes:,} bytes" in str(report)
    total = report.totals
    weights = compressible(trained.model)
    assert total["nnz"] == weights.nnz()
    assert total["file_bytes"] == saved.stat().st_size
    assert total["payload_bytes"] == sum(len(t.record) for t in loaded.tensors.values())
    assert total["bound_bytes"] + total["codebook_bytes"] <= total["payload_bytes"] < total["file_bytes"]
    assert total["dense_file_bytes"] == pytest.approx(
        4 * sum(t.numel() for t in digits_cnn().state_dict().values()), rel=0.01
    )
    by_name = {weight.name: weight for weight in report.weights}
    assert list(by_name) == [f"layers.{layer}.weight" for layer in ("conv1", "conv2", "fc1", "fc2")]
    conv = by_name["layers.conv2.weight"]
    assert conv.multiply_adds == 16 * 64 * 32 * 9
    assert conv.sparse_multiply_adds == 16 * sum(t.nnz for t in conv.tensors)
    U, V = (weights[f"layers.conv2.weight.{factor}"].double() for factor in "UV")
    assert conv.rank == torch.linalg.matrix_rank(V + U @ V)
    assert json.loads(report.to_json())["totals"]["nnz"] == weights.nnz()


def test_report_of_a_tall_factored_weight_has_its_rank():
    layer = decompose(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 100), nn.Linear(100, 10)))
    spread(layer)
    for constraint in (Sparsity(0.2),):
        projected(layer, [constraint])
    report = CompressedModel.of(classifier_of(layer), [Sparsity(0.2)]).report()
    weights = compressible(layer)
    U, V = (weights[f"2.weight.{factor}"].double() for factor in "UV")
    assert report.weights[1].rank == torch.linalg.matrix_rank(U + U @ V) <= 10


def test_loading_neither_pickles_nor_needs_the_network():
    """Reading a file must not import what could run code from it."""
    source = (
        "import art_atmc.files.container, sys;"
        "assert 'art_atmc.networks' not in sys.modules, 'container needs no network'"
    )
    subprocess.run([sys.executable, "-c", source], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def first_network():
    """A network whose weights are whole-number formulas, with every form of encoding in it."""
    model = decompose(nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.Linear(48, 40)))
    plain = nn.Sequential(model, nn.Linear(40, 30), nn.Linear(30, 10))
    with torch.no_grad():
        for step, tensor in enumerate(plain.parameters(), start=3):
            place = torch.arange(tensor.numel()).reshape(tensor.shape)
            kept = (place * step) % 17 == 0
            tensor.copy_(torch.where(kept, ((place * 7919) % 5 - 2.5) / 8, 0.0))
        plain[1].weight.copy_(torch.arange(1200).reshape(30, 40) / 64 + 1)
        plain[2].weight.copy_(torch.arange(300).reshape(10, 30) % 3 + 1.0)
    return plain


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_every_version_are_read_for_ever(version):
    """Written by ``CompressedModel.of(classifier_of(first_network())).save(...)`` when the format began."""
    loaded = CompressedModel.load(Path(__file__).parent / "data" / f"format-{version}.atmc")
    assert {tensor.form for tensor in loaded.tensors.values()} == {"raw", "codes", "positions + codes", "positions"}
    assert any(tensor.packed for tensor in loaded.tensors.values()) == (version == 2)
    assert loaded.manifest.nb_classes == 10
    assert_same_state(loaded.restore(first_network()).state_dict(), first_network().state_dict())
