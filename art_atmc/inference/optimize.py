r"""Fewer operations from zeros and factors: plain layers that compute what a sparse or factored network computes.

A layer whose weight W is m x n (n inputs, for a convolution times the size of its kernel) costs :math:`m\,n`
multiply-adds at each output position. Fewer are enough where

* W has empty rows, whose outputs are the bias, or input channels that no row uses;
* the factors, run one after another, meet in few places: :math:`W x = (I + U)_{\cdot R}\,(V_{R \cdot}\, x) + C x`
  with R the rows of V that are not empty, and the like for :math:`U (I + V) + C`;
* W is very sparse and the layer linear: a product in compressed rows takes its non-zeros only.

Fewer operations are not always less time. What gathering, scattering and compressed rows cost was measured, and a plan
is taken only where it pays by these costs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from art_atmc.classifiers.modes import evaluating
from art_atmc.compression.factors import LowRankPlusSparse, recompose
from art_atmc.compression.weights import Factorization
from art_atmc.inference.layers import Block, Blocks, CompressedRows, Layer
from art_atmc.support.randomness import isolated_randomness

__all__ = ["MultiplyAdds", "multiply_adds", "optimized", "run_factors"]

# Costs in multiply-adds of a dense layer; measured on one core of an AMD EPYC (Zen 4) with torch 2.13, at batches of 1
# and 64, such that no plan that is taken is slower at either. Inside LeNet, where caches are cold, a linear layer's
# multiply-add takes 0.11 ns at batch 1; gathering and scattering cost 35 us a call, compressed rows 55 us.
CALL = 100_000  # each further torch call
ROWS = 5  # calls that compressed rows are as slow as
ENTRY = 6  # each non-zero in compressed rows: 0.2 ns at batch 1, 0.11 ns an example at 64, where a dense one takes 0.02
MOVE = 16  # each entry gathered or scattered: 0.2 to 0.7 ns in large batches
UNEVEN = 1.5  # each multiply-add of a convolution whose channels are no multiple of 16, as few are after trimming
POSITIONS = 16  # of a convolution that nothing is known of: a small one, where calls weigh most

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


@final
@dataclasses.dataclass(frozen=True)
class MultiplyAdds:
    r"""Multiply-adds of one weight for one example.

    .. math:: \text{dense} = P\,m\,n, \qquad \text{sparse} = P\,\|W\|_0 \quad\text{or}\quad
              P\,(\|U\|_0 + \|V\|_0 + \|C\|_0)

    with P output positions, for a transposed convolution input positions. The identity of a factored weight is free.
    A grouped convolution can't run its factors, so there it is :math:`\|W\|_0`.
    """

    dense: int
    sparse: int


def multiply_adds(model: nn.Module, sample: Tensor) -> dict[str, MultiplyAdds]:
    """Multiply-adds for one example, by the name of the dense weight; linear and convolution layers only.

    One forward in evaluation mode tells the output positions; modes, buffers and random state are afterwards what they
    were. Layers that it does not reach are left out. A weight that is used several times, or that layers share, stands
    under its first name with the sum.

    :param sample: a batch of inputs, shaped (N, ...), on the model's device.

    >>> layer = nn.Conv2d(1, 2, 3)
    >>> with torch.no_grad():
    ...     _ = layer.weight[0].zero_()
    >>> multiply_adds(nn.Sequential(layer), torch.zeros(1, 1, 6, 6))   # 4 x 4 positions
    {'0.weight': MultiplyAdds(dense=288, sparse=144)}
    """
    layers, counts = _applied(model, sample)
    with torch.no_grad(), evaluating(model), parametrize.cached():
        return {
            name: MultiplyAdds(count * layers[name].weight.numel(), count * _nonzeros(layers[name]))
            for name, count in counts.items()
        }


def uses(model: nn.Module, sample: Tensor) -> dict[str, int]:
    """How often each weight is applied to one example: once in a linear layer, at each output position in a
    convolution; see :func:`multiply_adds`.

    >>> uses(nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 6, 6))
    {'weight': 16}
    """
    return _applied(model, sample)[1]


def _applied(model: nn.Module, sample: Tensor) -> tuple[dict[str, Any], dict[str, int]]:
    """The layers by the name of their weight, and how often they apply it."""
    layers: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def count(name: str, layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        across: Tensor = (args[0] if args else kwargs["input"]) if isinstance(layer, TRANSPOSED) else output
        layers[name] = layer
        counts[name] = counts.get(name, 0) + across.numel() // max(1, layer.weight.shape[0] * len(sample))

    first: dict[int, str] = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, COUNTED):
            key = id(layer if parametrize.is_parametrized(layer, "weight") else layer.weight)
            hook = functools.partial(count, first.setdefault(key, f"{name}.weight".lstrip(".")))
            hooks.append(layer.register_forward_hook(hook, with_kwargs=True))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad(), evaluating(model), isolated_randomness(0), parametrize.cached():
            functional_call(model, buffers, (sample,))
    finally:
        for handle in hooks:
            handle.remove()
    return layers, counts


def _nonzeros(layer: Any) -> int:
    """Non-zero entries that the layer multiplies by at each position."""
    if parametrize.is_parametrized(layer, "weight") and getattr(layer, "groups", 1) == 1:
        form = layer.parametrizations["weight"]
        if isinstance(form[0], Factorization):
            return sum(int(factor.count_nonzero()) for factor in form.parameters())
    return int(layer.weight.count_nonzero())


def run_factors(model: nn.Module) -> nn.Module:
    r"""Let factored layers run their factors one after another where that costs fewer multiply-adds, in place.

    :math:`W = (I + U) V + C` becomes a layer with the kernel :math:`V_{R \cdot}`, one with the matrix
    :math:`(I + U)_{\cdot R}` and one with C, each without its empty rows and unused input channels, where

    .. math:: |R|\,|J_V| + |I_U|\,|R| + |I_C|\,|J_C| < |I_W|\,|J_W|

    with I the rows of a matrix that are not empty and J the inputs that it uses, and the like for
    :math:`W = U (I + V) + C`. The parameters are blocks of the factors, bit for bit, and of the
    identity; other layers stay factored. For inference: the new layers ask for no gradient.

    :param model: a network with decomposed ``nn.Linear`` or ``nn.Conv2d`` layers, see :func:`art_atmc.decompose`.
        Grouped convolutions stay as they are, since their rows see different inputs.
    :returns: ``model``; where it is a single layer, what takes its place.

    >>> from art_atmc import decompose
    >>> layer = decompose(nn.Linear(100, 50))
    >>> form = layer.parametrizations.weight
    >>> _ = form.original1.data[3:].zero_()                             # three rows of V are left,
    >>> _ = form.original0.data[:, :3].fill_(0.5)                       # of which U makes all rows of W
    >>> [tuple(p.shape) for p in run_factors(layer).parameters()]       # V; I + U and the bias
    [(3, 100), (50, 3), (50,)]
    """

    def cheaper(name: str, layer: Layer) -> nn.Module | None:
        blocks = _factor_blocks(layer)
        pays = sum(block.multiply_adds for block in blocks) < _occupied(layer.weight.detach()).multiply_adds
        return Blocks(layer, blocks) if blocks and pays else None

    return _replaced(model, cheaper)


def optimized(model: nn.Module, positions: Mapping[str, int] | None = None) -> nn.Module:
    r"""Replace the linear and 2-D convolution layers that zeros or factors make faster, in place; fold all factors.

    Each layer takes the cheapest of four plans by the measured costs: dense; without empty rows and unused input
    channels; factors one after another; compressed rows (linear layers on a CPU). Outputs and input gradients agree
    with those of ``model`` to rounding. For inference: the new layers ask for no gradient, and code that reads the
    ``weight`` of a replaced layer finds none.

    :param model: any network, factored or not.
    :param positions: output positions of convolutions by the name of the weight (:func:`multiply_adds` counts them);
        where it names none few are assumed, and the convolution is replaced only where much is saved.
    :returns: ``model``; where it is a single layer, what takes its place.

    >>> layer = nn.Linear(1000, 1000)
    >>> with torch.no_grad():
    ...     _ = layer.weight[:, 100:].zero_()
    >>> [tuple(p.shape) for p in optimized(nn.Sequential(layer)).parameters()]
    [(1000, 100), (1000,)]
    """
    known = positions or {}

    def cheapest(name: str, layer: Layer) -> nn.Module | None:
        call = CALL // max(1, known.get(name, POSITIONS if isinstance(layer, nn.Conv2d) else 1))
        return min(_plans(layer, call), key=lambda plan: plan.cost).build()

    return recompose(_replaced(model, cheapest))


def _replaced(model: nn.Module, choose: Callable[[str, Layer], nn.Module | None]) -> nn.Module:
    """Put what ``choose`` gives for a layer wherever the layer stands; None leaves it."""
    # The fast path of torch's encoder layers reads the weights of the layers in it.
    read = {child for m in model.modules() if isinstance(m, nn.TransformerEncoderLayer) for child in m.children()}
    made: dict[nn.Module, nn.Module] = {}
    for name, layer in model.named_modules():
        if layer not in read and _is_plain(layer):
            with torch.no_grad(), parametrize.cached():  # forms a factored weight once
                new = choose(f"{name}.weight".lstrip("."), layer)
            if new is not None:
                made[layer] = new.train(layer.training)
    for parent in list(model.modules()):
        for local, child in list(parent._modules.items()):
            if child in made:
                setattr(parent, local, made[child])
    return made.get(model, model)


def _is_plain(layer: Any) -> bool:
    """Whether ``layer`` computes what its weight, perhaps a factored one, says, and nothing else."""
    if parametrize.type_before_parametrizations(layer) not in (nn.Linear, nn.Conv2d) or not layer.weight.numel():
        return False
    if getattr(layer, "groups", 1) > 1 or layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return False
    return not parametrize.is_parametrized(layer) or (
        set(layer.parametrizations) == {"weight"} and isinstance(layer.parametrizations["weight"][0], LowRankPlusSparse)
    )


class _Plan(NamedTuple):
    cost: float
    build: Callable[[], nn.Module | None]


def _plans(layer: Layer, call: int) -> Iterator[_Plan]:
    """Ways to run ``layer`` with what each costs, in multiply-adds at one output position."""
    weight = layer.weight.detach()
    yield _Plan(weight.numel(), lambda: None)
    if not weight.numel():
        return
    for blocks in ([_occupied(weight)], _factor_blocks(layer)):
        if blocks:
            moved, calls = _moves(layer, blocks)
            cost = sum(block.multiply_adds for block in blocks) + MOVE * moved + call * calls
            yield _Plan(cost * (UNEVEN if weight.dim() > 2 else 1), functools.partial(Blocks, layer, blocks))
    if isinstance(layer, nn.Linear) and weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64):
        cost = ENTRY * int(weight.count_nonzero()) + ROWS * call
        yield _Plan(cost, functools.partial(CompressedRows, weight, layer.bias))


def _moves(layer: Layer, blocks: Sequence[Block]) -> tuple[int, int]:
    """Entries that are gathered and scattered at each position, and torch calls beyond the layer's one."""
    rows, channels = layer.weight.shape[:2]
    moved = calls = 0
    for i, block in enumerate(blocks):
        gathered, scattered = len(block.inputs) < channels, i > 0 or len(block.outputs) < rows
        moved += gathered * len(block.inputs) + scattered * rows
        calls += gathered + 2 * scattered + (block.mixing is not None) + (i > 0)
    return moved, calls


