r"""The set an attack may choose from, :math:`B_p(x, \epsilon) \cap [l, h]`: its projection, samples, membership."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from art_atmc.attacks.base import ClipValues

__all__ = ["Box", "box", "inside", "length", "project", "random_point"]

Box: TypeAlias = tuple[Tensor, Tensor]
"""Smallest and largest valid input, each broadcasting with one input; infinite where there is no limit."""

ROUNDING = 1e-6  # absolute, of inputs in float32; the radius gets a relative 1e-4 besides
HALVINGS = 40


def box(clip_values: ClipValues | None, x: Tensor) -> Box:
    """The clip values as tensors like ``x``."""
    low, high = (-math.inf, math.inf) if clip_values is None else clip_values
    return torch.as_tensor(low).to(x), torch.as_tensor(high).to(x)


def length(batch: Tensor, norm: float) -> Tensor:
    """The p-norm of each sample, shaped to broadcast with the batch."""
    size: Tensor = torch.linalg.vector_norm(batch, norm, dim=tuple(range(1, batch.dim())), keepdim=True)
    return size


def project(point: Tensor, x: Tensor, eps: float, norm: float, limits: Box) -> Tensor:
    r"""A point of :math:`B_p(x, \epsilon) \cap [l, h]` near ``point``, for x in the box.

    For p = infinity and p = 1 it is the nearest one,

    .. math:: x + \operatorname{sign}(\delta_i) \min\bigl(\max(|\delta_i| - \lambda, 0),\; r_i\bigr), \qquad
              \delta = \text{point} - x

    for p = 1, where :math:`r_i` is the room to the box and :math:`\lambda \ge 0` the smallest threshold that makes it
    fit (found by bisection; Croce and Hein 2021, https://arxiv.org/abs/2103.01208, Proposition 2.1). For p = 2 it is
    the nearest point of the ball, then clipped, which never leaves the ball.

    >>> x, point = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.5]])
    >>> project(point, x, 0.9, 1, box(None, x)).round(decimals=4)
    tensor([[0.7000, 0.2000]])
    """
    low, high = limits
    if norm == math.inf:
        return torch.minimum(torch.maximum(point, torch.maximum(x - eps, low)), torch.minimum(x + eps, high))
    delta = point - x
    if norm == 2:
        shrunk = x + delta * (eps / length(delta, 2)).clamp_(max=1.0)
        return torch.minimum(torch.maximum(shrunk, low), high)
    room = torch.where(delta > 0, high - x, x - low).clamp_(min=0)
    size = delta.abs()

    def shrunk_by(threshold: Tensor) -> Tensor:
        return torch.minimum((size - threshold).clamp_(min=0), room)

    below, above = torch.zeros_like(length(size, math.inf)), length(size, math.inf)
    fits = length(shrunk_by(below), 1) <= eps
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        small = length(shrunk_by(middle), 1) <= eps
        below, above = torch.where(small, below, middle), torch.where(small, middle, above)
    return x + delta.sign() * shrunk_by(torch.where(fits, torch.zeros_like(above), above))


def random_point(x: Tensor, eps: float, norm: float, limits: Box, generator: torch.Generator | None) -> Tensor:
    """A random point of the set: uniform in the cube for p = infinity, else in a uniform direction at distance eps,
    projected."""
    noise = torch.empty_like(x, device=x.device if generator is None else generator.device)
    if norm == math.inf:
        noise.uniform_(-eps, eps, generator=generator)
    else:
        noise.normal_(generator=generator)
        noise.mul_(eps / length(noise, norm))
    return project(x + noise.to(x), x, eps, norm, limits)


def inside(points: Tensor, x: Tensor, eps: float, norm: float, limits: Box) -> Tensor:
    """Which samples lie in the set, up to the rounding of float32; bool (N,). NaN lies nowhere.

    >>> x = torch.zeros(3, 2)
    >>> points = torch.tensor([[0.1, 0.1], [0.2, 0.0], [-0.1, 0.0]])
    >>> inside(points, x, eps=0.1, norm=math.inf, limits=box((0.0, 1.0), x))
    tensor([ True, False, False])
    """
    rounding = ROUNDING * length(x, math.inf).flatten().clamp(min=1)
    near = length(points.double() - x.double(), norm).flatten() <= eps * (1 + 1e-4) + rounding
    low, high = limits
    valid = (points >= low - ROUNDING * low.abs().clamp(min=1)) & (points <= high + ROUNDING * high.abs().clamp(min=1))
    return near & valid.flatten(1).all(dim=1)
