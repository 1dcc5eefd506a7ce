r"""What a perturbation may be: the nearest point of a ball and a box together, for every norm that attacks use."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["NORMS", "nearest"]

NORMS = (math.inf, 2, 1, 0)


def nearest(delta: Tensor, eps: float, norm: float, lower: Tensor, upper: Tensor) -> Tensor:
    r"""The nearest point of :math:`\{ \|\delta\|_p \le \epsilon \} \cap [l, u]` to each perturbation.

    With r the room of an entry, from 0 to the bound on its side, and :math:`|\delta|` taken entry by entry, it is

    .. math:: \min(|\delta|, \epsilon, r), \qquad \min(t\,|\delta|, r), \qquad \min(\max(|\delta| - \lambda, 0), r)

    for :math:`p = \infty, 2, 1`, with the largest :math:`t \le 1` and the smallest :math:`\lambda \ge 0` that keep to
    the radius. Both are exact, from the sorted places where an entry meets its bound or zero, where the bisections of
    released code leave a rest. For p = 0 the :math:`\lfloor\epsilon\rfloor` entries stay that save the most of the
    squared distance, :math:`\delta_i^2 - (|\delta_i| - r_i)_+^2`.

    :param delta: (N, ...).
    :param eps: radius, positive; for p = 0 a number of entries.
    :param norm: p: infinity, 2, 1 or 0.
    :param lower: l, at most 0, broadcasting with ``delta``; infinite where there is no bound. ``upper`` likewise.

    >>> delta, low, high = torch.tensor([[3.0, 1.0, -0.5]]), torch.tensor(-1.0), torch.tensor(1.0)
    >>> for norm, eps in ((math.inf, 0.8), (2, 1.25), (1, 1.8), (0, 1)):
    ...     print(nearest(delta, eps, norm, low, high))
    tensor([[ 0.8000,  0.8000, -0.5000]])
    tensor([[ 1.0000,  0.6708, -0.3354]])
    tensor([[ 1.0000,  0.6500, -0.1500]])
    tensor([[1., 0., 0.]])
    """
    if norm == math.inf:
        return torch.minimum(torch.maximum(delta, lower.clamp(min=-eps)), upper.clamp(max=eps))
    clipped = torch.minimum(torch.maximum(delta, lower), upper)
    flat = clipped.flatten(1)
    if norm == 0:
        gain = (delta.square() - (delta - clipped).square()).flatten(1)
        kept = gain.topk(min(math.floor(eps), gain.shape[1]), dim=1).indices
        return torch.zeros_like(flat).scatter_(1, kept, flat.gather(1, kept)).reshape(delta.shape)
    outside = torch.linalg.vector_norm(flat, norm, dim=1) > eps
    if not outside.any():
        return clipped
    size = delta.flatten(1)[outside].abs().double()
    room = torch.where(delta > 0, upper, -lower).expand_as(delta).flatten(1)[outside].double()
    entries = _shortened(size, room, eps) if norm == 2 else _thresholded(size, room, eps)
    result = flat.clone()
    result[outside] = torch.copysign(entries.to(delta.dtype), delta.flatten(1)[outside])
    return result.reshape(delta.shape)


def _shortened(size: Tensor, room: Tensor, eps: float) -> Tensor:
    r""":math:`\min(t\,s, r)` of length eps, for rows that are longer: a quadratic between two of the sorted r / s."""
    bound, order = (room / size).nan_to_num_(nan=math.inf).sort(dim=1)  # 0 / 0: no entry, no bound
    at_bound = room.gather(1, order).square_().nan_to_num_(posinf=0.0)
    free = size.gather(1, order).square_()
    left = free.flip(1).cumsum(1).flip(1)  # of the entries from here on; summed from the end, so that little cancels
    taken = at_bound.cumsum(1) - at_bound  # by those before
    # The first segment, between two bounds, at whose end the row is too long, or has none.
    ends = taken + bound.clamp(max=1.0).square() * left
    first = (ends >= eps**2).to(torch.uint8).argmax(dim=1, keepdim=True)
    t = ((eps**2 - taken.gather(1, first)).clamp_(min=0) / left.gather(1, first)).sqrt_()
    return torch.minimum(t * size, room)


def _thresholded(size: Tensor, room: Tensor, eps: float) -> Tensor:
    r""":math:`\min((s - \lambda)_+, r)` of sum eps, for rows whose sum is larger: linear between two of the sorted
    thresholds where an entry leaves its bound, :math:`s - r`, or becomes zero, s."""
    leaves = (size - room).clamp_(min=0)
    places, order = torch.cat([leaves, size], dim=1).sort(dim=1)
    slopes = torch.cat([torch.full_like(size, -1.0), torch.ones_like(size)], dim=1).gather(1, order).cumsum(1)
    falls = slopes[:, :-1] * places.diff(dim=1)
    total = torch.minimum(size, room).sum(dim=1, keepdim=True)
    sums = torch.cat([total, total + falls.cumsum(1)], dim=1)  # at each place
    first = (sums <= eps).to(torch.uint8).argmax(dim=1, keepdim=True).clamp_(min=1)
    before = first - 1
    slope = slopes.gather(1, before).clamp_(max=-1.0)
    threshold = places.gather(1, before) + (eps - sums.gather(1, before)) / slope
    return torch.minimum((size - threshold).clamp_(min=0), room)
