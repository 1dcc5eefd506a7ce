"""What identifies an evaluation: hashes of data and weights, the attacks' parameters, the libraries' versions."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from art_atmc.attacks.art import ARTAttack
from art_atmc.attacks.built import Built

__all__ = ["data_hash", "model_hash", "parameters", "plain", "seed_of"]


def data_hash(x: Tensor, y: Tensor) -> str:
    """SHA-256 of inputs as float32 and labels as int64, in their order, with their shape."""
    digest = hashlib.sha256(repr(tuple(x.shape)).encode())
    digest.update(np.ascontiguousarray(x.cpu().numpy(), np.float32).tobytes())
    digest.update(np.ascontiguousarray(y.cpu().numpy(), np.int64).tobytes())
    return digest.hexdigest()


def model_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, with their names, dtypes and shapes.

    >>> model_hash(nn.Linear(2, 2)) == model_hash(nn.Linear(2, 2))
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            flat = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {flat.dtype} {tuple(flat.shape)}".encode())
            digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def seed_of(seed: int, name: str) -> int:
    """The seed of an attack's random numbers: its own, so that an attack gives the same alone, first or resumed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")


def parameters(method: Any) -> dict[str, JsonValue]:
    """The parameters of an attack as JSON knows them, ``type`` first.

    >>> from art_atmc import PGD
    >>> parameters(PGD(0.1, 0.025, 7))["norm"]
    'inf'
    """
    if isinstance(method, ARTAttack):
        method = method.attack
    if isinstance(method, Built):
        return {"type": method.attack.__name__, **{key: plain(value) for key, value in method.options.items()}}
    if dataclasses.is_dataclass(method):
        values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    else:
        names = [name for name in getattr(method, "attack_params", []) if name != "verbose"]
        values = {name: getattr(method, name, None) for name in names}
    return {"type": type(method).__name__, **{key: plain(value) for key, value in values.items()}}


def plain(value: Any) -> JsonValue:
    """A value as JSON knows it: infinity, functions and classes by name, arrays as lists."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) or hasattr(value, "attack_params"):
        return dict(parameters(value))
    return getattr(value, "__name__", type(value).__name__)  # no addresses, which differ from run to run
