"""The scales of channels: the factors by which normalisation multiplies them, and a budget on those."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any, final

import torch
from art_atmc_structured import coupled_channels
from torch import Tensor, nn

from art_atmc import Constraint, Weights
from art_atmc.classifiers import evaluating
from art_atmc.support.numbers import Real, Whole, check_numbers

__all__ = ["ScaleSparsity", "channel_scales", "coupled_scales", "normalised_layers"]

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear
Norm = nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm


@final
@dataclasses.dataclass(frozen=True)
class ScaleSparsity(Constraint):
    r"""At most a share of all channel scales differs from zero, and every layer keeps some.

    With :math:`\gamma_l` the scales of layer l, of which there are :math:`c_l`, and :math:`m_l = \min(m, c_l)`,

    .. math:: S = \Bigl\{ \gamma : \sum_l \max(m_l, \|\gamma_l\|_0) \le k \Bigr\},
              \qquad k = \Bigl\lfloor \text{density} \cdot \sum_l c_l \Bigr\rfloor

    Each layer is charged for m scales at least, so that spending nothing on a layer saves nothing and no layer closes.
    The projection keeps the m largest magnitudes of each layer and of all others the largest, among equal ones the
    earlier. It is exact, by the exchange argument of :class:`~art_atmc_structured.GroupSparsity`.

    :param density: share of the scales that may differ from zero, in (0, 1].
    :param least: m, scales that every layer keeps, at least 1.
    :param coupled: tuples of scales that go together, as those of layers that a residual connection adds up: their i-th
        scales count as one, as long as all of them in the Euclidean norm. :func:`coupled_scales` finds them.
    :raises ValueError: when a number is out of range; from ``check`` and ``project``, for a budget below the least of
        all layers, and for coupled scales that are not there or not equally many.

    >>> weights = Weights({"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([1.0, 2.0, 0.0])})
    >>> kept = ScaleSparsity(density=0.5, least=1).project(weights)
    >>> kept["a"].tolist(), kept["b"].tolist()
    ([5.0, 4.0, 0.0], [0.0, 2.0, 0.0])
    """

    density: float
    least: int = dataclasses.field(default=2, kw_only=True)
    coupled: tuple[tuple[str, ...], ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        check_numbers(
            self,
            density=Real("(0, 1]", "give the share of scales to keep"),
            least=Whole(1, None, "a layer without scales passes nothing"),
        )

    def check(self, weights: Weights) -> None:
        self._budget([len(weights[bundle[0]]) for bundle in self._bundles(weights)])

    def project(self, weights: Weights) -> Weights:
        bundles = self._bundles(weights)
        lengths = [torch.stack([weights[n].detach().double() for n in bundle]).norm(dim=0) for bundle in bundles]
        ranked = torch.cat([_foremost(one, self.least) for one in lengths])
        order = ranked.argsort(descending=True, stable=True)
        kept = torch.zeros_like(ranked, dtype=torch.bool)
        kept[order[: self._budget([len(one) for one in lengths])]] = True
        tensors = dict(weights.clone())
        for bundle, mask in zip(bundles, kept.split([len(one) for one in lengths]), strict=True):
            for name in bundle:
                tensors[name].masked_fill_(~mask, 0)
        return weights.like(tensors)

    def relaxed(self, progress: float) -> ScaleSparsity:
        r"""Density on the cubic :math:`d(p) = d + (1 - d)(1 - p)^3` (Zhu & Gupta 2017)."""
        if progress >= 1:
            return self
        return dataclasses.replace(self, density=self.density + (1 - self.density) * (1 - progress) ** 3)

    def _bundles(self, weights: Weights) -> list[tuple[str, ...]]:
        if unknown := [name for name in chain.from_iterable(self.coupled) if name not in weights]:
            raise ValueError(f"`coupled` names {unknown}, which are not among the scales {list(weights)}")
        for bundle in self.coupled:
            if len(counts := {name: len(weights[name]) for name in bundle}) and len({*counts.values()}) > 1:
                raise ValueError(f"`coupled` needs layers of as many scales, got {counts}")
        bundle_of = {name: bundle for bundle in self.coupled for name in bundle}
        return list(dict.fromkeys(bundle_of.get(name, (name,)) for name in weights))

    def _budget(self, counts: list[int]) -> int:
        # The number that the user meant, not its binary neighbour: 0.29 of 100 is 29, though 0.29 * 100 < 29.
        k, floor = math.floor(self.density * sum(counts) + 1e-6), sum(min(self.least, count) for count in counts)
        if k < floor:
            raise ValueError(
                f"`density` {self.density} keeps {k} of {sum(counts)} scales, fewer than the {floor} that "
                f"{len(counts)} layers keep with least={self.least}; give a density of at least "
                f"{floor / sum(counts):.2g}, or a smaller `least`"
            )
        return k


def channel_scales(model: nn.Module, sample_input: Tensor) -> Weights:
    """The scales of ``model`` that close a channel where they are zero: the parameters themselves, by name.

    These are the weights of batch and instance normalisation right after the layers that make a channel. Left out are
    channels that can't go: those of the network's outputs, and those of a residual stream to which a
    layer without such a scale adds.

    :param model: the network; left as it is.
    :param sample_input: a batch of inputs, shape (N, ...), on the model's device.
    :raises ValueError: when there is none.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Conv2d(4, 3, 3))
    >>> channel_scales(model, torch.rand(1, 3, 8, 8))
    Weights({1.weight: (4,)}, dense_size=4)
    """
    parameters = dict(model.named_parameters())
    names = list(chain.from_iterable(_bundles(model, sample_input)))
    if not names:
        raise ValueError(
            "the network has no normalisation with scales (affine=True) behind a layer whose channels can go, so there "
            "is nothing to make sparse; use a network with such layers, or take out whole filters with FilterSparsity "
            "and remove_filters of art-atmc-structured, which need no normalisation"
        )
    return Weights({name: parameters[name] for name in parameters if name in names})


def coupled_scales(model: nn.Module, sample_input: Tensor) -> tuple[tuple[str, ...], ...]:
    """The tuples of scales whose i-th entries close one channel together, for ``ScaleSparsity(coupled=...)``.

    These are the scales of layers that residual connections add up.

    :param model: as for :func:`channel_scales`.
    :param sample_input: likewise.
    """
    return tuple(bundle for bundle in _bundles(model, sample_input) if len(bundle) > 1)


def _bundles(model: nn.Module, sample_input: Tensor) -> Iterator[tuple[str, ...]]:
    """The scales by which channels go, those that go together in one tuple."""
    scales = {layer: f"{name}.weight" for name, layer, _ in normalised_layers(model, sample_input)}
    with evaluating(model):
        groups = list(coupled_channels(model, sample_input[:1]))
    for group in groups:
        layers = list(dict.fromkeys(ends.layer for ends in group.makers))
        whole = all(torch.equal(ends.indices, ends.channels) for ends in group.makers)
        if whole and all(layer in scales for layer in layers):
            yield tuple(scales[layer] for layer in layers)


@torch.no_grad()
def normalised_layers(model: nn.Module, sample_input: Tensor) -> list[tuple[str, Any, Any]]:
    """Every normalisation with scales that stands right behind a linear layer or convolution: its name, that layer, and
    the normalisation."""
    made: list[tuple[Tensor, nn.Module]] = []
    found: dict[str, tuple[nn.Module, nn.Module]] = {}

    def keep(layer: nn.Module, _: Any, output: Tensor) -> None:
        made.append((output, layer))

    def look(name: str, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        for output, layer in made:
            if args[0] is output:
                found[name] = (layer, norm)

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, Layer) and getattr(module, "groups", 1) == 1:
            hooks.append(module.register_forward_hook(keep))
        elif isinstance(module, Norm) and module.affine:
            hooks.append(module.register_forward_pre_hook(lambda m, args, name=name: look(name, m, args)))
    try:
        with evaluating(model):
            model(sample_input[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return [(name, layer, norm) for name, (layer, norm) in found.items()]


def _foremost(lengths: Tensor, least: int) -> Tensor:
    """``lengths`` with the ``least`` largest infinite, the earlier ones among equals."""
    return lengths.index_fill(0, lengths.argsort(descending=True, stable=True)[:least], math.inf)
