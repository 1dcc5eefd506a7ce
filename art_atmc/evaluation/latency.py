"""How long a compressed network takes on the CPU, in each of the forms in which it can be run."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import parametrize

from art_atmc.compression.factors import recompose
from art_atmc.support.terminal import plain_text

if TYPE_CHECKING:
    from art_atmc.files.model import CompressedModel

__all__ = ["Latency", "Row", "compare", "latency", "table"]

BURST = 0.001  # seconds of calls that are timed as one: most fit into a time slice of a busy machine
TURNS = 5
Form: TypeAlias = Callable[[Tensor], Callable[[], object]]  # from a batch to the call that is timed
ONNX = ("onnx", "onnxruntime", "onnxscript")


@final
@dataclasses.dataclass(frozen=True)
class Latency:
    """Seconds that a call takes.

    :param median: over the bursts of calls that were timed.
    :param lower: first quartile.
    :param upper: third quartile.
    :param calls: number of calls that were timed.
    """

    median: float
    lower: float
    upper: float
    calls: int


@final
@dataclasses.dataclass(frozen=True)
class Row:
    """One form of the network at one batch size.

    :param form: of the network, such as ``"dense torch"``.
    :param batch_size: examples in a call.
    :param latency: of a call; None where the form could not be run.
    :param remark: why it could not, with the remedy.
    """

    form: str
    batch_size: int
    latency: Latency | None
    remark: str = ""


def latency(functions: Mapping[str, Callable[[], object]], seconds: float = 1.0) -> dict[str, Latency]:
    """Time calls of ``functions`` in turns, so that whatever slows the machine for a while slows all of them.

    Each is called until it is warm, then in bursts of about a millisecond, one of each a turn, in random order.
    Quartiles are over bursts, so they show the machine's unrest rather than that of single calls.

    :param functions: to be timed, by name.
    :param seconds: for each function on average; five turns are the least.
    :raises ValueError: when ``seconds`` is not positive and finite.

    >>> times = latency({"short": lambda: sum(range(100)), "long": lambda: sum(range(10_000))}, seconds=0.05)
    >>> times["short"].median < times["long"].median
    True
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"`seconds` must be positive and finite, got {seconds}; give the time to spend on a function")
    calls = {name: _calls_in_burst(function) for name, function in functions.items()}
    bursts: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds * len(functions)
    turns = 0
    shuffle = random.Random(0)
    while turns < TURNS or time.perf_counter() < end:
        # In a fixed order, bursts fall into step with the time slices.
        for name in shuffle.sample(list(functions), len(functions)):
            bursts[name].append(_timed(functions[name], calls[name]) / calls[name])
        turns += 1
    return {name: _latency(times, turns * calls[name]) for name, times in bursts.items()}


def _calls_in_burst(function: Callable[[], object]) -> int:
    """Number of calls that fill a burst; finding it warms the function up."""
    calls = 1
    while _timed(function, calls) < BURST:
        calls *= 2
    return calls


