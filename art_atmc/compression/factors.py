r"""The decomposition of every weight into low rank plus sparse (ATMC, Eq. 3), as a torch parametrization.

No layer is rewritten: the factors become the parameters and ``layer.weight`` is formed from them when it is read.
Inside :func:`torch.nn.utils.parametrize.cached` it is formed once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from art_atmc.compression.weights import Factorization, Weights, compressible, shared_names, unwrapped
from art_atmc.support.precision import without_autocast

__all__ = ["LowRankPlusSparse", "decompose", "recompose"]

SPARSE_BELOW = 0.05  # share of non-zeros of U under which a sparse product was measured to be faster than a dense one


@final
class LowRankPlusSparse(Factorization):
    r"""A weight as low rank plus sparse, with an identity that costs nothing.

    .. math:: W = (I + U)\,V + C \quad (m \le n), \qquad W = U\,(I + V) + C \quad (m > n)

    for W seen as an :math:`m \times n` matrix: the first dimension against all others, so a convolution kernel is
    (out, in*kh*kw), a transposed one (in, out*kh*kw), a grouped one (out, in/groups*kh*kw). The square factor lies on
    the smaller side. At the start the square factor and C are zero and the other holds W, so W is unchanged and no
    entry is spent; the sparsity of the factors, not an inner dimension, decides the rank (ATMC, Eq. 3-4).

    :param shape: the shape of W, with at least two dimensions.

    >>> form = LowRankPlusSparse((2, 3))
    >>> U, V, C = form.right_inverse(torch.ones(2, 3))
    >>> int(U.count_nonzero()), int(V.count_nonzero()), int(C.count_nonzero())
    (0, 6, 0)
    >>> U[0, 1] = 2.0                  # row 0 of W gains twice row 1 of V
    >>> form(U, V, C).tolist()
    [[3.0, 3.0, 3.0], [1.0, 1.0, 1.0]]
    """

    names: ClassVar[tuple[str, ...]] = ("U", "V", "C")

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.rows, self.columns = shape[0], math.prod(shape[1:])
        self.wide = self.rows <= self.columns

    def forward(self, U: Tensor, V: Tensor, C: Tensor) -> Tensor:
        with without_autocast(C.device.type):  # W is rounded once, where a layer uses it
            if self.wide:
                product = V + _Product.apply(U, V)
            else:
                product = U + _Product.apply(V.T, U.T).T
            return C + product.reshape(C.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        full = weight.detach().reshape(self.rows, self.columns).clone(memory_format=torch.contiguous_format)
        square = full.new_zeros((min(full.shape),) * 2)
        first, second = (square, full) if self.wide else (full, square)
        return first, second, torch.zeros_like(weight)


class _Product(torch.autograd.Function):
    """S F and its gradients, from the non-zeros of the square factor S where they are few."""

    @staticmethod
    def forward(ctx: Any, square: Tensor, full: Tensor) -> Tensor:
        few = not square.is_cuda and int(square.count_nonzero()) < SPARSE_BELOW * square.numel()
        ctx.few = few
        ctx.save_for_backward(square, full)
        return _multiply(square, full, few)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        square, full = ctx.saved_tensors
        # The gradient of S is dense: zeros of S must feel what they would gain by coming back.
        of_square = gradient @ full.T if ctx.needs_input_grad[0] else None
        of_full = _multiply(square.T, gradient, ctx.few) if ctx.needs_input_grad[1] else None
        return of_square, of_full


def _multiply(square: Tensor, full: Tensor, few: bool) -> Tensor:
    return torch.sparse.mm(square.to_sparse(), full) if few else square @ full


def decompose(
    model: nn.Module, ignore: Sequence[str] = (), optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    r"""Replace every compressible weight W of ``model`` by factors with :math:`W = (I + U) V + C`, in place.

    The network computes what it computed before. Layers that are decomposed already are left alone.

    :param model: any module with linear, convolution, embedding or attention layers.
    :param ignore: patterns of layers that stay as they are, see :func:`art_atmc.compressible`.
    :param optimizer: an optimizer over the model's parameters; its groups are re-pointed at the factors, so that it
        goes on training the model. An optimizer that is not handed over here must be built afterwards.
    :returns: ``model``.
    :raises ValueError: for weights that cannot be compressed, and for tied weights, which have no factors of their own.

    >>> layer = decompose(nn.Linear(3, 2, bias=False))
    >>> [tuple(p.shape) for p in layer.parameters()]   # U, V, C
    [(2, 2), (2, 3), (2, 3)]
    """
    weights = compressible(model, ignore)
    check_decomposable(model, weights)
    own = dict(unwrapped(model).named_parameters())
    for name in [name for name in weights if name in own]:  # the others are factors already
        factors = decompose_weight(model, name)
        if optimizer is not None:
            _repoint(optimizer, model, [own[name]], factors)
    return model


def factors_of(weights: Weights, factored: Collection[str] = (), device: str | None = "meta") -> Weights:
    """What :func:`decompose` will make of ``weights``; ``factored`` are those it has made. Shapes without values, or on
    their own ``device``, None, with them."""
    factors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        own = weight.detach().to(device or weight.device)
        if name.rpartition(".")[0] in factored:
            factors[name] = own
        else:
            form = LowRankPlusSparse(weight.shape)
            parts = form.right_inverse(own)
            factors |= {f"{name}.{factor}": part for factor, part in zip(form.names, parts, strict=True)}
    return weights.like(factors)


def check_decomposable(model: nn.Module, weights: Weights) -> None:
    """Refuse tied weights, which would get factors of their own in each layer, with a ``ValueError``."""
    shared = shared_names(model)
    tied = [" and ".join(f"`{n}`" for n in shared[id(p)]) for p in weights.values() if id(p) in shared]
    if tied:
        raise ValueError(
            "tied weights can't be decomposed, as each layer would get factors of its own: "
            f"{'; '.join(tied)}; put both names into `ignore`, or compress without factors "
            "(`ATMCTrainer(..., factored=False)`), which counts a tied weight once"
        )


def decompose_weight(model: nn.Module, name: str) -> list[nn.Parameter]:
    """Factor the one parameter ``name`` of ``model``, in place; returns U, V, C."""
    owner, _, local = name.rpartition(".")
    layer = unwrapped(model).get_submodule(owner)
    _factor(layer, local)
    return list(layer.parametrizations[local].parameters())  # type: ignore[index, union-attr]


def _factor(layer: nn.Module, local: str) -> None:
    """Factor one weight of a layer. Torch gives the layer a class of its own, which neither pickles nor draws fresh
    weights, as ART, ``torch.save`` and worker processes ask of a layer: it learns both here."""
    plain = type(layer)
    parametrize.register_parametrization(layer, local, LowRankPlusSparse(getattr(layer, local).shape))
    kind: Any = type(layer)
    if kind is plain:
        return  # another weight of it is factored already
    kind.__reduce_ex__ = _pickled
    if hasattr(plain, "reset_parameters"):
        kind.reset_parameters = _reset


def _pickled(layer: nn.Module, protocol: int) -> tuple[Any, ...]:
    """A factored layer as its plain class, the shapes of its weights, and its attributes."""
    forms = _forms(layer)
    if strangers := [local for local, form in forms.items() if not isinstance(form[0], LowRankPlusSparse)]:
        raise TypeError(
            f"{type(layer).__name__} has further parametrizations, of {strangers}, which torch can't pickle; save the "
            "state_dict"
        )
    shapes = {local: tuple(form[0].shape) for local, form in forms.items()}
    return _unpickled, (type(layer).__bases__[0], shapes), dict(vars(layer))


def _unpickled(kind: type[nn.Module], shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    for local, shape in shapes.items():
        layer.register_parameter(local, nn.Parameter(torch.empty(shape)))
        _factor(layer, local)
    return layer  # its attributes, the factors among them, follow


@torch.no_grad()
def _reset(layer: nn.Module) -> None:
    """Fresh weights in the layer's own way; they become the factors of a fresh decomposition."""
    fresh: Any = recompose(copy.deepcopy(layer))
    fresh.reset_parameters()
    for local, parameter in layer.named_parameters(recurse=False):
        parameter.copy_(getattr(fresh, local))
    for local, buffer in layer.named_buffers(recurse=False):
        buffer.copy_(getattr(fresh, local))
    for local in _forms(layer):
        setattr(layer, local, getattr(fresh, local).detach())  # a Parameter would be registered instead


