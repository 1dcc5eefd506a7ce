"""Brute force for the conformance kit: points near given weights that a projection may have missed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from art_atmc.compression.weights import Weights

__all__ = ["nearer_points", "squared_distance", "squared_norm"]

PARTITIONED = 6  # entries up to which every grouping is tried: 877 of them
SUPPORTED = 8  # entries up to which every support is tried: 256 of them


def squared_distance(a: Weights, b: Weights) -> float:
    return float((_flat(a) - _flat(b)).square().sum())


def squared_norm(a: Weights) -> float:
    return float(_flat(a).square().sum())


def nearer_points(
    weights: Weights,
    projected: Weights,
    project: Callable[[Weights], Weights],
    radius: float,
    generator: torch.Generator,
) -> Iterator[Weights]:
    """Points within squared distance ``radius`` of ``weights`` (float64), most of them in no set of interest."""
    if radius <= 0:
        return
    w, z = _flat(weights), _flat(projected)
    candidates = [_on_supports(w), _grouped(w), _exchanged(w, z, generator)]
    spread = float(w.std(correction=0)) + 1e-3
    for scale in (0.03, 0.1, 0.3, 1.0):
        for _ in range(3):
            elsewhere = w + scale * spread * torch.randn(w.shape, generator=generator, dtype=w.dtype)
            candidates.append(_flat(project(_unflat(elsewhere, weights)))[None])
    points = torch.cat(candidates)
    nearer = points[(points - w).square().sum(1) < radius]
    yield from (_unflat(point, weights) for point in nearer.unique(dim=0))


def _flat(weights: Weights) -> Tensor:
    return torch.cat([t.detach().double().reshape(-1) for t in weights.values()])


def _unflat(values: Tensor, like: Weights) -> Weights:
    parts = values.split([t.numel() for t in like.values()])
    return like.like({name: part.reshape(t.shape) for (name, t), part in zip(like.items(), parts, strict=True)})


def _on_supports(w: Tensor) -> Tensor:
    """The weights with every set of entries zeroed."""
    if w.numel() > SUPPORTED:
        return w.new_empty((0, w.numel()))
    return w * torch.tensor(list(itertools.product((0.0, 1.0), repeat=w.numel())), dtype=w.dtype)


def _grouped(w: Tensor) -> Tensor:
    """Every way to zero some entries and to replace the groups of a partition of the others by their means, or by the
    means of their magnitudes with their signs."""
    if w.numel() > PARTITIONED:
        return w.new_empty((0, w.numel()))
    member = torch.nn.functional.one_hot(_groupings(w.numel()), w.numel() + 1).to(w.dtype)[:, :, 1:]
    sizes = member.sum(1).clamp(min=1)
    means = [torch.einsum("mng,n->mg", member, v) / sizes for v in (w, w.abs())]
    plain, magnitude = (torch.einsum("mng,mg->mn", member, mean) for mean in means)
    return torch.cat([plain, magnitude * w.sign()])


@functools.cache
def _groupings(n: int) -> Tensor:
    """All labellings of n entries by groups 1, 2, ... in the order of their first members, or 0 for none."""
    labels: list[tuple[int, ...]] = [()]
    for _ in range(n):
        labels = [(*head, label) for head in labels for label in range(max(head, default=0) + 2)]
    return torch.tensor(labels)


def _exchanged(w: Tensor, z: Tensor, generator: torch.Generator, most: int = 400) -> Tensor:
    """The projection with two entries treated otherwise: one freed for one zeroed, swapped, or one set to the other."""
    n = w.numel()
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n)) if n > 1 else torch.zeros((1, 2), dtype=torch.long)
    pairs = pairs[torch.randperm(len(pairs), generator=generator)[:most]]
    rows = torch.arange(len(pairs))
    i, j = pairs.T
    freed, swapped, copied = (z.repeat(len(pairs), 1) for _ in range(3))
    freed[rows, i], freed[rows, j] = 0, w[j]
    swapped[rows, i], swapped[rows, j] = z[j], z[i]
    copied[rows, i] = z[j]
    return torch.cat([freed, swapped, copied])
