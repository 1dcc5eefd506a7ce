"""What a compressed model consists of: each figure of size beside the real bytes."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, final

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from art_atmc.compression.factors import LowRankPlusSparse
from art_atmc.compression.paper_size import tensor_sizes
from art_atmc.compression.weights import Weights
from art_atmc.files.encoding import DTYPES, codebook_bits, entropy_bits
from art_atmc.support.terminal import as_text, plain_text

if TYPE_CHECKING:
    from art_atmc.files.model import CompressedModel

__all__ = ["Report", "TensorReport", "WeightReport", "report"]

CODES = {  # safetensors' names of the types
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8"},
}
RANK = 1 << 33  # multiply-adds that finding a rank may take: a second


@final
@dataclasses.dataclass(frozen=True)
class TensorReport:
    r"""One stored tensor.

    :param form: what is stored of it: ``raw``, ``codes``, ``positions`` or ``positions + codes``.
    :param nnz: number of entries that differ from zero.
    :param distinct: number of their distinct values.
    :param paper_bits: size by the paper's count, without positions (:class:`~art_atmc.compression.TensorSize`).
    :param bound_bytes: entropy of positions and codes (:func:`art_atmc.files.encoding.entropy_bits`), and the bytes
        that are stored as they are.
    :param codebook_bytes: size of the codebook.
    :param payload_bytes: what it takes in the file, codebook and frequencies included.
    :param dense_bytes: what it takes in memory.
    """

    name: str
    shape: tuple[int, ...]
    form: str
    nnz: int
    distinct: int
    paper_bits: int
    bound_bytes: float
    codebook_bytes: float
    payload_bytes: int
    dense_bytes: int


@final
@dataclasses.dataclass(frozen=True)
class WeightReport:
    r"""One weight W that the constraints act on.

    :param tensors: the stored tensors, U, V and C or W itself.
    :param rank: of the product :math:`(I + U) V` (or :math:`U (I + V)`); None without factors, and where these are so
        large that finding it takes seconds, or not finite.
    :param multiply_adds: of one example with the dense W; None where the layer is not counted (embedding, attention).
    :param sparse_multiply_adds: of one example where only non-zeros of W or of its factors are multiplied; of W where
        the layer can't run its factors (:class:`~art_atmc.inference.MultiplyAdds`).
    """

    name: str
    shape: tuple[int, ...]
    tensors: tuple[TensorReport, ...]
    rank: int | None
    multiply_adds: int | None
    sparse_multiply_adds: int | None


@final
@dataclasses.dataclass(frozen=True)
class Report:
    """Sizes of a compressed model, for each weight and in all.

    :param weights: what the constraints act on.
    :param others: everything else: biases, normalisation, buffers, layers that were left alone.
    :param file_bytes: size of the file.
    :param dense_file_bytes: size of a safetensors file with the dense state dict.
    """

    weights: tuple[WeightReport, ...]
    others: tuple[TensorReport, ...]
    file_bytes: int
    dense_file_bytes: int

    @property
    def totals(self) -> dict[str, float]:
        """Sums over the weights, and what the file is measured against."""
        compressed = [tensor for weight in self.weights for tensor in weight.tensors]
        every = self._every()
        bound, codebooks = sum(t.bound_bytes for t in every), sum(t.codebook_bytes for t in every)
        return {
            "nnz": sum(t.nnz for t in compressed),
            "multiply_adds": sum(w.multiply_adds or 0 for w in self.weights),
            "sparse_multiply_adds": sum(w.sparse_multiply_adds or 0 for w in self.weights),
            "paper_bytes": sum(t.paper_bits for t in compressed) / 8,
            "bound_bytes": bound,
            "codebook_bytes": codebooks,
            "payload_bytes": sum(t.payload_bytes for t in every),
            "file_bytes": self.file_bytes,
            "dense_file_bytes": self.dense_file_bytes,
            "file_to_bound": self.file_bytes / max(bound + codebooks, 1),
            "dense_to_file": self.dense_file_bytes / self.file_bytes,
        }

    def __str__(self) -> str:
        return as_text(self.table())

    def to_json(self) -> str:
        """All fields and the totals."""
        return json.dumps(dataclasses.asdict(self) | {"totals": self.totals}, indent=2)

    def table(self) -> Table:
        """For a terminal: a row for each weight, below it its factors where several hold entries, then the sums."""
        total = self.totals
        ratio = total["multiply_adds"] / max(total["sparse_multiply_adds"], 1)
        table = Table(
            title=f"file {self.file_bytes:,} bytes, 1/{total['dense_to_file']:.0f} of the dense "
            f"{self.dense_file_bytes:,}; multiply-adds 1/{ratio:.0f}",
            caption="sizes in bytes; paper: its count, without positions; bound: entropy + codebooks",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for column in ("weight", "shape", "nnz", "codes", "rank", "madds", "paper", "bound", "payload"):
            table.add_column(column, justify="left" if column == "weight" else "right", no_wrap=column != "weight")
        for weight in self.weights:
            table.add_row(*_row(plain_text(weight.name.removesuffix(".weight")), weight.shape, weight.tensors, weight))
            held = [tensor for tensor in weight.tensors if tensor.nnz]
            for tensor in held if len(held) > 1 else ():
                table.add_row(*_row(plain_text(f"  {tensor.name[-1]}"), tensor.shape, (tensor,)), style="dim")
        table.add_section()
        raw = sum(t.payload_bytes for t in self.others)
        bound = sum(t.bound_bytes + t.codebook_bytes for t in self.others)
        table.add_row("others", *[""] * 6, f"{bound:,.0f}", f"{raw:,}")
        size = f"{total['bound_bytes'] + total['codebook_bytes']:,.0f}", f"{total['payload_bytes']:,}"
        adds = _thousands(total["sparse_multiply_adds"])
        table.add_row("in all", "", f"{total['nnz']:,}", "", "", adds, f"{total['paper_bytes']:,.0f}", *size)
        return table

    def _every(self) -> list[TensorReport]:
        return [*(tensor for weight in self.weights for tensor in weight.tensors), *self.others]


def report(model: CompressedModel) -> Report:
    """Measure ``model``; decodes one weight after another."""
    names = dict.fromkeys(model.owner(name) for name in model.index.compressed)
    weights = tuple(_weight(name, model) for name in names)
    seen = {tensor.name for weight in weights for tensor in weight.tensors}
    others = tuple(_measured(name, model.tensor(name), model) for name in model.tensors if name not in seen)
    return Report(weights, others, model.file_bytes, _dense_file_bytes(model))


def _dense_file_bytes(model: CompressedModel) -> int:
    """Size of a safetensors file of the dense tensors: its header and what they take."""
    owners = dict.fromkeys(model.owner(name) for name in model.tensors)
    dense = {name: model.tensors[f"{name}.C" if name in model.index.factored else name] for name in owners}
    header: dict[str, object] = {}
    place = 0
    for name, tensor in sorted(dense.items(), key=lambda item: (-DTYPES[item[1].dtype].itemsize, item[0])):
        offsets = [place, place := place + tensor.dense_bytes]
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    return 8 + -(-len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()) // 8) * 8 + place


def _measured(name: str, tensor: Tensor, model: CompressedModel) -> TensorReport:
    encoded = model.tensors[name]
    [size] = tensor_sizes(Weights({name: tensor}, 1))
    return TensorReport(
        name,
        size.shape,
        encoded.form,
        size.nnz,
        size.distinct,
        size.paper_bits,
        entropy_bits(tensor, encoded) / 8,
        codebook_bits(tensor, encoded) / 8,
        len(encoded.record),
        encoded.dense_bytes,
    )


def _weight(name: str, model: CompressedModel) -> WeightReport:
    factored = name in model.index.factored
    names = [f"{name}.{factor}" for factor in LowRankPlusSparse.names] if factored else [name]
    values = [model.tensor(n) for n in names]
    tensors = tuple(_measured(n, value, model) for n, value in zip(names, values, strict=True))
    places = model.index.positions.get(name)
    if name in model.index.grouped and factored and places is not None:
        multiplied = int(model.folded(name).count_nonzero())
    else:
        multiplied = sum(t.nnz for t in tensors)
    return WeightReport(
        name,
        tensors[-1].shape,
        tensors,
        _rank(*values[:2]) if factored else None,
        None if places is None else places * values[-1].numel(),
        None if places is None else places * multiplied,
    )


def _rank(U: Tensor, V: Tensor) -> int | None:
    """Numerical rank of (I + U) V or U (I + V); None where it would take long, or there is none."""
    square, full = (U, V) if U.shape[0] == U.shape[1] else (V.T, U.T)
    full = full[:, full.any(0)]
    meeting = full.any(1)  # rows that are not empty; the others multiply nothing
    if 0 in full.shape or not meeting.any():
        return 0
    if not (full.isfinite().all() and square.isfinite().all()) or len(full) * meeting.sum() * full.shape[1] > RANK:
        return None
    product = full.double()
    product += square[:, meeting].double() @ product[meeting]
    product = product[product.any(1)][:, product.any(0)]
    if 0 in product.shape:
        return 0
    # The singular values of a long matrix are those of its triangular factor, which is much smaller.
    tall = product if product.shape[0] >= product.shape[1] else product.T
    return int(torch.linalg.matrix_rank(torch.linalg.qr(tall, mode="r").R))


def _row(
    name: Text, shape: tuple[int, ...], tensors: tuple[TensorReport, ...], weight: WeightReport | None = None
) -> list[Text | str]:
    adds = None if weight is None else weight.sparse_multiply_adds
    return [
        name,
        "x".join(map(str, shape)),
        f"{sum(t.nnz for t in tensors):,}",
        str(max(t.distinct for t in tensors)),
        "" if weight is None or weight.rank is None else str(weight.rank),
        "" if adds is None else _thousands(adds),
        f"{sum(t.paper_bits for t in tensors) / 8:,.0f}",
        f"{sum(t.bound_bytes + t.codebook_bytes for t in tensors):,.0f}",
        f"{sum(t.payload_bytes for t in tensors):,}",
    ]


def _thousands(count: float) -> str:
    return f"{count:,.0f}" if count < 10_000 else f"{count / 1000:,.0f} k"
