"""Randomness that is owned: what others draw from the global generators is seeded for a while, and given back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["draw_seed", "global_states", "isolated_randomness", "set_global_states"]


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


def global_states() -> dict[str, Any]:
    """The states of the global generators of torch, numpy and Python, as tensors and numbers."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, words, gauss = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_global_states(states: dict[str, Any]) -> None:
    """Put the global generators into states that :func:`global_states` gave.

    >>> states = global_states()
    >>> first = torch.rand(1), np.random.rand(), random.random()
    >>> set_global_states(states)
    >>> first == (torch.rand(1), np.random.rand(), random.random())
    True
    """
    torch.set_rng_state(states["torch"])
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