def _occupied(weight: Tensor) -> Block:
    """``weight`` without empty rows and unused input channels."""
    taken = weight.ne(0).flatten(2).any(2) if weight.dim() > 2 else weight.ne(0)
    outputs, inputs = _where(taken.any(1)), _where(taken.any(0))
    return Block(outputs, inputs, weight[outputs][:, inputs])


def _factor_blocks(layer: Layer) -> list[Block]:
    """The blocks that the factors of ``layer`` are run by; none where it has no factors, or no product of two."""
    if not parametrize.is_parametrized(layer, "weight"):
        return []
    form: Any = layer.parametrizations["weight"]  # type: ignore[index]
    U, V, C = (factor.detach() for factor in form.parameters())
    identity = torch.eye(min(len(U), V.shape[1]), dtype=U.dtype, device=U.device)
    first, second = (V, U + identity) if form[0].wide else (V + identity, U)
    meeting = first.ne(0).any(1) & second.ne(0).any(0)
    if not meeting.any():
        return []
    kernel = _occupied(first.reshape(-1, *C.shape[1:])[meeting])
    mixing = _occupied(second[:, meeting])
    blocks = [Block(mixing.outputs, kernel.inputs, kernel.kernel, mixing.kernel)]
    return [*blocks, _occupied(C)] if C.any() else blocks


def _where(mask: Tensor) -> Tensor:
    """The indices where ``mask`` holds; the first where it holds nowhere, since a layer needs one."""
    found = mask.nonzero().reshape(-1)
    return found if len(found) else found.new_zeros(1)
