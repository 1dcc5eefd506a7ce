"""Which channels of a network stand or fall together: in the layers that make them and in those that read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
import torch_pruning  # type: ignore[import-untyped]
from torch import Tensor, nn

__all__ = ["CoupledChannels", "Ends", "coupled_channels", "filters_first", "inputs_first"]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
CHANNELWISE = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.PReLU)


@final
@dataclasses.dataclass(frozen=True)
class Ends:
    """Where a layer makes or reads channels: the ``indices`` of its filters or inputs, and the channel of each."""

    layer: Any
    indices: Tensor
    channels: Tensor


@final
@dataclasses.dataclass(frozen=True)
class CoupledChannels:
    """Channels 0 to ``size`` - 1 with everything that makes them, works on each for itself, and reads them."""

    size: int
    makers: Sequence[Ends]
    depthwise: Sequence[Ends]
    readers: Sequence[Ends]
    remove: Callable[[Sequence[int]], None]


def coupled_channels(model: nn.Module, sample: Tensor) -> Iterator[CoupledChannels]:
    """The channels of ``model`` that can be taken out, as torch-pruning finds them.

    Left out are channels that reach the network's outputs, and those that meet a layer which is no linear layer,
    plain or depthwise convolution, batch or instance normalisation or function without parameters.

    :param model: in evaluation mode; ``remove`` changes it in place.
    :param sample: a batch of inputs.
    """
    with torch.enable_grad():  # by which torch-pruning follows the channels; parameters may be frozen
        graph = torch_pruning.DependencyGraph()
        traced = sample.detach().clone().requires_grad_(sample.is_floating_point())
        graph.build_dependency(model, (traced,), verbose=False)
    for group in graph.get_all_groups(root_module_types=(nn.Linear, *CONVOLUTIONS)):
        makers: list[Ends] = []
        depthwise: list[Ends] = []
        readers: list[Ends] = []
        for item in group:
            layer, ends = item.dep.target.module, _ends(item)
            if isinstance(layer, (nn.Linear, *CONVOLUTIONS)) and getattr(layer, "groups", 1) == 1:
                made = graph.is_out_channel_pruning_fn(item.dep.handler)
                (makers if made else readers).append(ends)
            elif isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels == layer.out_channels:
                depthwise.append(ends)
            elif isinstance(layer, torch_pruning.ops._OutputOp) or not _is_channelwise(layer):
                break
        else:
            if makers and readers:
                yield CoupledChannels(len(group[0].idxs), makers, depthwise, readers, _removal(graph, group))


def filters_first(layer: Any) -> Tensor:
    """The weight with the dimension of its filters first; a view."""
    return layer.weight.transpose(0, 1) if isinstance(layer, TRANSPOSED) else layer.weight


def inputs_first(layer: Any) -> Tensor:
    """The weight with the dimension of its inputs first; a view."""
    return layer.weight if isinstance(layer, TRANSPOSED) else layer.weight.transpose(0, 1)


def _ends(item: Any) -> Ends:
    return Ends(item.dep.target.module, torch.tensor(item.idxs), torch.tensor(item.root_idxs))


def _is_channelwise(layer: Any) -> bool:
    """Batch normalisation and the like, or a function, of which torch-pruning makes a module of its own."""
    return isinstance(layer, CHANNELWISE) or type(layer).__module__ == torch_pruning.ops.__name__


def _removal(graph: Any, group: Any) -> Callable[[Sequence[int]], None]:
    def remove(channels: Sequence[int]) -> None:
        root = group[0].dep
        graph.get_pruning_group(root.target.module, root.handler, list(channels)).prune()

    return remove
