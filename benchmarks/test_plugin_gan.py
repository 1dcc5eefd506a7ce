"""A slimmed generator against the dense one, in the runtime that its file is exported for."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("art_atmc_gan")
from art_atmc_gan import ResidualGenerator, quantize_activations_

from art_atmc import CompressedModel
from art_atmc.files.onnx import export

X = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
WIDTHS = (5, 7, 9, 7, 4)  # what a budget of a quarter of the scales left of (16, 32, 32, 32, 16)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """The dense generator, the small one, and the small one that rounds its activations, on one thread."""
    onnxruntime = pytest.importorskip("onnxruntime")
    made = {}
    for name, widths in (("dense", None), ("small", WIDTHS), ("rounding", WIDTHS)):
        network = (ResidualGenerator() if widths is None else ResidualGenerator(widths)).eval()
        if name == "rounding":
            quantize_activations_(network, 8, X)
        path = tmp_path_factory.mktemp("graphs") / f"{name}.onnx"
        export(CompressedModel.of(network, input_shape=(3, 32, 32)), path, module=network)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        made[name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return made


@pytest.mark.parametrize("name", ["small", "rounding"])
@pytest.mark.parametrize(("batch", "at_most"), [(1, 0.8), (16, 0.5)])
def test_a_quarter_of_the_work_takes_half_of_the_time(compare, sessions, name, batch, at_most):
    x = X[:batch].numpy()

    def run(session):
        for _ in range(64 // batch):
            session.run(None, {"input": x})

    ours, theirs = (lambda: run(sessions[name])), (lambda: run(sessions["dense"]))
    compare(f"{name}, batch {batch}", ours, theirs, at_most=at_most, rounds=15)
