"""What the laws compare: weights, states, the global random generators."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_atmc.compression.weights import Weights

__all__ = ["RARE_SEED", "equal", "normal", "random_state", "same", "summary"]

RARE_SEED = 1_593_041_127  # for the global generators: seeding them again, with 0 say, must change them


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def same(a: Any, b: Any) -> bool:
    """Whether two states, of tensors within mappings and sequences, are equal bit for bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def random_state() -> bytes:
    """The global generators of torch, numpy and Python."""
    drawn = np.random.get_state()  # noqa: NPY002
    return pickle.dumps((torch.get_rng_state().numpy().tobytes(), drawn, random.getstate()))


def normal(template: Weights, generator: torch.Generator) -> Weights:
    return template.map(lambda t: torch.randn(t.shape, generator=generator))


def summary(example: object) -> str:
    """Small weights in full, larger ones by their shapes."""
    if isinstance(example, Weights) and sum(t.numel() for t in example.values()) <= 16:
        listed = ", ".join(f"{n}: {t.detach().double().cpu().numpy().round(4).tolist()}" for n, t in example.items())
        return f"{{{listed}}} of dense size {example.dense_size}"
    return repr(example)
