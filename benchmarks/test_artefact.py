"""The compressed file: size against the entropy bound and ONNX, seconds and memory for ResNet-34."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_atmc import CompressedModel, Quantization, Sparsity, compressible, decompose
from art_atmc.networks import NETWORKS

SIZES = [
    ("lenet", 0.05, 4),
    ("lenet", 0.05, 8),
    ("lenet", 0.01, 4),
    ("lenet", 0.01, 8),
    ("resnet34", 0.01, 8),
]


def compressed(network: str, density: float, bits: int, spread: float = 0.0) -> CompressedModel:
    """Random weights, factored, on their constraints. With ``spread`` U and C hold noise of that size at the start."""
    torch.manual_seed(0)
    model = decompose(NETWORKS[network](10))
    weights = compressible(model)
    constraints = [Sparsity(density), Quantization(bits)]
    with torch.no_grad():
        for tensor in weights.values():
            tensor.add_(spread * torch.randn_like(tensor))
    for constraint in constraints:
        weights.assign_(constraint.project(weights))
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), model.input_shape, 10, clip_values=(0, 1))
    return CompressedModel.of(classifier, constraints, network=network)


@pytest.mark.parametrize("spread", [0.0, 0.05], ids=["V", "UVC"])
@pytest.mark.parametrize(("network", "density", "bits"), SIZES)
def test_file_against_the_entropy_bound(benchmark, report, tmp_path, network, density, bits, spread):
    model = compressed(network, density, bits, spread)
    size = benchmark.pedantic(model.save, (tmp_path / "model.atmc",), rounds=1)
    total = model.report().totals
    bound = total["bound_bytes"] + total["codebook_bytes"]
    print(
        f"\n{network} {density} {bits} bits: {size} bytes, bound {bound:.0f}, 1/{total['dense_to_file']:.0f} of dense"
    )
    report("(file - 1 KB) / bound", (size - 1024) / bound, 1.03)


@pytest.mark.parametrize("spread", [0.0, 0.05], ids=["V", "UVC"])
@pytest.mark.parametrize(("network", "density", "bits"), SIZES)
def test_onnx_against_the_file(benchmark, report, tmp_path, network, density, bits, spread):
    pytest.importorskip("onnx")
    from art_atmc.files.onnx import export

    model = compressed(network, density, bits, spread)
    benchmark.pedantic(export, (model, tmp_path / "model.onnx"), rounds=1)
    onnx, atmc = (tmp_path / "model.onnx").stat().st_size, model.save(tmp_path / "model.atmc")
    report(f"{network} {density} {bits} bits: ONNX {onnx} bytes over .atmc {atmc}", onnx / atmc, 1.8)


# Seconds, and growth of the resident set to its peak, in a process of its own.
RESNET = """
import sys, time
from pathlib import Path
sys.path.insert(0, "benchmarks")
import torch
torch.set_num_threads(1)
from test_artefact import CompressedModel, compressed
def kilobytes(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(key))
def measured(function):
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, started = kilobytes("VmRSS"), time.perf_counter()
    result = function()
    return result, time.perf_counter() - started, (kilobytes("VmHWM") - before) / 1024
compressed("digits-cnn", 0.05, 4)  # warm up
made, _, _ = measured(lambda: compressed("resnet34", 0.01, 8))
classifier = made.classifier(device_type="cpu")
del made
constraints = []
small, encode, encode_memory = measured(lambda: CompressedModel.of(classifier, constraints, network="resnet34"))
small.save(sys.argv[1])
del small, classifier
restored, load, load_memory = measured(lambda: CompressedModel.load(sys.argv[1]).restore())
print(encode, encode_memory, load, load_memory)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resnet34_in_seconds_and_megabytes(benchmark, report, tmp_path):
    def measure() -> list[float]:
        command = [sys.executable, "-c", RESNET, str(tmp_path / "model.atmc")]
        return [float(v) for v in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]

    encode, encode_memory, load, load_memory = benchmark.pedantic(measure, rounds=1)
    dense = 4 * 21_289_802 / 2**20  # megabytes of the plain network
    report("ResNet-34, encode", encode, 5, " s")
    report("ResNet-34, load and restore", load, 1.5, " s")
    report("ResNet-34, encode, extra memory over the dense weights", encode_memory / dense, 3)
    report("ResNet-34, load and restore, extra memory over the dense weights", load_memory / dense, 3)