def _timed(function: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - begin


def _latency(bursts: Sequence[float], calls: int) -> Latency:
    lower, median, upper = statistics.quantiles(bursts, n=4, method="inclusive")
    return Latency(median, lower, upper, calls)


def compare(
    model: CompressedModel,
    module: nn.Module | None = None,
    batch_sizes: Sequence[int] = (1, 64),
    seed: int = 0,
    *,
    seconds: float = 1.0,
) -> list[Row]:
    """Time the network in every form on random inputs, in evaluation mode, without gradients, on the CPU.

    The forms are the plain network with folded weights; the restored one, which forms factored weights once for all
    calls; the restored one with ``optimize=True``; and onnxruntime. All have the threads that torch has.

    :param model: the compressed network.
    :param module: a network of its architecture, left as it is; by default the named one of the manifest.
    :param batch_sizes: examples in a call.
    :param seed: of the inputs, which are uniform within the clip values.
    :param seconds: for each form and batch size, see :func:`latency`.
    :returns: a row for each batch size and form.
    :raises ValueError: for a batch size below 1, and when ``module`` does not fit.
    """
    if bad := [size for size in batch_sizes if size < 1]:
        raise ValueError(f"`batch_sizes` must be at least 1, got {bad}; give the number of examples in a call")
    networks = _networks(model, module)
    forms = _forms(model, module, networks)
    dtypes = [p.dtype for p in networks["dense torch"].parameters() if p.is_floating_point()]
    rows = []
    with torch.no_grad(), parametrize.cached():
        for size in batch_sizes:
            x = _inputs(model, size, seed).to(dtypes[0])
            calls = {name: form(x) for name, form in forms.items() if not isinstance(form, str)}
            times = latency(calls, seconds)
            rows += [
                Row(name, size, times.get(name), form if isinstance(form, str) else "") for name, form in forms.items()
            ]
    return rows


def _networks(model: CompressedModel, module: nn.Module | None) -> dict[str, nn.Module]:
    restored = model.restore(_own(module))
    return {
        "dense torch": recompose(copy.deepcopy(restored)),
        "restored torch": restored,
        "optimized torch": model.restore(_own(module), optimize=True),
    }


def _forms(
    model: CompressedModel, module: nn.Module | None, networks: Mapping[str, nn.Module]
) -> dict[str, Form | str]:
    """The networks, and onnxruntime; in its place why it can't run the network."""
    runtime: Form | str = _missing()
    if not runtime:
        try:
            runtime = _onnxruntime(model, _own(module))
        except (RuntimeError, ValueError, NotImplementedError) as error:
            runtime = str(error).splitlines()[0]
    return {**{name: _torch(network) for name, network in networks.items()}, "onnxruntime": runtime}


def _own(module: nn.Module | None) -> nn.Module | None:
    return None if module is None else copy.deepcopy(module).cpu()


def _torch(network: nn.Module) -> Form:
    return lambda x: lambda: network(x)


def _onnxruntime(model: CompressedModel, module: nn.Module | None) -> Form:
    import onnxruntime

    from art_atmc.files.onnx import export

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model, path, module=module, preprocessing=False)  # as the other forms are timed
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    [name] = [node.name for node in session.get_inputs()]

    def form(x: Tensor) -> Callable[[], object]:
        inputs = {name: x.float().numpy()}
        return lambda: session.run(None, inputs)

    return form


def _missing() -> str:
    """What has to be installed before onnxruntime can run the network; empty where it can."""
    absent = [name for name in ONNX if importlib.util.find_spec(name) is None]
    return f"needs {', '.join(absent)}: pip install 'art-atmc[onnx]'" if absent else ""


def _inputs(model: CompressedModel, size: int, seed: int) -> Tensor:
    manifest, shape = model.manifest, model.input_shape()
    uniform = torch.rand(size, *shape, generator=torch.Generator().manual_seed(seed))
    # One number, or one for each channel, which stand first or last.
    trailing = len(shape) - 1 if manifest.channels_first else 0
    low, high = (torch.tensor(v).reshape(-1, *[1] * trailing) for v in manifest.clip_values or (0.0, 1.0))
    return low + (high - low) * uniform


def table(rows: Sequence[Row]) -> Table:
    """The rows beside the dense network of their batch size; fits a terminal of 80 columns."""
    dense = {row.batch_size: row.latency.median for row in rows if row.form == "dense torch" and row.latency}
    shown = Table(title=f"milliseconds a call, threads: {torch.get_num_threads()}", caption="quartiles over bursts")
    for column in ("form", "batch", "median", "quartiles", "speed-up"):
        shown.add_column(column, justify="left" if column == "form" else "right")
    for row in rows:
        if (found := row.latency) is None:
            shown.add_row(row.form, str(row.batch_size), "", plain_text(row.remark), "")
            continue
        median, lower, upper = (f"{1000 * t:,.3f}" for t in (found.median, found.lower, found.upper))
        gain = f"{dense[row.batch_size] / found.median:.2f}x" if row.batch_size in dense else ""
        shown.add_row(row.form, str(row.batch_size), median, f"{lower} - {upper}", gain)
    return shown
