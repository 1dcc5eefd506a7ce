"""A rehearsal: whatever a file would refuse of a network, said at once and before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from art_atmc.compression.factors import factors_of
from art_atmc.compression.weights import Weights, compressible, unwrapped
from art_atmc.files.container import MAX_TEXT
from art_atmc.files.encoding import DTYPES
from art_atmc.files.index import Entry, Index, check_names
from art_atmc.files.manifest import Manifest, plain_json
from art_atmc.files.state_names import Names, factored, stored, tied

__all__ = ["check_encodable", "weights_of"]


def check_encodable(
    model: nn.Module, ignore: Sequence[str] = (), *, decompose: bool = False, metrics: Mapping[str, Any] | None = None
) -> None:
    r"""Refuse a network that could not be compressed, encoded, restored or exported, whatever its weights will be.

    It takes milliseconds and changes nothing, so it is asked before a training, not after it.

    :param model: a network, trained or not, factored or not.
    :param ignore: patterns of layers that stay dense, see :func:`art_atmc.compressible`.
    :param decompose: whether the weights will be factored before they are stored.
    :param metrics: figures for the file.
    :raises ValueError: naming at once all that a file can't hold, each with a remedy.

    >>> check_encodable(nn.Linear(2, 2))
    >>> check_encodable(nn.Sequential(nn.LazyLinear(2)), ignore=["0"])
    Traceback (most recent call last):
    ...
    ValueError: the network can't be stored:
      `0.weight` has no shape yet (lazy layer); run one batch through the network first
      `0.bias` has no shape yet (lazy layer); run one batch through the network first
    """
    model = unwrapped(model)
    problems = [*_tensors(model), *_names(model, ignore, decompose), *_metrics(metrics)]
    if problems:
        raise ValueError("the network can't be stored:\n  " + "\n  ".join(dict.fromkeys(problems)))


def weights_of(model: nn.Module, ignore: Sequence[str]) -> Weights:
    """What constraints act on, by our names; also in a network that is frozen, since nothing is trained any more."""
    names = Names(unwrapped(model))
    with _trainable(model):
        weights = compressible(model, ignore)
    return weights.like({names.plain(name): tensor.detach() for name, tensor in weights.items()})


def _tensors(model: nn.Module) -> Iterator[str]:
    state = stored(model)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            yield f"`{name}` is a {type(tensor).__name__}, no tensor; keep it in a buffer or in the network's code"
        elif nn.parameter.is_lazy(tensor):
            yield f"`{name}` has no shape yet (lazy layer); run one batch through the network first"
        elif str(tensor.dtype).removeprefix("torch.") not in DTYPES:
            yield f"`{name}` is of type {tensor.dtype}; the types of a file are {', '.join(DTYPES)}"
        elif tensor.layout is not torch.strided:
            yield f"`{name}` is of layout {tensor.layout}; make it dense"
    names = Names(model)
    for name, _ in model.named_parameters():
        if ".parametrizations." not in f".{name}" and names.plain(name) not in state:
            yield f"`{names.plain(name)}` is not in the network's state_dict(), which must hold every parameter"


def _names(model: nn.Module, ignore: Sequence[str], decompose: bool) -> Iterator[str]:
    """What the index could not say; asked of one that holds no data."""
    state = {name: tensor for name, tensor in stored(model).items() if _is_plain(tensor)}
    ties = tied(state)
    entries = {name: _entry(tensor) for name, tensor in state.items() if name not in ties}
    weights, within = _compressible(model, ignore), [*factored(model)]
    if decompose and weights is not None:
        whole = [name for name in weights if name in entries and name.rpartition(".")[0] not in within]
        factors = factors_of(weights, within)
        entries = {name: entry for name, entry in entries.items() if name not in whole}
        entries |= {name: _entry(tensor) for name, tensor in factors.items()}
        weights, within = factors, [*within, *whole]
    compressed = [name for name in weights or () if name in entries]
    places = dict.fromkeys(compressed, 1)
    index = Index(tensors=entries, factored=within, compressed=compressed, tied=ties, positions=places)
    try:
        check_names(index)
    except ValueError as error:
        yield f"{error}; rename the modules"
    if len(index.model_dump_json(exclude_defaults=True)) > 0.9 * MAX_TEXT:
        yield f"the names of its {len(entries)} tensors are longer than {MAX_TEXT} bytes together; use shorter ones"


def _metrics(metrics: Mapping[str, Any] | None) -> Iterator[str]:
    try:
        Manifest(metrics=plain_json(metrics or {}))
    except ValidationError as error:
        for place in dict.fromkeys(str(one["loc"][1]) for one in error.errors() if len(one["loc"]) > 1):
            yield f"`metrics[{place!r}]` must be numbers, texts, lists and dictionaries of them, as JSON has them"


def _compressible(model: nn.Module, ignore: Sequence[str]) -> Weights | None:
    """None where there are none, which :func:`compressible` says better than this module could."""
    try:
        return weights_of(model, ignore)
    except ValueError:
        return None


def _is_plain(tensor: Any) -> bool:
    known = isinstance(tensor, Tensor) and not nn.parameter.is_lazy(tensor)
    return known and str(tensor.dtype).removeprefix("torch.") in DTYPES


def _entry(tensor: Tensor) -> Entry:
    return Entry(dtype=str(tensor.dtype).removeprefix("torch."), shape=list(tensor.shape), bytes=tensor.numel())


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
