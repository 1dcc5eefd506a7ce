r"""Layers that do without inputs which are constants.

A channel all of whose filters are zero carries a constant: the bias, or what batch normalisation and activations make
of it. A layer that reads it can do without:

* where the constant adds the same at every output position, by its share in the layer's bias;
* where the layer pads with zeros, so that the constant adds less at the border, by another constant channel r that
  stays and takes over, :math:`\sum_c W_{\cdot c} * x_c = \bigl(\sum_c \tfrac{x_c}{x_r} W_{\cdot c}\bigr) * x_r`, which
  holds with any padding.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import final

import torch
from torch import Tensor, nn

from art_atmc_structured.coupling import Ends, inputs_first

__all__ = ["EQUAL", "Reader"]

EQUAL = 1e-5  # share of the largest value by which values may differ that are equal but for single precision's rounding
SMALL = 0.01  # share of the largest constant below which one is too small to take over from it


@final
@dataclasses.dataclass(frozen=True)
class Reader:
    """A layer that reads channels.

    :param ends: where it reads which channel.
    :param x: what it reads when the network sees one input, with the batch dimension first; on the CPU.
    """

    ends: Ends
    x: Tensor

    def heir(self, going: Tensor, staying: Tensor) -> int | None:
        """The input that would take over from the others if the channels ``going`` went; None where the bias can.

        The one of largest constant, or one of a channel that stays anyhow, if its constant is not much smaller.

        :param going: mask of channels that carry constants, or that the layer multiplies by zero.
        :param staying: mask of those of them that stay as heirs of other layers.
        """
        if _is_even(self._contribution(going)):
            return None
        loudness = self._values.abs().amax(1)
        among_staying = loudness.masked_fill(~staying[self.ends.channels], 0)
        loudest = loudness.masked_fill(~self._affected(going), 0)
        return int((among_staying if among_staying.max() > SMALL * loudest.max() else loudest).argmax())

    def staying(self, going: Tensor, heir: int | None) -> Tensor:
        """Those of the channels ``going`` that must stay, as a mask: the heir's, and any whose constant varies with the
        position otherwise than the heir's does."""
        staying = torch.zeros_like(going)
        if heir is not None:
            other = (self._values - self._ratios(heir)[:, None] * self._values[heir]).abs().amax(1)
            other = self._affected(going) & (other > EQUAL * self._values[heir].abs().max())
            staying[self.ends.channels[other]] = True
            staying[self.ends.channels[heir]] = True
        return staying

    @torch.no_grad()
    def forgo(self, gone: Tensor, heir: int | None) -> None:
        """Change the layer, in place, so that it computes the same when the channels ``gone`` are zero."""
        layer = self.ends.layer
        affected = self._affected(gone)
        if heir is not None:
            weight = inputs_first(layer)
            ratios = self._ratios(heir)[affected].to(weight)
            weight[self.ends.indices[heir]] += torch.tensordot(ratios, weight[self.ends.indices[affected]], 1)
        elif (contribution := self._contribution(gone)).any():
            if layer.bias is None:
                layer.bias = nn.Parameter(layer.weight.new_zeros(len(contribution)))
            layer.bias += contribution.mean(1).to(layer.bias)

    @property
    def _axis(self) -> int:
        """The dimension of inputs and outputs that counts channels."""
        return -1 if isinstance(self.ends.layer, nn.Linear) else 1

    @functools.cached_property
    def _values(self) -> Tensor:
        """What is read of each input, shape (inputs, positions), in double precision."""
        return self.x.double().movedim(self._axis, 0)[self.ends.indices].flatten(1)

    def _affected(self, channels: Tensor) -> Tensor:
        """The inputs that read ``channels`` with other weights than zero, as a mask."""
        read = inputs_first(self.ends.layer).detach()[self.ends.indices].flatten(1).ne(0).any(1).cpu()
        return read & channels[self.ends.channels]

    def _ratios(self, heir: int) -> Tensor:
        return self._values @ self._values[heir] / self._values[heir].square().sum()

    @torch.no_grad()
    def _contribution(self, channels: Tensor) -> Tensor:
        """What ``channels`` add to the outputs, shape (outputs, positions), in double precision."""
        nothing = torch.zeros_like(self.x, dtype=torch.float64)
        only, indices = nothing.clone(), self.ends.indices[self._affected(channels)]
        only.movedim(self._axis, 0)[indices] = self.x.double().movedim(self._axis, 0)[indices]
        layer = copy.deepcopy(self.ends.layer).cpu().double()
        added: Tensor = layer(only) - layer(nothing)
        return added.movedim(self._axis, 0).flatten(1)


def _is_even(contribution: Tensor) -> bool:
    """Whether every output gets the same at all positions."""
    spread = contribution.amax(1) - contribution.amin(1)
    return bool(spread.max() <= EQUAL * contribution.abs().max())
