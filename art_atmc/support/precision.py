"""Autocast, where a computation is to keep the precision of its tensors."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch

__all__ = ["autocasting", "without_autocast"]


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
