"""Plain layers for inference that compute a linear or convolution layer with fewer operations."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from art_atmc.support.precision import autocasting, without_autocast

__all__ = ["Block", "Blocks", "CompressedRows", "Layer"]

Layer: TypeAlias = nn.Linear | nn.Conv2d


@final
@dataclasses.dataclass(frozen=True)
class Block:
    """The rows ``outputs`` of a product that reads the channels ``inputs``: with a kernel, then perhaps a matrix."""

    outputs: Tensor
    inputs: Tensor
    kernel: Tensor
    mixing: Tensor | None = None

    @property
    def multiply_adds(self) -> int:
        """At one output position."""
        return self.kernel.numel() + (0 if self.mixing is None else self.mixing.numel())


@final
class Blocks(nn.Module):
    r"""A layer by blocks of its weight, :math:`y = b + \sum_i S_i\, M_i\, K_i\, x_{J_i}`.

    :math:`K_i` is a kernel on the input channels :math:`J_i`, :math:`M_i` a matrix or the identity, :math:`S_i` puts
    its rows among those of y.

    :param layer: the linear or 2-D convolution layer, which says how kernels meet the input.
    :param blocks: of its weight.
    """

    parts: Any
    rest: Tensor | None

    def __init__(self, layer: Layer, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(_Part(layer, block, leads=i == 0) for i, block in enumerate(blocks))
        rest = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
        spreads = self.parts[0].outputs is not None
        self.register_buffer("rest", rest.detach().clone() if spreads else None)

    def forward(self, x: Tensor) -> Tensor:
        lead, *others = self.parts
        y: Tensor = lead(x)
        if self.rest is not None:
            y = lead.spread(y, self.rest)
        for part in others:
            y = y.index_add(part.axis, part.outputs, part(x))
        return y


@final
class _Part(nn.Module):
    """One block; the leading one has the bias of its rows, and says no outputs where it has all."""

    inputs: Tensor | None
    outputs: Any

    def __init__(self, layer: Layer, block: Block, leads: bool) -> None:
        super().__init__()
        rows, channels = layer.weight.shape[:2]
        self.axis = -1 if isinstance(layer, nn.Linear) else -3
        bias = layer.bias.detach()[block.outputs] if leads and layer.bias is not None else None
        if block.mixing is None:
            self.layer: nn.Module = _kernel(layer, block.kernel, bias)
        else:
            self.layer = nn.Sequential(_kernel(layer, block.kernel, None), _matrix(layer, block.mixing, bias))
        self.register_buffer("inputs", block.inputs if len(block.inputs) < channels else None)
        self.register_buffer("outputs", None if leads and len(block.outputs) == rows else block.outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x if self.inputs is None else x.index_select(self.axis, self.inputs))
        return y

    def spread(self, y: Tensor, rest: Tensor) -> Tensor:
        """All outputs: those of this block, and ``rest``, one number for each output, elsewhere."""
        shape = list(y.shape)
        shape[self.axis] = len(rest)
        everywhere = rest.to(y.dtype).reshape(-1, *[1] * (-1 - self.axis)).expand(shape)
        return everywhere.clone(memory_format=torch.contiguous_format).index_copy_(self.axis, self.outputs, y)


def _kernel(layer: Layer, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer that meets its input as ``layer`` does."""
    if isinstance(layer, nn.Linear):
        return _matrix(layer, weight, bias)
    rows, channels = weight.shape[:2]
    how = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    made = nn.Conv2d(channels, rows, *how, padding_mode=layer.padding_mode, device="meta")  # type: ignore[arg-type]
    return _filled(made, weight, bias)


def _matrix(layer: Layer, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer that multiplies the channels by ``weight``, at each position for itself."""
    rows, channels = weight.shape
    if isinstance(layer, nn.Linear):
        return _filled(nn.Linear(channels, rows, device="meta"), weight, bias)
    return _filled(nn.Conv2d(channels, rows, 1, device="meta"), weight[:, :, None, None], bias)


def _filled(layer: Layer, weight: Tensor, bias: Tensor | None) -> Layer:
    """``layer``, made without drawing random numbers, with these parameters."""
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return layer


@final
class CompressedRows(nn.Module):
    r"""A linear layer that multiplies by the non-zeros of its weight only, :math:`y = W x + b` with W in compressed
    rows (CSR). Its gradient is a product with the compressed rows of :math:`W^\top`, since torch's own would be dense.

    :param weight: W, shaped (m, n), float32 or float64.
    :param bias: b, shaped (m,), or None.

    >>> CompressedRows(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([1.0, 3.0]))(torch.tensor([5.0, 7.0]))
    tensor([15.,  3.])
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.W = _Compressed(weight.detach())
        self.W_T = _Compressed(weight.detach().T)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        *batch, n = x.shape
        flat = x.reshape(-1, n)
        if autocasting(x.device.type):  # compressed rows multiply in their own precision only
            flat = flat.to(self.W.values.dtype)
        with without_autocast(x.device.type):
            if torch.is_grad_enabled() and x.requires_grad:
                y: Tensor = _Product.apply(flat, self.W, self.W_T)  # type: ignore[no-untyped-call]
            else:
                y = self.W.times(flat)  # a fifth of a small layer's time less
        y = y.reshape(*batch, self.W.shape[0])
        return y if self.bias is None else y + self.bias


@final
class _Compressed(nn.Module):
    """A matrix in compressed rows; as plain buffers, since modules that hold sparse tensors can't be copied."""

    starts: Tensor
    indices: Tensor
    values: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.shape = tuple(matrix.shape)
        with warnings.catch_warnings():  # torch says once a process that the format is in beta
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            compressed = matrix.to_sparse_csr()
        self.register_buffer("starts", compressed.crow_indices().int())  # a fifth faster than 64 bits
        self.register_buffer("indices", compressed.col_indices().int())
        self.register_buffer("values", compressed.values())

    def times(self, x: Tensor) -> Tensor:
        """The product with every row of ``x``."""
        W = torch.sparse_csr_tensor(self.starts, self.indices, self.values, self.shape, check_invariants=False)
        # Contiguous, or the next layer would pay for the strides.
        return torch.mv(W, x[0])[None] if len(x) == 1 else (W @ x.T).T.contiguous()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W: _Compressed, W_T: _Compressed) -> Tensor:
        ctx.backwards = W_T, W
        return W.times(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        product: Tensor = _Product.apply(gradient, *ctx.backwards)  # type: ignore[no-untyped-call]
        return product, None, None
