"""Layers that are parametrized, hooked, empty, tied, lazy or complex, and networks in wrappers: compressed, left dense,
or refused by name before anything is trained; the same with factors and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from art_atmc import PGD, ATMCTrainer, CompressedModel, Quantization, Sparsity, compressible, decompose
from art_atmc.compression.factors import decomposed

HOOKS = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3),
}
PARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
LEFT_DENSE = [lambda act=act: Net(act(nn.Linear(8, 6))) for act in (*HOOKS.values(), *PARAMETRIZATIONS.values())]


class Net(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body, self.head = body, nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x).relu())


class Empty(Net):
    """A branch that reads no feature: its weight has no entry."""

    def __init__(self):
        super().__init__(nn.Linear(8, 6))
        self.branch = nn.Linear(0, 6)

    def forward(self, x):
        return self.head((self.body(x) + self.branch(x[:, :0])).relu())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(self.b(self.a(x).relu()).relu())


def fitted(model, factored, ignore=()):
    rng = np.random.default_rng(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (8,), 3, optimizer=optimizer, device_type="cpu")
    constraints = [Sparsity(0.5), Quantization(3)]
    trainer = ATMCTrainer(classifier, PGD(0.1, 0.05, 1), constraints, factored=factored, ignore=ignore, verbose=False)
    trainer.fit(rng.random((40, 8)).astype(np.float32), rng.integers(3, size=40), nb_epochs=1, batch_size=10)
    return trainer


def restores(trainer, make):
    """Whether the file of what was trained gives a new network the same outputs."""
    x = torch.rand(5, 8)
    restored = trainer.compress().restore(make())
    with torch.no_grad():
        return np.allclose(restored(x), trainer.get_classifier().predict(x.numpy()), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("make", LEFT_DENSE, ids=[f"hook-{k}" for k in HOOKS] + [*PARAMETRIZATIONS])
def test_a_layer_with_its_own_form_is_left_dense_or_refused(make, factored):
    model = make()
    with pytest.raises(ValueError, match=r"`body.weight\w*` is .*first or `ignore` it"):
        fitted(model, factored)
    assert not decomposed(model)
    assert restores(fitted(model, factored, ignore=["body"]), make)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("ignore", [(), ("branch",)])
def test_a_layer_without_entries_is_no_obstacle(factored, ignore):
    trainer = fitted(Empty(), factored, ignore)
    assert restores(trainer, Empty)
    assert trainer.compress().report().file_bytes > 0
    optimized = trainer.compress().restore(Empty(), optimize=True)
    x = torch.rand(5, 8)
    with torch.no_grad():
        assert np.allclose(optimized(x), trainer.get_classifier().predict(x.numpy()), atol=1e-5)


def test_tied_weights_are_left_dense_or_compressed_once():
    with pytest.raises(ValueError, match="tied weights can't be decomposed.*`a.weight` and `b.weight`"):
        fitted(Tied(), factored=True)
    assert restores(fitted(Tied(), factored=True, ignore=["a", "b"]), Tied)
    trainer = fitted(Tied(), factored=False)
    assert restores(trainer, Tied)
    assert compressible(trainer.get_classifier().model).dense_size == 8 * 8 + 8 * 3


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("ignore", [(), ("0",), ("1",)])
def test_lazy_layers_are_refused_ignored_or_not(ignore):
    model = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"'0.weight'.*'1.running_mean'.*lazy layers.*run one batch"):
        compressible(model, ignore)
    model(torch.ones(2, 8))
    compressible(model)


def test_complex_weights_are_refused_unless_ignored():
    model = nn.Sequential(nn.Linear(8, 6, dtype=torch.complex64), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"`0.weight` is complex.*`ignore` it"):
        compressible(model)
    assert list(compressible(model, ["0"])) == ["1.weight"]


@pytest.mark.filterwarnings("ignore")  # of torch.compile, about torch
@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["DP", "compile"])
@pytest.mark.parametrize("factored", [True, False])
def test_wrappers_leave_no_trace_in_names(wrap, factored):
    trainer = fitted(wrap(Net(nn.Linear(8, 6))), factored, ignore=["head"])
    model = trainer.get_classifier().model
    assert all(name.startswith("body.weight") for name in compressible(model, ["head"]))
    assert list(decomposed(model)) == (["body.weight"] if factored else [])
    assert restores(trainer, lambda: Net(nn.Linear(8, 6)))
    assert restores(trainer, lambda: wrap(Net(nn.Linear(8, 6))))
    classifier = PyTorchClassifier(Net(nn.Linear(8, 6)), nn.CrossEntropyLoss(), (8,), 3)
    plain = CompressedModel.of(classifier, ignore=["head"])
    assert sorted(plain.restore(wrap(Net(nn.Linear(8, 6)))).state_dict()) != sorted(plain.state_dict())
    assert sorted(plain.state_dict()) == sorted(Net(nn.Linear(8, 6)).state_dict())


def test_a_wrapped_network_is_decomposed_for_its_optimizer():
    model = nn.DataParallel(Net(nn.Linear(8, 6)))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    decompose(model, optimizer=optimizer)
    (group,) = optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters()}
