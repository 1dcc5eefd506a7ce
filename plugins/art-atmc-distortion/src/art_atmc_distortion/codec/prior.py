r"""What is expected of each symbol given those before it: the entropy model of the codec.

Channels come in groups, from the mean of a block to its finest detail, and the positions of a group in passes: every
fourth of every fourth row first, then what lies between, as in a progressive image. For each group a small network sees
what is known, of all earlier groups and of earlier passes, around a block, and says mean m and scale b of a Laplace
distribution,

.. math:: P(k) = F(k + \tfrac12) - F(k - \tfrac12), \qquad F' = \tfrac{1}{2 b} e^{-|t - m| / b} .
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeAlias, final

import torch
from torch import Tensor, nn

from art_atmc_distortion.codec.transform import CHANNELS, GROUPS

__all__ = ["LARGEST", "LEAST_SCALE", "Chooser", "Prior", "bits", "passes"]

LARGEST: Final = 1023
"""Of a symbol's magnitude."""
LEAST_SCALE, MOST_SCALE = -4.0, 5.0  # natural logarithms
_RAREST = 24 * math.log(2)  # a coder gives every symbol this much at least

Chooser: TypeAlias = Callable[[slice, Tensor, Tensor, Tensor], Tensor]
"""(channels, mask of the positions, means, log-scales) -> the symbols there, zero elsewhere."""

Which: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(rows, columns) -> where a pass is."""

_PROGRESSIVE: Final[tuple[Which, ...]] = (
    lambda row, column: (row % 4 == 0) & (column % 4 == 0),
    lambda row, column: (row % 4 == 2) & (column % 4 == 2),
    lambda row, column: (row % 2 == 0) & (column % 2 == 0) & (row % 4 != column % 4),
    lambda row, column: (row % 2 == 1) & (column % 2 == 1),
    lambda row, column: (row + column) % 2 == 1,
)
_CHECKERBOARD: Final[tuple[Which, ...]] = (
    lambda row, column: (row + column) % 2 == 0,
    lambda row, column: (row + column) % 2 == 1,
)


def passes(group: int, height: int, width: int) -> list[Tensor]:
    """The masks of a group's positions, (height, width) each, in the order of coding; together they cover all."""
    row, column = torch.arange(height)[:, None], torch.arange(width)[None, :]
    return [which(row, column) for which in (_CHECKERBOARD if group else _PROGRESSIVE)]


def bits(symbols: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    r""":math:`-\log_2 P(k)` of every symbol, at most 24.

    >>> round(float(bits(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0))), 4)   # 1 - exp(-1/2)
    1.3457
    """
    away, rate = (symbols - mean).abs(), (-log_scale).exp()
    outside = math.log(0.5) - (away - 0.5).clamp(min=0) * rate + torch.log(-torch.expm1(-rate))
    near = away.clamp(max=0.5)
    within = torch.log1p(-0.5 * (torch.exp((near - 0.5) * rate) + torch.exp(-(near + 0.5) * rate)))
    return -torch.where(away < 0.5, within, outside).clamp(min=-_RAREST) / math.log(2)


def squeezed(symbols: Tensor) -> Tensor:
    """Logarithms of magnitudes, with the sign: what networks see of symbols."""
    return symbols.sign() * symbols.abs().log1p()


@final
class Prior(nn.Module):
    """Means and log-scales of all symbols, group by group and pass by pass.

    :param hidden: channels of each group's network.
    """

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        starts = (0, *GROUPS[:-1])
        self.groups = [slice(start, end) for start, end in zip(starts, GROUPS, strict=True)]
        self.networks = nn.ModuleList(_network(group.stop, group.stop - group.start, hidden) for group in self.groups)
        # How fast the pull of a known mean fades with distance, for the plain average that the first network corrects.
        self.fading = nn.Parameter(torch.tensor(2.0))

    def forward(self, shape: tuple[int, int, int], choose: Chooser) -> tuple[Tensor, Tensor, Tensor]:
        """All symbols, with the means and log-scales that they were coded by; (N, 192, h, w) each.

        :param shape: N, h and w.
        :param choose: asked for the symbols of each pass, once; encoding and decoding differ in it alone.
        """
        number, height, width = shape
        first = next(self.parameters())
        known = torch.zeros(number, CHANNELS, height, width, dtype=first.dtype)
        means, scales = torch.zeros_like(known), torch.zeros_like(known)
        symbols = []
        for index, group in enumerate(self.groups):
            seen = torch.zeros(height, width, dtype=first.dtype)
            found = torch.zeros(number, group.stop - group.start, height, width, dtype=first.dtype)
            for mask in passes(index, height, width):
                mean, scale = self._expected(index, group, known, seen)
                chosen = choose(group, mask, mean, scale)
                found = found + chosen
                known = known.index_add(1, torch.arange(group.start, group.stop), chosen.detach())
                means = means.index_add(1, torch.arange(group.start, group.stop), mean * mask)
                scales = scales.index_add(1, torch.arange(group.start, group.stop), scale * mask)
                seen = seen + mask
            symbols.append(found)
        return torch.cat(symbols, dim=1), means, scales

    def _expected(self, index: int, group: slice, known: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        context = known[:, : group.stop]
        features = squeezed(context)
        inputs = torch.cat([features, features.abs(), seen.expand(len(known), 1, *seen.shape)], dim=1)
        base: Tensor | float = 0.0
        if index == 0:  # brightness is smooth: begin with the average of what is known around
            base = self._average(context, seen)
            inputs = torch.cat([inputs, squeezed(base)], dim=1)
        mean, scale = self.networks[index](inputs).chunk(2, dim=1)
        return base + mean, scale.clamp(LEAST_SCALE, MOST_SCALE)

    def _average(self, context: Tensor, seen: Tensor) -> Tensor:
        offset = torch.arange(-4, 5, dtype=context.dtype)
        kernel = (1 + offset[:, None] ** 2 + offset[None, :] ** 2) ** -self.fading
        kernel = kernel.expand(context.shape[1], 1, 9, 9)
        total = nn.functional.conv2d(context * seen, kernel, padding=4, groups=context.shape[1])
        weight = nn.functional.conv2d(seen.expand(1, 1, *seen.shape), kernel[:1], padding=4)
        return total / weight.clamp(min=1e-6)


def _network(seen: int, predicted: int, hidden: int) -> nn.Sequential:
    """Of ``seen`` channels, twice, and a mask; the first group has its average besides."""
    inputs = 2 * seen + 1 + (seen if seen == predicted else 0)
    # Many channels are first mixed at their own place, which is cheaper than a wide kernel over all of them.
    entry = [nn.Conv2d(inputs, hidden, 1), nn.LeakyReLU(0.1), nn.Conv2d(hidden, hidden, 3, padding=1)]
    if seen < 40:
        entry = [nn.Conv2d(inputs, hidden, 5 if seen == predicted else 3, padding="same")]
    last = nn.Conv2d(hidden, 2 * predicted, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(*entry, nn.LeakyReLU(0.1), nn.Conv2d(hidden, hidden, 3, padding=1), nn.LeakyReLU(0.1), last)