def _repoint(
    optimizer: torch.optim.Optimizer, model: nn.Module, old: Sequence[nn.Parameter], new: Sequence[nn.Parameter]
) -> None:
    """Let the group of ``old`` train ``new``; the state kept for ``old`` (momentum) has no meaning for them."""
    names = {id(p): name for name, p in model.named_parameters()}
    gone = {id(p) for p in old}
    for group in optimizer.param_groups:
        places = [i for i, p in enumerate(group["params"]) if id(p) in gone]
        if not places:
            continue
        first = places[0]
        for i in reversed(places):
            del group["params"][i]
        group["params"][first:first] = new
        if "param_names" in group:  # of an optimizer that was made from named parameters
            for i in reversed(places):
                del group["param_names"][i]
            group["param_names"][first:first] = [names[id(p)] for p in new]
    for p in old:
        optimizer.state.pop(p, None)


def recompose(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
    r"""Fold the factors of every decomposed layer into a plain weight :math:`W`, in place; undoes :func:`decompose`.

    :param optimizer: an optimizer that trains the factors; it trains the weights from then on. One that is not handed
        over goes on with the factors, which nothing reads any more.
    :returns: ``model``.

    >>> layer = nn.Linear(3, 2)
    >>> before = layer.weight.detach().clone()
    >>> torch.equal(recompose(decompose(layer)).weight, before), type(layer).__name__
    (True, 'Linear')
    """
    for layer, local in decomposed(model).values():
        factors = list(layer.parametrizations[local].parameters())  # type: ignore[index, union-attr]
        # Torch deletes the property from the layer's class, which deep copies of the layer share: give it its own.
        kind = type(layer)
        layer.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
        parametrize.remove_parametrizations(layer, local, leave_parametrized=True)
        weight = getattr(layer, local)
        if not isinstance(weight, nn.Parameter):  # torch leaves that of a frozen layer a plain tensor
            delattr(layer, local)
            layer.register_parameter(local, nn.Parameter(weight.detach(), requires_grad=False))
        if optimizer is not None:
            _repoint(optimizer, model, factors, [getattr(layer, local)])
    return model


def decomposed(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The decomposed weights of ``model`` by name: the layer and its attribute."""
    return {
        f"{name}.{local}".lstrip("."): (layer, local)
        for name, layer in unwrapped(model).named_modules()
        for local, form in _forms(layer).items()
        if isinstance(form[0], LowRankPlusSparse)
    }


def _forms(layer: nn.Module) -> dict[str, Any]:
    """The parametrizations of a layer by attribute."""
    # Not what torch.compile's wrapper passes on: it has the attributes of the layer inside.
    return dict(layer.parametrizations.items()) if "parametrizations" in layer._modules else {}  # type: ignore
