r"""How large compressed weights are by the count of the ATMC paper: values and codebooks, not positions."""

from __future__ import annotations

import dataclasses
import math
from typing import final

from torch import Tensor

from art_atmc.compression.weights import Weights

__all__ = ["TensorSize", "paper_bits", "tensor_sizes"]


@final
@dataclasses.dataclass(frozen=True)
class TensorSize:
    r"""The content of one tensor and its size by the paper's count.

    .. math:: \text{bits} = \min\bigl(\text{nnz} \cdot \lceil\log_2 d\rceil + 32\, d,\; 32\,\text{nnz}\bigr)

    with d distinct non-zero values; the count of the released code (``reference`` inference scripts), which takes the
    plain 32 bits a value also where :math:`2^{\lceil\log_2 d\rceil} \ge \text{nnz}`. Positions cost nothing in it, so
    it is *not* the size of a file.
    """

    name: str
    shape: tuple[int, ...]
    nnz: int
    distinct: int

    @property
    def paper_bits(self) -> int:
        width = math.ceil(math.log2(self.distinct)) if self.distinct > 1 else 1
        plain = 32 * self.nnz
        return plain if 2**width >= self.nnz else min(plain, self.nnz * width + 32 * self.distinct)


def tensor_sizes(weights: Weights) -> list[TensorSize]:
    """Shape, non-zero entries and distinct non-zero values of every tensor.

    >>> import torch
    >>> tensor_sizes(Weights({"w": torch.tensor([[0.0, 2.0], [2.0, -1.0]])}))
    [TensorSize(name='w', shape=(2, 2), nnz=3, distinct=2)]
    """
    return [_measured(name, tensor.detach()) for name, tensor in weights.items()]


def paper_bits(weights: Weights) -> int:
    """Size of all tensors together by the paper's count, in bits.

    >>> import torch
    >>> paper_bits(Weights({"w": torch.ones(1000)}))          # one code of one bit, and its value
    1032
    """
    return sum(size.paper_bits for size in tensor_sizes(weights))


def _measured(name: str, tensor: Tensor) -> TensorSize:
    values = tensor[tensor != 0]
    return TensorSize(name, tuple(tensor.shape), values.numel(), values.unique().numel())
