"""How far a student's images are from its teacher's."""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from art_atmc.support.numbers import Real, Whole, check_numbers

__all__ = ["Distance", "Features", "Pixels"]


class Distance(abc.ABC):
    """A differentiable distance of two batches of images."""

    @abc.abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over the batch, a scalar; shapes (N, C, H, W)."""


@final
@dataclasses.dataclass(frozen=True)
class Pixels(Distance):
    r"""Mean over all pixels of :math:`|a - b|^p`.

    :param p: 1 or 2.

    >>> float(Pixels()(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])))
    2.0
    """

    p: int = 1

    def __post_init__(self) -> None:
        check_numbers(self, p=Whole(1, 2, "1 is the absolute difference, 2 the squared one"))

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs().pow(self.p).mean()


@final
class Features(Distance):
    r"""Perceptual distance in the layers of a network (Johnson et al. 2016, https://arxiv.org/abs/1603.08155).

    .. math:: \overline{|\phi_1(a) - \phi_1(b)|} + w \sum_l \overline{(G_l(a) - G_l(b))^2},
              \qquad G_l(x) = \frac{\phi_l(x)\,\phi_l(x)^\top}{C_l H_l W_l}

    for the feature maps :math:`\phi_l` of the layers, laid out as matrices (C, H W), and means over all entries: the
    content by the first of the layers, the style by the Gram matrices of all.

    :param network: any network of images, such as a classifier that was trained on them; copied and frozen.
    :param layers: the names of layers whose outputs have shape (N, C, H, W).
    :param style: the weight w of the style, at least 0.
    :raises ValueError: for no layer, names that are not in the network, or a negative ``style``.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], *, style: float = 1.0) -> None:
        known = dict(network.named_modules())
        if isinstance(layers, str) or not layers or (unknown := [name for name in layers if name not in known]):
            given = layers if isinstance(layers, str) or not layers else unknown
            raise ValueError(f"`layers` must be a list of names of layers, got {given!r}; they are {list(known)[1:]}")
        self.layers = tuple(layers)
        self.style: float = Real("[0, inf)", "0 is content alone").plain("style", style)
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def __repr__(self) -> str:
        return f"Features({type(self.network).__name__}, {list(self.layers)}, style={self.style})"

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = self._maps(student), self._maps(teacher)
        content = (ours[0] - theirs[0]).abs().mean()
        style = [(_gram(a) - _gram(b)).square().mean() for a, b in zip(ours, theirs, strict=True)]
        return content + self.style * torch.stack(style).sum()

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps: dict[str, Tensor] = {}
        hooks = [
            self.network.get_submodule(name).register_forward_hook(
                lambda _, __, output, name=name: maps.__setitem__(name, output)  # type: ignore[misc]
            )
            for name in self.layers
        ]
        self.network(images)
        for hook in hooks:
            hook.remove()
        return [maps[name] for name in self.layers]


def _gram(maps: Tensor) -> Tensor:
    flat = maps.flatten(2)
    return flat @ flat.mT / maps[0].numel()
