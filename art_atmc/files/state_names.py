"""The state of a network by the names that constraints know: factors as ``layer.weight.U``, tied tensors once.

What wraps a network or a part of it (``DataParallel``, ``torch.compile``) is in no name, so that a file fits the
network whether or not it is wrapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor, nn

from art_atmc.compression.factors import LowRankPlusSparse, decomposed
from art_atmc.compression.weights import unwrapped
from art_atmc.files.index import Index

__all__ = ["Names", "differences", "plain", "stored", "tied", "torch_names"]

WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


@final
class Names:
    """Names in ``model`` without those of wrappers."""

    def __init__(self, model: nn.Module) -> None:
        self._paths = {"": ""}
        modules = dict(model.named_modules(remove_duplicate=False))
        for path in modules:
            parent, _, local = path.rpartition(".")
            if path:
                wrapped = WRAPPERS.get(type(modules[parent]).__name__) == local
                self._paths[path] = self._paths[parent] if wrapped else f"{self._paths[parent]}.{local}".lstrip(".")

    def plain(self, name: str) -> str:
        """``name``, of a module, a parameter or a factor, or a pattern of such names."""
        path, rest = name, ""
        while path not in self._paths:
            path, _, local = path.rpartition(".")
            rest = f".{local}{rest}"
        return f"{self._paths[path]}{rest}".lstrip(".")


def factored(model: nn.Module) -> dict[str, str]:
    """The decomposed weights of ``model``: our names, and those in the model."""
    model = unwrapped(model)
    names = Names(model)
    return {names.plain(name): name for name in decomposed(model)}


def torch_names(model: nn.Module) -> dict[str, str]:
    """The names in torch's state dict of what :func:`unwrapped` gives, by ours."""
    model = unwrapped(model)
    names, theirs = Names(model), {}
    for name, (_, local) in decomposed(model).items():
        layer = name.rpartition(".")[0]
        for i, factor in enumerate(LowRankPlusSparse.names):
            theirs[f"{layer}.parametrizations.{local}.original{i}".lstrip(".")] = f"{names.plain(name)}.{factor}"
    return {theirs.get(name) or names.plain(name): name for name in model.state_dict(keep_vars=True)}


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The state dict by our names; :func:`~art_atmc.files.encodable.check_encodable` says what it can't hold."""
    state = unwrapped(model).state_dict(keep_vars=True)
    return {name: state[theirs] for name, theirs in torch_names(model).items()}


def tied(stored: Mapping[str, Tensor]) -> dict[str, str]:
    """Further names of one and the same tensor."""
    first: dict[int, str] = {}
    return {name: first[id(t)] for name, t in stored.items() if first.setdefault(id(t), name) != name}


def plain(model: nn.Module) -> dict[str, Tensor]:
    """One tensor of the right type and shape for each name of the plain network's state dict."""
    state, decomposed_names = stored(model), factored(model).keys()
    whole = {name: state[f"{name}.C"] for name in decomposed_names}
    return {name: t for name, t in state.items() if name.rpartition(".")[0] not in decomposed_names} | whole


def differences(expected: Mapping[str, str], index: Index, module: nn.Module, what: str) -> list[str]:
    """How ``module``, called ``what``, differs from a file with this index, one sentence each.

    :param expected: type and shape for each name of the plain network's state dict.
    """
    found = {name: _like(tensor) for name, tensor in plain(module).items()}
    surplus = factored(module).keys() - {*index.factored}
    ties = tied(stored(module)).items() - index.tied.items()
    return [
        *(f"`{name}` is factored in {what} only; call art_atmc.recompose first" for name in sorted(surplus)),
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
    if isinstance(tensor, Tensor) and not nn.parameter.is_lazy(tensor):
        return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
    return "without a shape yet" if isinstance(tensor, Tensor) else "no tensor"
