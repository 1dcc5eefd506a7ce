"""The state of a network by the names that constraints know: factors as ``layer.weight.U``, tied tensors once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from art_atmc.compression.factors import LowRankPlusSparse, decomposed
from art_atmc.compression.weights import unwrapped
from art_atmc.files.container import Index

__all__ = ["differences", "plain", "stored", "tied", "torch_names"]


def torch_names(model: nn.Module) -> dict[str, str]:
    """The names of factors in torch's state dict, by ours."""
    return {
        f"{name}.{factor}": f"{name.rpartition('.')[0]}.parametrizations.{local}.original{i}".lstrip(".")
        for name, (_, local) in decomposed(model).items()
        for i, factor in enumerate(LowRankPlusSparse.names)
    }


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, factors under the names that constraints know."""
    state = unwrapped(model).state_dict(keep_vars=True)
    if strangers := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{strangers} in the state dict are no tensors, and nothing else can be stored")
    ours = {torch_name: name for name, torch_name in torch_names(model).items()}
    return {ours.get(name, name): value for name, value in state.items()}


def tied(stored: Mapping[str, Tensor]) -> dict[str, str]:
    """Further names of one and the same tensor."""
    first: dict[int, str] = {}
    return {name: first[id(t)] for name, t in stored.items() if first.setdefault(id(t), name) != name}


def plain(model: nn.Module) -> dict[str, Tensor]:
    """One tensor of the right type and shape for each name of the plain network's state dict."""
    state, factored = stored(model), decomposed(model).keys()
    whole = {name: state[f"{name}.C"] for name in factored}
    return {name: t for name, t in state.items() if name.rpartition(".")[0] not in factored} | whole


def differences(expected: Mapping[str, str], index: Index, module: nn.Module, what: str) -> list[str]:
    """How ``module``, called ``what``, differs from a file with this index, one sentence each.

    :param expected: type and shape for each name of the plain network's state dict.
    """
    found = {name: _like(tensor) for name, tensor in plain(module).items()}
    factored = decomposed(module).keys() - {*index.factored}
    ties = tied(stored(module)).items() - index.tied.items()
    return [
        *(f"`{name}` is factored in {what} only; call art_atmc.recompose first" for name in sorted(factored)),
        *(f"`{name}` and `{first}` are one tensor in {what} only" for name, first in sorted(ties)),
        *(f"`{name}` is not in {what}" for name in expected if name not in found),
        *(f"`{name}` is not in the file" for name in found if name not in expected),
        *(
            f"`{name}` is {found[name]} in {what}, {like} in the file"
            for name, like in expected.items()
            if found.get(name, like) != like
        ),
    ]


def _like(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
