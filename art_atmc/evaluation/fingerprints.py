"""What identifies an evaluation: hashes of data and weights, the attacks' parameters, the libraries' versions."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from pydantic import JsonValue
from torch import Tensor, nn

from art_atmc.attacks.art import ARTAttack
from art_atmc.attacks.built import Built
from art_atmc.classifiers.network import is_identity

__all__ = ["classifier_hash", "data_hash", "model_hash", "parameters", "plain", "seed_of"]


def data_hash(x: Tensor, y: Tensor) -> str:
    """SHA-256 of inputs as float32 and labels as int64, in their order, with their shape."""
    digest = hashlib.sha256(repr(tuple(x.shape)).encode())
    digest.update(np.ascontiguousarray(x.cpu().numpy(), np.float32).tobytes())
    digest.update(np.ascontiguousarray(y.cpu().numpy(), np.int64).tobytes())
    return digest.hexdigest()


def classifier_hash(classifier: PyTorchClassifier) -> str:
    """SHA-256 of all that a classifier's answers and gradients depend on: weights, preprocessing and defences, loss.

    Without preprocessing and with the cross-entropy it is :func:`model_hash` of the model.

    >>> from art.estimators.classification import PyTorchClassifier
    >>> plain, shifted = (PyTorchClassifier(nn.Linear(2, 2), nn.CrossEntropyLoss(), (2,), 2, preprocessing=(mean, 1.0))
    ...                   for mean in (0.0, 0.5))
    >>> shifted.model.load_state_dict(plain.model.state_dict())
    <All keys matched successfully>
    >>> classifier_hash(plain) == model_hash(plain.model), classifier_hash(shifted) == model_hash(plain.model)
    (True, False)
    """
    parts = [described(operation) for operation in classifier.preprocessing_operations if not is_identity(operation)]
    if repr(classifier.loss) != "CrossEntropyLoss()":
        parts.append(described(classifier.loss))
    weights = model_hash(classifier.model)
    return hashlib.sha256("\n".join([weights, *parts]).encode()).hexdigest() if parts else weights


def described(part: object, within: tuple[object, ...] = ()) -> str:
    """A preprocessor, a defence or a loss as text: its class, and the values of its attributes; arrays by their hash.

    :param within: what it is a part of, so that circles end.
    """
    if isinstance(part, nn.Module):
        settings = {name: value for name, value in vars(part).items() if not name.startswith("_")}
        return f"{part!r} {described(settings, (*within, part))} {model_hash(part)}"
    if isinstance(part, np.ndarray | Tensor):
        array = np.ascontiguousarray(part.detach().cpu().numpy() if isinstance(part, Tensor) else part)
        return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(part, Mapping):
        return "{" + ", ".join(f"{key}: {described(value, within)}" for key, value in part.items()) + "}"
    if isinstance(part, list | tuple):
        return "[" + ", ".join(described(value, within) for value in part) + "]"
    if part is None or isinstance(part, bool | int | float | str | np.generic | torch.device | torch.dtype):
        return repr(part)
    name = getattr(part, "__qualname__", None)  # of functions and classes; no addresses, which differ from run to run
    if name is not None or not hasattr(part, "__dict__") or any(part is whole for whole in within):
        return str(name or type(part).__qualname__)
    return f"{type(part).__qualname__} {described(vars(part), (*within, part))}"


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
