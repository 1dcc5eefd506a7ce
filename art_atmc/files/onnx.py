r"""A compressed model as an ONNX graph that is small itself, of standard operators only.

Weights stand as gaps, codes and codebooks (:mod:`art_atmc.files.onnx_constants`), factors as U, V and C with the matrix
product that forms :math:`W = (I + U) V + C` of them. A runtime folds all of that when it loads the graph and runs
dense weights. Where it takes fewer multiply-adds to run the factors one after another, the graph does.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from art.preprocessing.standardisation_mean_std.utils import broadcastable_mean_std
from torch import Tensor, nn

from art_atmc.compression.factors import decomposed, recompose
from art_atmc.inference.optimize import run_factors
from art_atmc.support.atomic import write_file

if TYPE_CHECKING:
    from art_atmc.files.model import CompressedModel

__all__ = ["export", "graph_of"]

OPERATOR_SET = 21  # the first with 4-bit integers


def export(
    model: CompressedModel,
    path: Path,
    *,
    module: nn.Module | None = None,
    dense: bool = False,
    preprocessing: bool = True,
) -> None:
    r"""Write ``model`` as an ONNX file: input ``input``, output ``output``, both float32, any batch size.

    The graph computes what the classifier's ``predict`` does: a mean and a standard deviation that it was made with
    come first, :math:`x \mapsto f((x - \mu) / \sigma)`. It computes in float32 whatever the type of the weights is,
    as runtimes have no convolutions in bfloat16 or float64.

    :param module: a network of the same architecture, left as it is; by default the named one of the manifest.
    :param dense: plain dense weights, for programs that do not fold constants.
    :param preprocessing: with False the network alone, for programs that standardise inputs themselves.
    :raises ImportError: where the extra ``onnx`` is not installed.
    :raises ValueError: for another suffix than ``.onnx``, when ``module`` does not fit, and when the classifier had
        defences or other preprocessing, which no graph can hold.
    :raises RuntimeError: when the graph computes something else than the network; looked at where onnxruntime is there.
    """
    _require("onnx", "onnxscript")
    if Path(path).suffix != ".onnx":
        raise ValueError(f"a graph is written to .onnx, got {path}")
    lost = [name for name in model.manifest.supplied if name != "clip_values"]
    if preprocessing and lost:
        raise ValueError(
            f"the classifier was made with {lost}, which no graph can hold, so it would compute something else; "
            "without `preprocessing` the network alone is written"
        )
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(2, *model.input_shape(), generator=generator)
    module = model.restore(None if module is None else copy.deepcopy(module)).cpu().float()
    if preprocessing and model.manifest.preprocessing is not None:
        module = _Standardised(module, sample, *model.manifest.preprocessing)
    with torch.no_grad():
        expected = module(sample)
        data = graph_of(module, sample, dense=dense).SerializeToString()
    _check_outputs(data, sample, expected)
    write_file(Path(path), data)


class _Standardised(nn.Module):
    """A network behind the standardisation of an ART classifier."""

    offset: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, sample: Tensor, mean: Any, std: Any) -> None:
        super().__init__()
        self.network = network
        parts = broadcastable_mean_std(sample, *(np.asarray(part, np.float32) for part in (mean, std)))
        for name, part in zip(("offset", "scale"), parts, strict=True):
            self.register_buffer(name, torch.as_tensor(part))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.offset) / self.scale)  # type: ignore[no-any-return]


def graph_of(module: nn.Module, sample: Tensor, *, dense: bool = False) -> Any:
    """The ONNX graph of ``module``, which is changed: its factors are run or folded.

    :param sample: a batch of at least two inputs.
    :returns: an ``onnx.ModelProto``.
    """
    import onnx

    from art_atmc.files.onnx_constants import compact

    factors: dict[str, list[Tensor]] = {}
    if not dense:
        module = run_factors(module)
        for name, (layer, local) in decomposed(module).items():
            factors[name] = [factor.detach() for factor in layer.parametrizations[local].parameters()]  # type: ignore
    proto = _exported(recompose(module.eval()), sample)
    if not dense:
        _form_from_factors(proto, factors)
        compact(proto)
    onnx.checker.check_model(proto)
    return proto


def _exported(module: nn.Module, sample: Tensor) -> Any:
    """The graph as torch's exporter gives it, weights under their names and with their bits."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript.optimizer import fold_constants, remove_unused_nodes

    with _quiet():
        # Not `optimize=True`: that multiplies normalisation into the weights, which would no longer share few values.
        program: Any = torch.onnx.export(
            module,
            (sample,),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPERATOR_SET,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: "batch"},),
        )
        # Not what reads weights either: a layer on sequences transposes its weight, and the result has no name.
        weights = set(program.model.graph.initializers.values())
        fold_constants(program.model, should_fold=lambda node: None if weights.isdisjoint(node.inputs) else False)
        remove_unused_nodes(program.model)
        ClearMetadataAndDocStringPass()(program.model)
    proto = program.model_proto
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.name = ""
    return proto


def _form_from_factors(proto: Any, factors: dict[str, list[Tensor]]) -> None:
    """Replace each folded weight by its factors that are not zero and the operators that fold them."""
    from onnx import helper, numpy_helper

    graph = proto.graph
    operators = []
    for number, weight in enumerate([tensor for tensor in graph.initializer if tensor.name in factors]):
        U, V, C = factors[weight.name]
        graph.initializer.remove(weight)
        wide = U.shape[0] == U.shape[1]
        square, full = (U, V) if wide else (V, U)
        parts = {"U": U, "V": V} if square.any() and full.any() else {"V": V} if wide else {"U": U}
        parts |= {"C": C.reshape(len(U), -1)} if C.any() else {}
        # Short, as each stands in the file some four times, with a dot in front, as none of a module's has.
        names = {factor: f".{factor}{number}" for factor in (*"UVC", "shape", "product", "low", "sum")}
        for factor, tensor in parts.items():
            graph.initializer.append(numpy_helper.from_array(tensor.contiguous().numpy(), names[factor]))
        last = names["V" if wide else "U"]
        if {"U", "V"} <= parts.keys():
            operators.append(helper.make_node("MatMul", [names["U"], names["V"]], [names["product"]]))
            operators.append(helper.make_node("Add", [last, names["product"]], [names["low"]]))
            last = names["low"]
        if "C" in parts:
            operators.append(helper.make_node("Add", [last, names["C"]], [names["sum"]]))
            last = names["sum"]
        graph.initializer.append(numpy_helper.from_array(np.array(C.shape, np.int64), names["shape"]))
        operators.append(helper.make_node("Reshape", [last, names["shape"]], [weight.name]))
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*operators, *body])


def _check_outputs(data: bytes, sample: Tensor, expected: Tensor) -> None:
    try:
        import onnxruntime
    except ImportError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    outputs = torch.from_numpy(session.run(None, {"input": sample.numpy()})[0])
    distance, scale = float((outputs - expected).abs().max()), float(expected.abs().max())
    if not distance <= 1e-3 * max(scale, 1e-6):
        raise RuntimeError(
            f"the ONNX graph's outputs are {distance:.2g} from the network's, which are up to {scale:.2g}: torch's "
            "exporter does not handle this network; export the state dict instead"
        )


def _require(*packages: str) -> None:
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise ImportError(f"the ONNX export needs {' and '.join(missing)}: pip install 'art-atmc[onnx]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not installed and on its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
