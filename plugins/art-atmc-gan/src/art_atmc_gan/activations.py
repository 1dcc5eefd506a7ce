"""Activations on b-bit grids: what layers read, rounded while they train and when they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from art_atmc.classifiers import evaluating
from art_atmc.support.numbers import Whole
from art_atmc_gan.scales import Layer

__all__ = ["ActivationQuantizer", "activation_ranges", "calibrate_", "clipped", "quantize_activations_"]

NAME = "input_quantizer"


@final
class ActivationQuantizer(nn.Module):
    r"""Rounds what a layer reads to a uniform grid of b bits.

    .. math:: q(a) = s\,\bigl(\operatorname{clip}(\operatorname{round}(a / s) + z, 0, 2^b - 1) - z\bigr),
              \qquad s = \frac{h - l}{2^b - 1}, \quad z = \operatorname{round}(-l / s)

    for the range [l, h], which contains zero, so that zero lies on the grid. There are :math:`2^b` levels, signed where
    the range is. The gradient is 1 within the range and 0 outside of it (straight-through). In training mode the range
    follows the batches' least and largest value with a step of 1 %; in evaluation mode it stays.

    ``active`` is whether it does; where it is False, inputs pass as they are.

    :param bits: b, in 2..16.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits: int = Whole(2, 16, "8 is usual").plain("bits", bits)
        self.active = True
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        if self.training:
            self.observe(x, 0.01)
        scale, zero_point = self.grid()
        if torch.onnx.is_in_onnx_export():
            return self._in_graph(x, scale, zero_point)
        return torch.fake_quantize_per_tensor_affine(x, scale.to(x.dtype), zero_point, 0, 2**self.bits - 1)

    def grid(self) -> tuple[Tensor, Tensor]:
        """The step s and the integer z at which zero lies."""
        low, high = self.low.float(), self.high.float()
        scale = ((high - low) / (2**self.bits - 1)).clamp(min=torch.finfo(torch.float32).tiny)
        return scale, (-low / scale).round().to(torch.int32)

    @torch.no_grad()
    def observe(self, x: Tensor, share: float) -> None:
        """Move the range towards that of ``x`` by a ``share`` of the way; all of it where there is no range yet."""
        if not (self.high > self.low):
            share = 1.0
        self.low.lerp_(x.amin().clamp(max=0).to(self.low), share)
        self.high.lerp_(x.amax().clamp(min=0).to(self.high), share)

    def _in_graph(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """The same in operators that can be exported; with 8 bits, those that runtimes know as quantisation."""
        if self.bits != 8 or not hasattr(torch.onnx, "ops"):  # which came with torch 2.8
            return scale * (((x / scale).round() + zero_point).clamp(0, 2**self.bits - 1) - zero_point)
        parts = scale, zero_point.to(torch.uint8)
        codes = torch.onnx.ops.symbolic("QuantizeLinear", (x, *parts), dtype=torch.uint8, shape=x.shape)
        made: Tensor = torch.onnx.ops.symbolic("DequantizeLinear", (codes, *parts), dtype=x.dtype, shape=x.shape)
        return made

    def extra_repr(self) -> str:
        return f"bits={self.bits}, range=[{float(self.low):.3g}, {float(self.high):.3g}]"


def quantize_activations_(model: nn.Module, bits: int, sample_input: Tensor) -> None:
    """Quantise, in place, what every linear layer and convolution of ``model`` reads.

    Each layer gets an :class:`ActivationQuantizer` as its part ``input_quantizer``, whose range is that of the sample.
    Its buffers are in the network's state, and so in its files.

    :param model: the network.
    :param bits: of each activation, in 2..16.
    :param sample_input: a batch of inputs as they will come, shape (N, ...), on the model's device.
    :raises ValueError: for other ``bits``, and when the activations are quantised already.

    >>> model = nn.Sequential(nn.Linear(1, 1)).eval()
    >>> quantize_activations_(model, 2, torch.tensor([[-1.0], [2.0]]))
    >>> model[0].input_quantizer(torch.tensor([-5.0, 0.2, 0.9, 5.0])).tolist()
    [-1.0, 0.0, 1.0, 2.0]
    """
    if present := list(quantizers(model)):
        raise ValueError(f"{present} quantise what they read already; give a network that does not yet")
    for layer in model.modules():
        if isinstance(layer, Layer):
            layer.add_module(NAME, ActivationQuantizer(bits).to(layer.weight.device).train(layer.training))
            layer.register_forward_pre_hook(_quantize)
    calibrate_(model, sample_input)


@torch.no_grad()
def calibrate_(model: nn.Module, sample_input: Tensor) -> None:
    """Set the ranges of all quantisers to those of the sample, in place; earlier layers round for later ones."""

    def widen(quantizer: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(quantizer, ActivationQuantizer)
        quantizer.observe(args[0], 1.0)

    hooks = [quantizer.register_forward_pre_hook(widen) for quantizer in quantizers(model).values()]
    try:
        with evaluating(model):
            model(sample_input)
    finally:
        for hook in hooks:
            hook.remove()


def activation_ranges(model: nn.Module) -> dict[str, list[float]]:
    """Least and largest value of what each layer may read, by the layer's name; for the metrics of a file."""
    return {name: [float(q.low), float(q.high)] for name, q in quantizers(model).items()}


@torch.no_grad()
def clipped(model: nn.Module, sample_input: Tensor) -> dict[str, float]:
    """The share of values that lie outside of the range, by more than half a step, of what each layer reads."""
    shares: dict[str, float] = {}

    def count(name: str, quantizer: ActivationQuantizer, x: Tensor) -> None:
        half = quantizer.grid()[0] / 2
        shares[name] = float(((x < quantizer.low - half) | (x > quantizer.high + half)).float().mean())

    hooks = [
        quantizer.register_forward_pre_hook(lambda q, args, name=name: count(name, q, args[0]))
        for name, quantizer in quantizers(model).items()
    ]
    try:
        with evaluating(model):
            model(sample_input)
    finally:
        for hook in hooks:
            hook.remove()
    return shares


def quantizers(model: nn.Module) -> Mapping[str, ActivationQuantizer]:
    """By the name of the layer."""

    def every() -> Iterator[tuple[str, ActivationQuantizer]]:
        for name, module in model.named_modules():
            if isinstance(module, ActivationQuantizer):
                yield name.removesuffix(NAME).removesuffix("."), module

    return dict(every())


def _quantize(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer = layer.get_submodule(NAME)
    return quantizer(args[0]), *args[1:]
