"""Autocast, where a computation is to keep the precision of its tensors, and what bfloat16 costs on this processor."""

from __future__ import annotations

import contextlib
import time
from contextlib import AbstractContextManager
from typing import Any

import torch

__all__ = ["autocasting", "bfloat16_slowdown", "without_autocast"]


def autocasting(device: str) -> bool:
    """Whether ``torch.autocast`` is active for a type of device."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """A block in which a type of device casts nothing.

    >>> a = torch.ones(1, 1)
    >>> with torch.autocast("cpu", torch.bfloat16), without_autocast("cpu"):
    ...     (a @ a).dtype
    torch.float32
    """
    return torch.autocast(device, enabled=False) if autocasting(device) else contextlib.nullcontext()


def bfloat16_slowdown() -> float:
    """How many times as long a product takes in bfloat16 as in float32, on this processor: below one where it
    multiplies in bfloat16, and several times where that is imitated. A trial of some milliseconds.

    >>> bfloat16_slowdown() > 0
    True
    """

    def seconds(factor: torch.Tensor) -> float:
        taken = []
        for _ in range(3):  # the fastest of them was disturbed least
            begin = time.perf_counter()
            _ = factor @ factor
            taken.append(time.perf_counter() - begin)
        return min(taken)

    factor = torch.ones(256, 256)
    return seconds(factor.bfloat16()) / seconds(factor)
