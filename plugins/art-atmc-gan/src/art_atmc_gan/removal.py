"""Channels of scale zero taken out of a network, and networks of such widths read back from files."""

from __future__ import annotations

import copy
import dataclasses

import torch
from art_atmc_structured import Removal, remove_filters
from torch import Tensor, nn

from art_atmc import CompressedModel
from art_atmc_gan.activations import ActivationQuantizer, quantize_activations_, quantizers
from art_atmc_gan.scales import normalised_layers

__all__ = ["remove_channels", "restore_narrow"]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def remove_channels(model: nn.Module, sample_input: Tensor, *, round_to: int = 1) -> Removal:
    r"""Take the channels of scale zero out of a copy of ``model``: the same function, smaller.

    A channel c with :math:`\gamma_c = 0` is the constant :math:`\beta_c` behind its normalisation, and what the
    activation makes of it, whatever its filter is. So the filter may be zero, and
    :func:`~art_atmc_structured.remove_filters` takes zero filters out and leaves what the constants add with the layers
    that read them, in a bias or, where they pad with zeros, in one such channel that stays. On a residual stream a
    channel goes when all layers that add to it have scale zero there.

    :param model: a network of linear layers, convolutions, batch and instance normalisation; left as it is. Where it
        quantises its activations, the function without rounding stays, and with it to the rounding of constants.
    :param sample_input: a batch of inputs, shape (N, ...), on the model's device.
    :param round_to: widths that shrink end on a multiple of it.
    :returns: the smaller network, its widths, and the largest difference of outputs on the sample and on noise.
    :raises ValueError: for batch normalisation without running statistics, whose outputs depend on the batch.
    :raises RuntimeError: when the outputs differ: the network does what can't be followed here.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Conv2d(4, 3, 3))
    >>> _ = model[1].weight.data[:2].zero_(), model[1].bias.data.fill_(0.5)
    >>> removal = remove_channels(model, torch.rand(2, 3, 8, 8))
    >>> removal.widths, removal.difference < 1e-5
    ({'0': (4, 2)}, True)
    """
    if unsteady := [n for n, m in model.named_modules() if _is_unsteady(m)]:
        raise ValueError(
            f"{unsteady} normalise by the statistics of the batch even in evaluation (track_running_stats=False), so "
            "there is no function of one image to keep; train with running statistics, or use instance normalisation"
        )
    small, plain = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    for quantizer in (*quantizers(small).values(), *quantizers(plain).values()):
        quantizer.active = False  # else a sum that is off in its last bit may end on another level
    with torch.no_grad():
        for _, layer, norm in normalised_layers(small, sample_input):
            closed = norm.weight == 0
            filters = layer.weight.transpose(0, 1) if isinstance(layer, TRANSPOSED) else layer.weight
            filters[closed] = 0
            if layer.bias is not None:
                layer.bias[closed] = 0
        before, zeroed = plain(sample_input), small(sample_input)
    difference = float((before - zeroed).abs().max())
    if not difference <= 1e-4 * max(1.0, float(before.abs().max())):
        raise RuntimeError(
            f"outputs differ by {difference:.3g} without the filters of channels whose scale is zero: something else "
            "reads them before they are normalised; keep the network as it is"
        )
    removal = remove_filters(small, sample_input, round_to=round_to)
    with torch.no_grad():
        removed = float((removal.model(sample_input) - before).abs().max())
    for quantizer in quantizers(removal.model).values():
        quantizer.active = True
    return dataclasses.replace(removal, difference=max(removed, removal.difference))


def restore_narrow(compressed: CompressedModel, module: nn.Module) -> nn.Module:
    """Put the tensors of a file into a network that had channels taken out, or its activations quantised.

    :param compressed: the file's content.
    :param module: a network as it was before: wider layers, no quantised activations. It is left as it is.
    :returns: a copy of the widths that the file has, in evaluation mode.
    :raises ValueError: when the networks differ by more than that.

    >>> module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> small = CompressedModel.of(nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2)))
    >>> restore_narrow(small, module)
    Sequential(
      (0): Linear(in_features=3, out_features=1, bias=True)
      (1): ReLU()
      (2): Linear(in_features=1, out_features=2, bias=True)
    )
    """
    narrow, state = copy.deepcopy(module), compressed.state_dict()
    bits = compressed.manifest.metrics.get("activation_bits")
    if isinstance(bits, int) and not quantizers(narrow):
        quantize_activations_(narrow, bits, torch.zeros(2, *compressed.input_shape()))
    for name, layer in narrow.named_modules():
        if isinstance(layer, ActivationQuantizer):
            continue
        prefix = f"{name}." if name else ""
        for local in ("weight", "bias"):
            given, own = state.get(prefix + local), getattr(layer, local, None)
            if given is not None and (own is None or own.shape != given.shape):
                setattr(layer, local, nn.Parameter(torch.empty_like(given)))
        _describe(layer)
    return compressed.restore(narrow)


def _describe(layer: nn.Module) -> None:
    """Let the layer's numbers of channels be those of its weight."""
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, TRANSPOSED):
        layer.in_channels, layer.out_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.modules.conv._ConvNd):
        layer.out_channels, layer.in_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.modules.batchnorm._NormBase) and weight is not None:
        layer.num_features = len(layer.weight)
        if layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean, layer.running_var = layer.weight.detach().clone(), layer.weight.detach().clone()


def _is_unsteady(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
