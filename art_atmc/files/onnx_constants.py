r"""Weights of an ONNX graph as small constants and standard operators that form them when the graph is loaded.

A tensor with few non-zeros stands as the advances from one to the next,

.. math:: \text{place}_i = \sum_{j \le i} a_j, \qquad W_{\text{place}_i} = \text{codebook}[\text{code}_i],

advances and codes of 4, 8 or 16 bits each. Runtimes fold such constants before the first input comes, so
it costs no time in use; in memory the weights are as large as ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from string import ascii_uppercase
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["compact"]

Array: TypeAlias = npt.NDArray[Any]

KINDS: Final = {0.5: TensorProto.UINT4, 1: TensorProto.UINT8, 2: TensorProto.UINT16}  # by bytes
MINUS_ZERO: Final = 0x80000000  # no sum of places brings its sign back
WORTH: Final = 512  # bytes that a form must save, as the operators that undo it take some four hundred


class _Form(NamedTuple):
    """Constants and operators; the last operator's output is the tensor."""

    nbytes: float
    build: Callable[[_Builder], None]


def compact(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Store every initializer of floats or indices in its smallest form, in place; the graph computes what it computed.

    :param proto: a model of operator set 21 or later, which has 4-bit integers.
    :returns: ``proto``.
    """
    graph = proto.graph
    operators: list[onnx.NodeProto] = []
    kept: dict[str, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        form = _smallest(numpy_helper.to_array(tensor))
        if form is None:
            kept[tensor.name] = tensor
            continue
        builder = _Builder(tensor.name, len(operators))
        form.build(builder)
        operators += builder.operators
        kept |= builder.constants
    del graph.initializer[:]
    graph.initializer.extend(kept.values())
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*operators, *body])
    return proto


def _smallest(tensor: Array) -> _Form | None:
    """The form of fewest bytes; None where the tensor itself is as small."""
    if tensor.dtype == np.int64:
        forms = _indices(tensor)
    elif tensor.dtype == np.float32 and not (tensor.view(np.uint32) == MINUS_ZERO).any():
        forms = _forms(tensor.reshape(-1), tensor.shape)
    else:
        return None
    best = min(forms, key=lambda form: form.nbytes, default=None)
    return best if best is not None and best.nbytes + WORTH < tensor.nbytes else None


def _indices(tensor: Array) -> Iterator[_Form]:
    if tensor.ndim == 1 and len(tensor) and tensor.min() >= 0 and (width := _width(int(tensor.max()) + 1)) <= 2:
        yield _Form(width * len(tensor), lambda b: b.result("Cast", b.packed("i", tensor, width), to=TensorProto.INT64))


def _forms(flat: Array, shape: tuple[int, ...]) -> Iterator[_Form]:
    support = np.flatnonzero(flat)
    values = flat[support]
    if not len(support):
        yield _Form(0, lambda b: b.result("ConstantOfShape", b.constant("s", np.array(shape, np.int64))))
        return
    codebook, codes = np.unique(values, return_inverse=True)
    for width in KINDS:
        advances = _advances(support, int(256**width) - 1)
        for coded in (False, True):
            yield _scattered(advances, width, values, codebook if coded else None, codes, len(flat), shape)
    zeros = int(len(support) < len(flat))  # zero is one more code
    whole = np.append(np.zeros(zeros, np.float32), codebook)

    def build(b: _Builder) -> None:
        every = np.zeros(len(flat), np.int64)
        every[support] = codes + zeros
        b.result("Reshape", _decoded(b, whole, every), b.constant("s", np.array(shape, np.int64)))

    yield _Form(_width(len(whole)) * len(flat) + whole.nbytes, build)


def _scattered(
    advances: Array,
    width: float,
    values: Array,
    codebook: Array | None,
    codes: Array,
    count: int,
    shape: tuple[int, ...],
) -> _Form:
    most = int(256**width) - 1
    stored = advances < most
    code_width = 4.0 if codebook is None else _width(len(codebook))

    def build(b: _Builder) -> None:
        steps = b.add("Cast", b.packed("a", advances, width), to=TensorProto.INT64)
        places = b.add("CumSum", steps, b.shared(".zero", np.array(0)))
        whole = stored.all()
        if not whole:  # one place more, which takes what an advance without a value brings
            skipped = b.add("Equal", steps, b.shared(f".most{most}", np.array(most)))
            places = b.add("Where", skipped, b.constant("e", np.array(count)), places)
        if codebook is None:
            filled = np.zeros(len(advances), np.float32)
            filled[stored] = values
            parts = b.constant("v", filled)
        else:
            spread = np.zeros(len(advances), np.int64)
            spread[stored] = codes
            parts = _decoded(b, codebook, spread)
        empty = b.add("ConstantOfShape", b.constant("n", np.array([count if whole else count + 1])))
        # A sum, as the last place may come again and again.
        flat = b.add("ScatterElements", empty, places, parts, reduction="none" if whole else "add")
        if not whole:
            flat = b.add("Slice", flat, b.shared(".first", np.array([0])), b.shared(".last", np.array([-1])))
        b.result("Reshape", flat, b.constant("s", np.array(shape, np.int64)))

    return _Form((width + code_width) * len(advances) + (0 if codebook is None else codebook.nbytes), build)


def _advances(support: Array, most: int) -> Array:
    """Steps from each place to the next, from 0 on; a step of ``most`` stores nothing."""
    steps = np.diff(support, prepend=0)
    ends = (steps // most + 1).cumsum()
    advances = np.full(ends[-1], most, np.int64)
    advances[ends - 1] = steps % most
    return advances


def _width(codes: int) -> float:
    """Bytes of a code; infinite where there are too many."""
    return next((width for width in KINDS if codes <= 256**width), math.inf)


def _decoded(b: _Builder, codebook: Array, codes: Array) -> str:
    indices = b.add("Cast", b.packed("k", codes, _width(len(codebook))), to=TensorProto.INT32)
    return b.add("Gather", b.constant("b", codebook), indices)


class _Builder:
    """Collects the constants and operators that form the tensor ``name``.

    Values get names with a dot in front, which no parameter of a module can have, nor an output of torch's exporter.
    """

    def __init__(self, name: str, number: int) -> None:
        self.name, self._prefix = name, f".{number}"
        self.constants: dict[str, onnx.TensorProto] = {}
        self.operators: list[onnx.NodeProto] = []

    def constant(self, suffix: str, value: Array) -> str:
        return self.shared(self._prefix + suffix, value)

    def shared(self, name: str, value: Array) -> str:
        """A constant that all tensors use."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def packed(self, suffix: str, numbers: Array, width: float) -> str:
        """Whole numbers of ``width`` bytes each; of half a byte, the lower half first."""
        name, whole = self._prefix + suffix, numbers.astype("<u2" if width == 2 else np.uint8)
        if width == 0.5:
            even = np.append(whole, np.zeros(len(whole) % 2, np.uint8))
            whole = even[::2] | even[1::2] << 4
        self.constants[name] = helper.make_tensor(name, KINDS[width], [len(numbers)], whole.tobytes(), raw=True)
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = self._prefix + ascii_uppercase[len(self.operators)]
        self.operators.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def result(self, operator: str, *inputs: str, **attributes: Any) -> None:
        """The operator that gives the tensor."""
        self.operators.append(helper.make_node(operator, inputs, [self.name], **attributes))
