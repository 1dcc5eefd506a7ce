"""What a compressed model is made of, and how the receiver of one checks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from art.estimators.classification import PyTorchClassifier
from pydantic import JsonValue
from torch import Tensor, nn

from art_atmc.compression.constraints import Constraint
from art_atmc.compression.weights import Weights, matches, unwrapped
from art_atmc.files.encodable import check_encodable, weights_of
from art_atmc.files.encoding import DTYPES, EncodedTensor, encode
from art_atmc.files.index import Entry, Index, check_names
from art_atmc.files.manifest import Manifest, classifier_fields, library_versions, plain_json
from art_atmc.files.state_names import Names, factored, stored, tied
from art_atmc.files.words import rounded
from art_atmc.inference.optimize import uses

if TYPE_CHECKING:
    from art_atmc.files.model import CompressedModel

__all__ = ["check_members", "encoded_parts", "verify"]


def encoded_parts(
    given: PyTorchClassifier | nn.Module,
    constraints: Sequence[Constraint],
    ignore: Sequence[str],
    network: str | None,
    metrics: Mapping[str, JsonValue] | None,
    members: Mapping[str, CompressedModel],
    input_shape: Sequence[int] | None,
    mantissa_bits: int | None,
) -> tuple[Manifest, Index, Mapping[str, EncodedTensor]]:
    """Manifest, index and tensors of a network; see :meth:`art_atmc.CompressedModel.of`."""
    model, fields = _described(given, input_shape)
    if mantissa_bits is not None and not 1 <= mantissa_bits <= 52:
        raise ValueError(f"`mantissa_bits` must be from 1 to 52, got {mantissa_bits}; float32 has 23, bfloat16 7")
    left = [*ignore, *_members_ignore({name: one.manifest for name, one in members.items()})]
    check_encodable(model, left, metrics=metrics)
    weights = weights_of(model, left)
    _check_hold(constraints, weights, "fit() ends on weights that do, and later training breaks them")
    state = stored(model)
    ties = tied(state)
    if mantissa_bits is not None:
        state = {n: t if n in weights else rounded(t, mantissa_bits) for n, t in state.items()}
    tensors = {name: encode(tensor) for name, tensor in state.items() if name not in ties}
    grouped = _grouped(model)
    index = Index(
        tensors={name: Entry.of(tensor) for name, tensor in tensors.items()},
        factored=list(factored(model)),
        grouped=[name for name in factored(model) if name in grouped],
        compressed=list(weights),
        tied=ties,
        positions=_positions(model, fields["input_shape"]),
    )
    check_names(index)
    manifest = Manifest(
        constraints=[repr(c) for c in constraints],
        ignore=[Names(model).plain(pattern) for pattern in ignore],
        network=network,
        members={name: one.manifest for name, one in members.items()},
        metrics=plain_json(metrics or {}),
        versions=library_versions(),
        **fields,
    )
    return manifest, index, MappingProxyType(tensors)


def verify(model: CompressedModel, module: nn.Module | None) -> None:
    """See :meth:`art_atmc.CompressedModel.verify`."""
    from art_atmc.plugins import from_repr

    manifest = model.manifest
    if manifest.constraints:
        if forgotten := [name for name in _required(model, module) if name not in _covered(model)]:
            raise ValueError(
                f"the constraints were not applied to {forgotten[:5]}, which `ignore` does not name; do not trust the "
                "file, unless these are no weights, which verify(module) would see"
            )
        constraints = [from_repr(text) for text in dict.fromkeys(manifest.constraints)]
        _check_hold(constraints, model.weights(), "do not trust the file")
    for name in manifest.members:
        model.member(name).verify(None if module is None else module.get_submodule(name))


def _members_ignore(members: Mapping[str, Manifest]) -> Iterator[str]:
    """What the constraints of members leave alone, by its names in the whole network."""
    for name, one in members.items():
        yield from (f"{name}.{pattern}" for pattern in (*one.ignore, *_members_ignore(one.members)))


def _described(given: Any, input_shape: Sequence[int] | None) -> tuple[nn.Module, dict[str, Any]]:
    """The network, and what the manifest says of what is around it."""
    if isinstance(given, PyTorchClassifier):
        if input_shape is not None:
            raise TypeError("`input_shape` is for modules; the classifier has one")
        return unwrapped(given.model), classifier_fields(given)
    if isinstance(given, nn.Module):
        return unwrapped(given), {"input_shape": None if input_shape is None else [int(side) for side in input_shape]}
    raise TypeError(
        f"`classifier` must be an ART PyTorchClassifier or a torch module, got {type(given).__name__}; wrap the torch "
        "module as PyTorchClassifier(model, loss, input_shape, nb_classes)"
    )


def _check_hold(constraints: Sequence[Constraint], weights: Weights, remedy: str) -> None:
    if failing := {c: v for c in constraints if not (v := c.violation(weights)) <= 0}:  # NaN holds nothing
        distances = ", ".join(f"{c} (squared distance {v:.3g})" for c, v in failing.items())
        raise ValueError(f"the weights do not obey {distances}; {remedy}")


def check_members(made: CompressedModel, members: Mapping[str, CompressedModel]) -> None:
    """Refuse members that are not those parts of the network."""
    for name, one in members.items():
        ours, theirs = made.member(name).decoded(), one.decoded()
        same = ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in ours)
        if not same or {*made.member(name).index.compressed} != {*one.index.compressed}:
            raise ValueError(f"the member `{name}` is not the module of that name; compress it as it stands there")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and encode(one) == encode(other)


def _required(model: CompressedModel, module: nn.Module | None) -> list[str]:
    """The dense names of the weights that the constraints must hold for."""
    if module is None and model.manifest.network is not None:
        module = model.check_network()
    ignore = [*model.manifest.ignore, *_members_ignore(model.manifest.members)]
    if module is not None:
        return list(dict.fromkeys(_dense(name, model) for name in weights_of(module, ignore)))
    floating = {n: t for n, t in model.tensors.items() if DTYPES[t.dtype].is_floating_point}
    matrices = dict.fromkeys(model.owner(name) for name, tensor in floating.items() if len(tensor.shape) > 1)
    return [name for name in matrices if not any(matches(pattern, name) for pattern in ignore)]


def _dense(name: str, model: CompressedModel) -> str:
    """The dense name of a weight or a factor."""
    weight, _, factor = name.rpartition(".")
    return weight if weight in model.index.factored and factor in "UVC" else name


def _covered(model: CompressedModel) -> set[str]:
    return {model.owner(name) for name in model.index.compressed}


def _grouped(model: nn.Module) -> set[str]:
    """The weights of grouped convolutions."""
    names = Names(model)
    convolutions = nn.modules.conv._ConvNd  # other modules may call something else `groups`
    layers = (path for path, m in model.named_modules() if isinstance(m, convolutions) and m.groups > 1)
    return {names.plain(f"{path}.weight".lstrip(".")) for path in layers}


def _positions(model: nn.Module, input_shape: Sequence[int] | None) -> dict[str, int]:
    """How often each weight is applied to one example; empty where there is no telling."""
    if input_shape is None:
        return {}
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    names = Names(model)
    try:
        counts = uses(model, torch.zeros(1, *input_shape, device=like.device, dtype=like.dtype))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return {}  # a network that takes no such input, as of words; its report counts no multiply-adds
    return {names.plain(name): count for name, count in counts.items()}
