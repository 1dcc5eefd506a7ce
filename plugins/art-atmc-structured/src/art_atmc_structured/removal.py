"""Filters that are zero, and channels that nobody reads, taken out of a network, so that it is smaller and faster."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from art_atmc import recompose
from art_atmc.support.numbers import Whole
from art_atmc_structured.constants import EQUAL, Reader
from art_atmc_structured.coupling import CONVOLUTIONS, Ends, coupled_channels, filters_first, inputs_first

__all__ = ["Removal", "coupled_filters", "remove_filters"]

NOT_FOLLOWED = (
    "without its zero filters the network computes something else, perhaps because it reshapes to fixed sizes, adds "
    "its inputs to channels, or mixes channels outside of layers; keep it as it is"
)


@final
@dataclasses.dataclass(frozen=True)
class Removal:
    """A network without its zero filters, and what that changed.

    :param model: the smaller network, in evaluation mode.
    :param widths: outputs before and after of every layer that lost some, by its name.
    :param parameters: number of parameters before and after.
    :param difference: largest difference of the outputs, on the sample and on noise.
    """

    model: nn.Module
    widths: Mapping[str, tuple[int, int]]
    parameters: tuple[int, int]
    difference: float


def remove_filters(model: nn.Module, sample_input: Tensor, *, round_to: int = 1) -> Removal:
    r"""Take zero filters, and channels that nobody reads, out of a copy of ``model``: the same function, smaller.

    A channel goes when all filters that make it are zero, or all weights that read it. Where a residual connection adds
    channels up, that is the filters of all that is added: :func:`coupled_filters` and ``FilterSparsity(coupled=...)``
    see to it. Outputs in evaluation mode agree to rounding, which is tried. Inputs and outputs of the network stay, and
    so do channels of grouped convolutions, attention, embeddings and normalisation across channels. A layer without
    bias may get one. Factored weights are folded first.

    :param model: a network of linear layers, convolutions, batch and instance normalisation; left as it is.
    :param sample_input: a batch of inputs, shape (N, ...), on the model's device.
    :param round_to: widths that shrink end on a multiple of it; 8 or 16 suit most hardware.
    :raises TypeError: when the sample is no tensor.
    :raises ValueError: when ``round_to`` is below 1, or layers share a weight.
    :raises RuntimeError: when the outputs differ after all: the network does what can't be followed here.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = model[0].weight.data[1:3].zero_()
    >>> removal = remove_filters(model, torch.rand(5, 3))
    >>> removal.widths, removal.parameters, removal.difference < 1e-6
    ({'0': (4, 2)}, (26, 14), True)
    """
    if not isinstance(sample_input, Tensor):
        raise TypeError(f"`sample_input` must be a tensor, got {type(sample_input).__name__}; see torch.from_numpy")
    round_to = Whole(1, None, "give 1 for the least widths").plain("round_to", round_to)
    small = _plain_copy(model)
    every = [name for name, _ in small.named_parameters(remove_duplicate=False)]
    if shared := sorted(set(every) - dict(small.named_parameters()).keys()):
        raise ValueError(f"{shared} are shared with other layers, which ties their widths; give each layer its own")
    probes = [sample_input, _noise(sample_input)]
    before, widths, parameters = _outputs(small, probes), _widths(small), _count(small)
    trained = {name: parameter.requires_grad for name, parameter in small.named_parameters()}
    try:
        while _shrink_one(small, sample_input[:1], round_to):
            pass
        difference = float((_outputs(small, probes) - before).abs().max())
    except Exception as error:  # whatever torch-pruning, or the network with other widths, stumbles over
        raise RuntimeError(f"{NOT_FOLLOWED} ({type(error).__name__}: {error})") from error
    if not difference <= 10 * EQUAL * (largest := float(before.abs().max())):
        raise RuntimeError(f"{NOT_FOLLOWED}: outputs of up to {largest:.3g} differ by {difference:.3g}")
    for name, parameter in small.named_parameters():  # torch-pruning makes new ones
        parameter.requires_grad_(trained.get(name, trained.get(f"{name.rpartition('.')[0]}.weight", True)))
    left = _widths(small)
    changed = {name: (width, left[name]) for name, width in widths.items() if left[name] < width}
    return Removal(small, changed, (parameters, _count(small)), difference)


def coupled_filters(model: nn.Module, sample_input: Tensor) -> tuple[tuple[str, ...], ...]:
    """The weights whose i-th filters make one channel, for ``FilterSparsity(coupled=...)``.

    These are the layers that residual connections add up, and depthwise convolutions with the layers that they read.

    :param model: as for :func:`remove_filters`.
    :param sample_input: a batch of inputs, shape (N, ...), on the model's device.

    >>> from art_atmc.networks import resnet18
    >>> coupled_filters(resnet18(), torch.rand(1, 3, 32, 32))[0]
    ('layers.conv.weight', 'layers.stage1.0.conv2.weight', 'layers.stage1.1.conv2.weight')
    """
    plain = _plain_copy(model)
    bundles = []
    for group in coupled_channels(plain, sample_input[:1]):
        whole = [e.layer for e in (*group.makers, *group.depthwise) if torch.equal(e.indices, e.channels)]
        names = [f"{name}.weight" for name, module in plain.named_modules() if module in whole]
        if len(names) > 1:
            bundles.append(tuple(names))
    order = list(dict(plain.named_parameters()))
    return tuple(sorted(bundles, key=lambda names: order.index(names[0])))


def _shrink_one(model: nn.Module, sample: Tensor, round_to: int) -> bool:
    """Take the channels that may go out of the first group that has such, in place; whether there was one."""
    groups = list(coupled_channels(model, sample))
    inputs = _inputs(model, [ends.layer for group in groups for ends in group.readers], sample)
    for group in groups:
        going = _is_zero(group.makers, filters_first, group.size) | _is_zero(group.readers, inputs_first, group.size)
        if not going.any():
            continue
        readers = [Reader(ends, inputs[ends.layer]) for ends in group.readers]
        heirs: list[int | None] = []
        staying = torch.zeros_like(going)
        for reader in readers:
            heirs.append(reader.heir(going, staying))
            staying |= reader.staying(going, heirs[-1])
        if (gone := _rounded(going & ~staying, round_to)).any():
            for reader, heir in zip(readers, heirs, strict=True):
                reader.forgo(gone, heir)
            group.remove(gone.nonzero().reshape(-1).tolist())
            return True
    return False


def _is_zero(ends: Sequence[Ends], view: Callable[[Any], Tensor], size: int) -> Tensor:
    """The channels at which the weights of all these layers are zero, as a mask."""
    zero = torch.ones(size, dtype=torch.bool)
    for end in ends:
        occupied = view(end.layer).detach()[end.indices].flatten(1).ne(0).any(1).cpu()
        zero[end.channels[occupied]] = False
    return zero


def _rounded(going: Tensor, round_to: int) -> Tensor:
    """As many of the channels, the first ones, as leave at least one and a multiple of ``round_to``."""
    size = len(going)
    left = max(1, size - int(going.sum()))
    number = max(0, size - -(-left // round_to) * round_to)
    return going & (going.cumsum(0) <= number)


def _plain_copy(model: nn.Module) -> nn.Module:
    return recompose(copy.deepcopy(model)).eval()


@torch.no_grad()
def _outputs(model: nn.Module, probes: Sequence[Tensor]) -> Tensor:
    return torch.cat([model(probe) for probe in probes])


@torch.no_grad()
def _inputs(model: nn.Module, layers: Sequence[nn.Module], sample: Tensor) -> dict[nn.Module, Tensor]:
    """What ``layers`` read when the network sees ``sample``."""
    inputs: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[layer] = args[0].cpu().clone()

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    model(sample)
    for hook in hooks:
        hook.remove()
    return inputs


def _widths(model: nn.Module) -> dict[str, int]:
    return {n: len(filters_first(m)) for n, m in model.named_modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))}


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _noise(like: Tensor) -> Tensor:
    """Uniform within the range of ``like``, always the same."""
    low, high = float(like.min()), float(like.max())
    uniform = torch.rand(like.shape, generator=torch.Generator().manual_seed(0))
    return (low + (high - low) * uniform).to(like)
