"""Networks by name: one of ours, or one of the user's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from art_atmc.networks.chains import digits_cnn, lenet, lenet_relu
from art_atmc.networks.image_network import ImageNetwork
from art_atmc.networks.resnet import resnet18, resnet34, wide_resnet16_1, wide_resnet16_8

__all__ = ["NETWORKS", "build", "import_network", "is_ours", "require_fit"]


NETWORKS: Mapping[str, Callable[[int], ImageNetwork]] = MappingProxyType(
    {
        "digits-cnn": digits_cnn,
        "lenet": lenet,
        "lenet-relu": lenet_relu,
        "resnet18": resnet18,
        "resnet34": resnet34,
        "wrn-16-1": wide_resnet16_1,
        "wrn-16-8": wide_resnet16_8,
    }
)
"""The networks by their names on the command line; each is made for a number of classes."""


def is_ours(name: str | None) -> bool:
    return name in NETWORKS


def build(name: str, nb_classes: int) -> nn.Module:
    """A fresh network: one of :data:`~art_atmc.networks.NETWORKS`, or what ``package.module:function`` returns.

    :raises ValueError: when there is no such network.

    >>> type(build("lenet", 10)).__name__
    'ImageNetwork'
    """
    return NETWORKS[name](nb_classes) if name in NETWORKS else import_network(name)


def import_network(reference: str) -> nn.Module:
    """What the function behind ``package.module:function`` returns; modules of the working folder are found too.

    :raises ValueError: when it can't be imported, or returns something else than a module.
    """
    module, colon, function = reference.partition(":")
    if not colon:
        raise ValueError(f"`network` must be one of {', '.join(NETWORKS)}, or package.module:function, got {reference}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`network` {reference} can't be imported: {error}") from None
    except Exception as error:  # the module is anybody's
        raise ValueError(f"`network` {reference} can't be imported: {_reason(error)}") from error
    try:
        made = make()
    except Exception as error:
        raise ValueError(f"`network` {reference} can't be built without arguments: {_reason(error)}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"`network` {reference} must return a torch module, but returned a {type(made).__name__}")
    if any(isinstance(parameter, UninitializedParameter) for parameter in made.parameters()):
        raise ValueError(
            f"`network` {reference} has lazy layers, whose shapes are not known yet; let the function pass a batch "
            "through the network before it returns it"
        )
    return made


def require_fit(name: str, input_shape: tuple[int, ...], nb_classes: int, data: str) -> None:
    """
    :raises ValueError: when the network does not take such inputs, or has another number of outputs.
    """
    network = build(name, nb_classes).eval()
    if is_ours(name):
        if network.input_shape != input_shape:
            fitting = [other for other, make in NETWORKS.items() if make(2).input_shape == input_shape]
            raise ValueError(
                f"`network` {name} takes images of shape {network.input_shape}, but {data} holds {input_shape}; "
                f"networks for these: {', '.join([*fitting, 'your own as package.module:function'])}"
            )
        return
    try:
        with torch.no_grad():
            outputs = network(torch.zeros(1, *input_shape))
    except Exception as error:  # the network is anybody's
        raise ValueError(
            f"`network` {name} does not take the inputs of {data}, {input_shape}: {_reason(error)}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"`network` {name} must return a tensor of logits, but returned a {type(outputs).__name__}; wrap it in a "
            "module that picks the logits"
        )
    if tuple(outputs.shape) != (1, nb_classes):
        raise ValueError(
            f"`network` {name} answers one input of {data} by {tuple(outputs.shape)}, not by a logit for each of "
            f"{nb_classes} classes, (1, {nb_classes})"
        )


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, RuntimeError | ValueError) else f"{type(error).__name__}: {error}"
