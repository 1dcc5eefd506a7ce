"""Randomness that is owned: what others draw from the global generators is seeded for a while, and given back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["draw_seed", "isolated_randomness"]


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, which dropout and ART's attacks draw from; restore them.

    >>> with isolated_randomness(3):
    ...     first = torch.rand(2), np.random.rand(), random.random()
    >>> with isolated_randomness(3):
    ...     again = torch.rand(2), np.random.rand(), random.random()
    >>> torch.equal(first[0], again[0]), first[1:] == again[1:]
    (True, True)
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def draw_seed(generator: torch.Generator) -> int:
    """A seed for another generator, drawn from one that is owned."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
