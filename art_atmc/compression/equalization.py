"""Weights of one size in all layers, by scaling that leaves the network's function as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import fx, nn

from art_atmc.compression.factors import decomposed

__all__ = ["equalize"]

_LAYERS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS: Final = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE: Final = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
_OTHERS: Final = (nn.ReLU, nn.LeakyReLU, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_HOMOGENEOUS: Final = (*_POOLS, *_ADAPTIVE, *_OTHERS)
_FUNCTIONS: Final[frozenset[Callable[..., Any]]] = frozenset(
    {torch.relu, nn.functional.relu, torch.flatten, nn.functional.max_pool2d, torch.max_pool2d, nn.functional.dropout}
)


@torch.no_grad()
def equalize(model: nn.Module) -> dict[str, float]:
    r"""Bring the weights of consecutive layers to one size, in place, without changing what the network computes.

    .. math:: W_l \leftarrow s_l W_l, \qquad b_l \leftarrow (s_1 \cdots s_l)\, b_l, \qquad
              s_l = \frac{g}{\operatorname{rms}(W_l)}, \qquad g = \Bigl(\prod_l \operatorname{rms}(W_l)\Bigr)^{1/n}

    over each chain of n layers between which everything is positively homogeneous, :math:`h(s x) = s\, h(x)` for
    :math:`s > 0`: ReLU, pooling, flattening, dropout. The scales of a chain have the product 1.

    One budget over all layers compares magnitudes, and training leaves them at different sizes: in a robust LeNet of
    Caffe a typical weight of the second convolution is a quarter of one of the first linear layer, and a budget of half
    of all weights takes nineteen in twenty of that convolution. Equalized, each layer keeps its share. Do it to a
    *trained* network, before it is compressed; a fresh optimizer goes with it, since moments are of the old sizes.
    Layers before a normalisation, an addition or a branch end a chain, and are left as they are.

    :param model: traced by :mod:`torch.fx`; not decomposed.
    :return: the scale of each layer that was changed, by its name.
    :raises ValueError: when the model is decomposed already, can't be traced, or a chain holds a layer of zeros.

    Source: cross-layer equalization (Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.1), by layers in
    place of channels.

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    >>> _ = model[0].weight.data.fill_(8.0), model[2].weight.data.fill_(2.0)
    >>> equalize(model), model[0].weight.item(), model[2].weight.item()
    ({'0': 0.5, '2': 2.0}, 4.0, 4.0)
    """
    if decomposed(model):
        raise ValueError("the model is decomposed already; equalize it before")
    scales: dict[str, float] = {}
    for chain in _chains(model):
        layers: list[Any] = [model.get_submodule(name) for name in chain]
        sizes = [float(layer.weight.double().square().mean().sqrt()) for layer in layers]
        if not all(size > 0 and math.isfinite(size) for size in sizes):
            raise ValueError(f"one of the layers {chain} has no size: its weights are all zero, infinite or NaN")
        target = math.exp(sum(map(math.log, sizes)) / len(sizes))
        so_far = 1.0
        for name, layer, size in zip(chain, layers, sizes, strict=True):
            scales[name] = target / size
            so_far *= scales[name]
            layer.weight.mul_(scales[name])
            if layer.bias is not None:
                layer.bias.mul_(so_far)
    return scales


def _chains(model: nn.Module) -> list[list[str]]:
    """Names of layers that feed one another through nothing but positively homogeneous operations."""
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:
        raise ValueError(
            f"torch.fx can't trace {type(model).__name__} ({error}); equalize the part of it that it can"
        ) from error
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    layers = {
        node: str(node.target)
        for node in graph.nodes
        if node.op == "call_module"
        and isinstance(model.get_submodule(node.target), _LAYERS)
        and calls.count(str(node.target)) == 1
    }
    following = {node: after for node in layers if (after := _following(model, node)) in layers}
    chains = []
    for node in layers:
        if node in following and node not in following.values():
            chain = [node]
            while chain[-1] in following:
                chain.append(following[chain[-1]])
            chains.append([layers[link] for link in chain])
    return chains


def _following(model: nn.Module, node: fx.Node) -> fx.Node | None:
    """The layer that alone uses what ``node`` computes; None where there is none."""
    while len(node.users) == 1:
        (node,) = node.users
        if node.op == "call_module":
            module = model.get_submodule(str(node.target))
            if isinstance(module, _LAYERS):
                return node
            if not isinstance(module, _HOMOGENEOUS):
                return None
        elif not (node.op == "call_function" and node.target in _FUNCTIONS) and not (
            node.op == "call_method" and node.target in ("flatten", "relu")
        ):
            return None
    return None
