from __future__ import annotations

import copy
import dataclasses
import importlib.util
import io
import json
import re
import time
from typing import ClassVar

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.utils import parametrize

from art_atmc import CompressedModel, decompose
from art_atmc.compression.factors import decomposed
from art_atmc.evaluation import latency as module_under_test
from art_atmc.evaluation.latency import Latency, Row, compare, latency, table

with_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in module_under_test.ONNX), reason="needs the onnx extra"
)
FORMS = ["dense torch", "restored torch", "optimized torch", "onnxruntime"]


@pytest.fixture
def small(make_classifier) -> CompressedModel:
    classifier = make_classifier()
    decompose(classifier.model)
    return CompressedModel.of(classifier)


@pytest.fixture
def net(make_classifier) -> nn.Module:
    return make_classifier(seed=1).model


def without(monkeypatch, *names: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in names else found(name, *a))


def test_latency_is_the_time_of_a_call():
    times = latency({"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.01)}, seconds=0.1)
    assert list(times) == ["short", "long"]
    assert times["short"].median >= 0.001
    assert times["long"].median >= 0.01
    assert times["long"].median > 2 * times["short"].median
    assert all(t.lower <= t.median <= t.upper for t in times.values())


def test_functions_take_turns():
    order: list[str] = []

    def function(name):
        def call():
            order.append(name)
            time.sleep(0.003)

        return call

    times = latency({"a": function("a"), "b": function("b")}, seconds=0.05)
    timed = "".join(order)[-sum(t.calls for t in times.values()) :]
    burst = {name: min(map(len, re.findall(f"{name}+", timed))) for name in "ab"}
    a, b = ("a" * burst["a"], "b" * burst["b"])
    turns = re.findall(f"{a}{b}|{b}{a}", timed)
    assert "".join(turns) == timed
    assert len(turns) >= 5
    assert len(set(turns)) == 2  # not always in the same order
    assert timed.count("a") == times["a"].calls


def test_slow_functions_are_timed_five_times():
    assert latency({"f": lambda: time.sleep(0.02)}, seconds=1e-6)["f"].calls == 5
    assert latency({}, seconds=0.1) == {}


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_seconds_must_be_positive(seconds):
    with pytest.raises(ValueError, match="must be positive and finite"):
        latency({"f": int}, seconds=seconds)


def test_every_form_has_a_row_for_each_batch_size(small, net, monkeypatch):
    without(monkeypatch, "onnxruntime")
    state, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    rows = compare(small, net.train(), batch_sizes=(1, 3), seconds=0.01)
    assert [(row.batch_size, row.form) for row in rows] == [(size, form) for size in (1, 3) for form in FORMS]
    assert all((row.latency is None) == (row.form == "onnxruntime") for row in rows)
    assert rows[3].remark == "needs onnxruntime: pip install 'art-atmc[onnx]'"
    assert json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))[0]["latency"]["calls"] >= 5
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_torch_forms_compute_the_same(small, net):
    x = torch.rand(2, 1, 8, 8)
    networks = module_under_test._networks(small, net)
    assert list(networks) == FORMS[:3]
    assert [bool(decomposed(network)) for network in networks.values()] == [False, True, False]
    expected = small.restore(copy.deepcopy(net))(x)
    assert all(torch.allclose(network(x), expected, atol=1e-5) for network in networks.values())


class Recorder(nn.Linear):
    """Notes how it is called."""

    seen: ClassVar[set[tuple[bool, bool, bool]]] = set()

    def forward(self, x):
        self.seen.add((self.training, torch.is_grad_enabled(), parametrize._cache_enabled > 0))
        return super().forward(x.flatten(1))


def test_networks_run_in_evaluation_mode_without_gradients_and_keep_their_weights(make_classifier, monkeypatch):
    without(monkeypatch, *module_under_test.ONNX)
    model = CompressedModel.of(make_classifier(model=Recorder(64, 10)))
    network = Recorder(64, 10)
    Recorder.seen.clear()
    compare(model, network, batch_sizes=(1,), seconds=0.01)
    assert Recorder.seen == {(False, False, True)}


@with_onnx
@pytest.mark.slow
def test_onnxruntime_computes_the_same(small, net):
    x = torch.rand(2, 1, 8, 8)
    networks = module_under_test._networks(small, net)
    with torch.no_grad():
        [actual] = module_under_test._forms(small, net, networks)["onnxruntime"](x)()  # type: ignore[misc]
        assert torch.allclose(torch.from_numpy(actual), networks["dense torch"](x), atol=1e-5)


def test_networks_of_other_types_get_inputs_of_theirs(make_classifier, monkeypatch):
    without(monkeypatch, *module_under_test.ONNX)
    model = CompressedModel.of(make_classifier(model=Recorder(64, 10).double()))
    assert len(compare(model, Recorder(64, 10).double(), batch_sizes=(1,), seconds=0.01)) == 4


def test_inputs_lie_within_the_clip_values(small):
    def inputs(**changes):
        manifest = small.manifest.model_copy(update=changes)
        return module_under_test._inputs(dataclasses.replace(small, manifest=manifest), 500, 0)

    x = inputs(clip_values=(2.0, 4.0))
    assert x.shape == (500, 1, 8, 8)
    assert 2 <= x.min() < 2.01
    assert 3.99 < x.max() <= 4
    assert 0 <= inputs(clip_values=None).min() < inputs(clip_values=None).max() <= 1
    channels = inputs(input_shape=[2, 5, 5], clip_values=([0.0, 10.0], [1.0, 20.0]))
    assert channels[:, 0].max() <= 1
    assert channels[:, 1].min() >= 10
    last = inputs(input_shape=[5, 5, 2], channels_first=False, clip_values=([0.0, 10.0], [1.0, 20.0]))
    assert last[..., 0].max() <= 1
    assert last[..., 1].min() >= 10


def test_batch_sizes_must_be_positive(small, net):
    with pytest.raises(ValueError, match=r"must be at least 1, got \[0\]"):
        compare(small, net, batch_sizes=(0, 1))


def test_table_fits_80_columns_and_compares_with_dense():
    found = Latency(0.002, 0.0015, 1234.5, 10)
    rows = [
        Row("dense torch", 1, found),
        Row("optimized torch", 1, dataclasses.replace(found, median=0.0005)),
        Row("onnxruntime", 1, None, "needs onnx, onnxruntime, onnxscript: pip install 'art-atmc[onnx]'"),
        Row("optimized torch", 64, found),
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(rows))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "4.00x" in text
    assert "[onnx]" in text
    assert "1,234,500.000" in text
    assert text.count(".00x") == 2  # nothing to compare the last row with


@with_onnx
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_every_type_are_timed(dtype):
    small = CompressedModel.of(nn.Linear(6, 3).to(dtype), input_shape=(6,))
    rows = compare(small, nn.Linear(6, 3).to(dtype), [2], seconds=0.01)
    assert all(row.latency is not None for row in rows)


@with_onnx
def test_network_that_has_no_graph_keeps_its_other_rows():
    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) < 1e9 else x

    rows = compare(CompressedModel.of(Odd(6, 3), input_shape=(6,)), Odd(6, 3), [2], seconds=0.01)
    assert [row.latency is None for row in rows] == [False, False, False, True]
    assert rows[3].remark
    assert "\n" not in rows[3].remark
