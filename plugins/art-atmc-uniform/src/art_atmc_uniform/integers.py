"""The integers behind weights on a grid, to be shipped in their place."""

from __future__ import annotations

import dataclasses
from typing import final

import torch
from torch import Tensor

from art_atmc_uniform.constraint import UniformQuantization
from art_atmc_uniform.grid import nonzeros, scales_of

__all__ = ["Integers", "integers"]


@final
@dataclasses.dataclass(frozen=True)
class Integers:
    r"""A tensor as integers, :math:`w = s\,(q - z)`.

    ``values`` is q, int8 up to 8 bits, else int16, in the shape of the tensor. ``scale`` s (of the tensor's dtype) and
    ``zero_point`` z (int32) are scalars, or vectors with an entry for each channel (dim 0).
    """

    values: Tensor
    scale: Tensor
    zero_point: Tensor

    def dequantize(self) -> Tensor:
        """The tensor, bit for bit."""
        shape = (-1,) + (1,) * (self.values.dim() - 1) if self.scale.dim() else ()
        scale, zero_point = self.scale.reshape(shape), self.zero_point.reshape(shape)
        wide = torch.float64 if scale.dtype == torch.float64 else torch.float32
        return ((self.values.int() - zero_point) * scale.to(wide)).to(scale.dtype)


def integers(tensor: Tensor, constraint: UniformQuantization) -> Integers:
    """The integers, scales and zero points of a tensor that obeys ``constraint``.

    :raises ValueError: when it does not.

    >>> held = integers(torch.tensor([0.5, 0.0, -1.5]), UniformQuantization(bits=3))
    >>> held.values, held.scale
    (tensor([ 1,  0, -3], dtype=torch.int8), tensor(0.5000))
    >>> held.dequantize()
    tensor([ 0.5000,  0.0000, -1.5000])
    """
    rows, grid = constraint.rows(tensor), constraint.grid
    if not rows.numel():
        raise ValueError("the tensor is empty: there is nothing to turn into integers")
    scale = scales_of(nonzeros(rows), grid, constraint.power_of_two)
    empty = ~rows.any(dim=1)
    if off := int(((scale == 0) & ~empty).sum()):
        raise ValueError(
            f"{off} of {len(rows)} grids do not hold their weights: the tensor does not obey {constraint}; "
            "project it first, or take the constraint with which it was trained"
        )
    scale = torch.where(empty, torch.ones_like(scale), scale)
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    n = (rows.to(wide) / scale.to(wide)[:, None]).round().to(torch.int32)
    zero_point = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    if grid.low is None:
        zero_point = -(2 ** (constraint.bits - 1)) - n.amin(dim=1).clamp(max=0)
    values = (n + zero_point[:, None]).to(torch.int8 if constraint.bits <= 8 else torch.int16).reshape(tensor.shape)
    if constraint.per_channel and tensor.dim() > 1:
        return Integers(values, scale, zero_point)
    return Integers(values, scale[0], zero_point[0])
