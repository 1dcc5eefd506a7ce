"""Transformations of the input as risk domains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from art_atmc.attacks import Problem
from art_atmc_minmax.domains import Domains

__all__ = ["NAMED", "Transformation", "Transformations"]

Transformation = Callable[[Tensor], Tensor]


def _enlarged(x: Tensor) -> Tensor:
    """The middle four fifths of images, at their size."""
    height, width = (max(round(0.1 * side), 1) for side in x.shape[-2:])
    inner = x[..., height:-height, width:-width]
    return interpolate(inner, size=x.shape[-2:], mode="bilinear", align_corners=False)


NAMED: Final[Mapping[str, Transformation]] = MappingProxyType(
    {
        "identity": nn.Identity(),
        "flip_lr": lambda x: x.flip(-1),
        "flip_ud": lambda x: x.flip(-2),
        "brighter": lambda x: x + 0.1,
        "darker": lambda x: x.clamp(min=0) ** 1.3,
        "enlarged": _enlarged,
    }
)
"""The six of the paper, for images in [0, 1]: as they are, mirrored either way, brighter by 0.1, by the power of 1.3,
and the middle four fifths at full size."""
KNOWN: Final[Mapping[Transformation, str]] = MappingProxyType({f: name for name, f in NAMED.items()})


@final
@dataclasses.dataclass(frozen=True)
class Transformations(Domains):
    r"""The domains are transformations of the perturbed input, :math:`F_k = \mathbb{E}\, f(t_k(x + \delta))`.

    :param functions: each maps a batch of inputs to a batch of that shape, differentiably; or is a name in
        :data:`NAMED`; or one of ART's expectations over transformations (``EoTPyTorch``), whose draws count by their
        mean.
    :raises ValueError: for an empty list and unknown names; when an attack begins, naming the transformations that
        change shapes or pass no gradient back to the input.

    >>> Transformations(["identity", lambda x: x.flip(-1)]).names
    ('identity', 'transformation 2')
    """

    functions: tuple[Transformation, ...]

    def __init__(self, functions: Iterable[Transformation | str]) -> None:
        given = tuple(functions)
        if unknown := [f for f in given if isinstance(f, str) and f not in NAMED]:
            raise ValueError(f"there are no transformations {', '.join(unknown)}; known are {', '.join(NAMED)}")
        object.__setattr__(self, "functions", tuple(NAMED[f] if isinstance(f, str) else f for f in given))
        if not self.functions:
            raise ValueError("`functions` is empty; give at least one transformation")
        if strangers := [type(f).__name__ for f in self.functions if not callable(f)]:
            raise TypeError(f"transformations must be callable with a batch, got {', '.join(strangers)}")

    @property
    def names(self) -> tuple[str, ...]:
        own = [getattr(f, "__name__", type(f).__name__) for f in self.functions]
        own = [KNOWN.get(f, name) for f, name in zip(self.functions, own, strict=True)]
        plain = [name.isidentifier() and name not in ("function", "partial") and own.count(name) == 1 for name in own]
        return tuple(
            name if usable else f"transformation {k + 1}"
            for k, (name, usable) in enumerate(zip(own, plain, strict=True))
        )

    def check(self, problem: Problem, x: Tensor) -> None:
        faults = []
        for name, function in zip(self.names, self.functions, strict=True):
            probe = x[:2].detach().clone().requires_grad_()
            with torch.enable_grad():
                moved = _transformed(function, probe)
                whole = moved.shape[1:] == probe.shape[1:] and len(moved) and len(moved) % len(probe) == 0
                if not whole or (len(moved) != len(probe) and not _draws(function)):
                    faults.append(f"{name} makes {tuple(moved.shape)} of {tuple(probe.shape)}")
                elif not moved.requires_grad:
                    faults.append(f"{name} passes no gradient back to its input")
                elif not moved.isfinite().all():
                    faults.append(f"{name} makes NaN or infinite values")
        if faults:
            raise ValueError(
                f"transformations must keep the shape of a batch and be differentiable: {'; '.join(faults)}; write "
                "them in torch, without .detach() or numpy, and resize what they cut out"
            )

    def answers(self, problem: Problem, points: Tensor) -> Sequence[Tensor]:
        return [problem.network(_transformed(function, points)) for function in self.functions]


def _draws(function: Transformation) -> bool:
    from art.preprocessing.expectation_over_transformation.pytorch import EoTPyTorch

    return isinstance(function, EoTPyTorch)


def _transformed(function: Transformation, points: Tensor) -> Tensor:
    if _draws(function):
        return function.forward(points)[0]  # type: ignore[attr-defined, no-any-return]
    return function(points)
