"""The weights that compression acts on: which tensors of a model, under which names, against which dense size."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["Factorization", "Weights", "compressible", "empty_layers"]

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
    nn.MultiheadAttention,
)
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


class Factorization(nn.Module):
    """Base of the parametrizations whose factors are compressed in place of the weight that they form.

    ``names`` calls the factors by their names in the order of the parametrization's originals.
    """

    names: ClassVar[tuple[str, ...]]


class Weights(Mapping[str, Tensor]):
    r"""Named tensors :math:`\{W_1, \dots, W_L\}` seen as one point :math:`w \in \mathbb{R}^N`.

    A constraint acts on the point, so a budget over all tensors together is no special case. ``dense_size`` is the
    number of weights of the *dense* network: what a density refers to, also where the tensors are the factors
    U, V, C and so hold more entries than the dense network.

    :param tensors: the tensors by name; held, not copied.
    :param dense_size: number of weights of the dense network; by default the number of entries of ``tensors``.
    :raises ValueError: when ``dense_size`` is below 1.

    >>> weights = Weights({"fc": torch.tensor([[3.0, -1.0], [0.0, 2.0]])})
    >>> weights.dense_size, weights.nnz()
    (4, 3)
    >>> weights.map(torch.abs)["fc"].sum().item()
    6.0
    """

    def __init__(self, tensors: Mapping[str, Tensor], dense_size: int | None = None) -> None:
        self._tensors = dict(tensors)
        self.dense_size = sum(t.numel() for t in self._tensors.values()) if dense_size is None else dense_size
        if self.dense_size < 1:
            raise ValueError("there is nothing to compress: the weights hold no entry")

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(tensor.shape)}" for name, tensor in self.items())
        return f"Weights({{{shapes}}}, dense_size={self.dense_size})"

    def map(self, function: Callable[..., Tensor], *others: Mapping[str, Tensor]) -> Weights:
        """Apply ``function(tensor, *other_tensors)`` name by name; the dense size stays."""
        return self.like({name: function(t, *(other[name] for other in others)) for name, t in self.items()})

    def like(self, tensors: Mapping[str, Tensor]) -> Weights:
        """Other tensors under the same dense size."""
        return Weights(tensors, self.dense_size)

    def detach(self) -> Weights:
        """The same storage without gradient."""
        return self.map(Tensor.detach)

    def clone(self) -> Weights:
        """A copy that later changes of the tensors do not reach."""
        return self.map(lambda t: t.detach().clone())

    @torch.no_grad()
    def assign_(self, values: Mapping[str, Tensor]) -> None:
        """Write ``values`` into the tensors, in place."""
        for name, tensor in self.items():
            tensor.copy_(values[name])

    def nnz(self) -> int:
        r"""Number of non-zero entries, :math:`\|w\|_0`."""
        return sum(int(torch.count_nonzero(t)) for t in self.values())


def compressible(model: nn.Module, ignore: Sequence[str] = ()) -> Weights:
    r"""The weights of ``model`` that may be compressed: every matrix or kernel, no bias, no normalisation.

    Linear, (transposed, grouped, depthwise) convolution, embedding and attention-projection weights; in a decomposed
    model, their factors U, V and C in place of W. A parameter with two or more dimensions that is none of these would
    stay dense unnoticed, so it is refused unless ``ignore`` names it. So are a complex one, and one from which a hook
    computes the weight (``torch.nn.utils.weight_norm``, ``prune``).

    :param model: any module; names are those inside ``DataParallel`` and the like, see :func:`unwrapped`.
    :param ignore: shell-style patterns of layer or parameter names that stay dense, such as ``"head"``, ``"stem.*"``.
    :returns: the parameters themselves (not copies) by qualified name; ``dense_size`` counts W, not the factors.
        A parameter that several layers share is listed once, under its first name.
    :raises TypeError: when ``ignore`` is a single string.
    :raises ValueError: naming at once every parameter that can't be compressed, each pattern that matches nothing,
        or when no weight is left; for lazy layers that have no shape yet, ignored or not.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    >>> sorted(compressible(model))
    ['0.weight', '3.weight']
    >>> compressible(model, ignore=["3"]).dense_size
    36
    """
    if isinstance(ignore, str):
        raise TypeError(f"`ignore` must be a list of patterns, got the string {ignore!r}; write ignore=[{ignore!r}]")
    model = unwrapped(model)
    _check_initialised(model)
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    used: set[str] = set()
    offenders: list[str] = []
    dense_size = 0
    for layer_name, layer in model.named_modules():
        for local, parameters, size in _matrices(layer):
            dense_name = f"{layer_name}.{local}".lstrip(".")
            matched = [p for p in ignore if matches(p, dense_name)]
            used.update(matched)
            if matched or seen.issuperset(map(id, parameters.values())):
                continue
            offence = _offence(layer, local, parameters)
            if offence:
                offenders.append(f"`{dense_name}` {offence}")
                continue
            seen.update(map(id, parameters.values()))
            dense_size += size
            tensors.update({f"{layer_name}.{key}".lstrip("."): p for key, p in parameters.items()})
    if unused := [p for p in ignore if p not in used]:
        offenders.append(f"the ignore patterns {unused} match no weight; the names are those of `named_parameters()`")
    if offenders:
        raise ValueError("not every weight can be compressed:\n  " + "\n  ".join(offenders))
    if not tensors:
        raise ValueError(
            "the model has no compressible weight: it needs a linear, convolution or embedding layer "
            "that `ignore` does not exclude"
        )
    return Weights(tensors, dense_size)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``, under its own names.

    >>> layer = nn.Linear(2, 2)
    >>> unwrapped(nn.DataParallel(layer)) is layer
    True
    """
    inner = getattr(model, "module" if isinstance(model, PARALLEL) else "_orig_mod", None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def _check_initialised(model: nn.Module) -> None:
    every = (*model.named_parameters(), *model.named_buffers())
    if lazy := [name for name, tensor in every if nn.parameter.is_lazy(tensor)]:
        raise ValueError(
            f"{lazy} belong to lazy layers and have no shape yet; run one batch through the model first, and build "
            "the optimizer afterwards"
        )


def empty_layers(weights: Weights) -> list[str]:
    """The weights that have entries, all of them zero; those of factors by the name of the weight that they form.

    >>> empty_layers(Weights({"a.weight": torch.zeros(2, 2), "b.weight": torch.ones(2, 2)}))
    ['a.weight']
    """
    # W = (I + U) V + C vanishes with V and C where U is square, W = U (I + V) + C with U and C.
    whole: dict[str, list[Tensor]] = {}
    for name, tensor in weights.items():
        owner, _, factor = name.rpartition(".")
        whole.setdefault(owner if factor in ("U", "V", "C") else name, []).append(tensor)
    return [
        name
        for name, parts in whole.items()
        if parts[-1].numel() and not any(part.count_nonzero() for part in _carrying(parts))
    ]


def _carrying(parts: list[Tensor]) -> list[Tensor]:
    """Of the factors of a weight those whose entries do not count unless others are there: all but the square one."""
    if len(parts) != 3:
        return parts
    U, V, C = parts
    return [V, C] if C.shape[0] <= C[0].numel() else [U, C]


def _matrices(layer: nn.Module) -> Iterator[tuple[str, dict[str, nn.Parameter], int]]:
    """Per weight of two or more dimensions that ``layer`` itself owns: its name, its parameters, its dense size."""
    if isinstance(layer, (*NORMALISATION, parametrize.ParametrizationList)):
        return
    for local, form in _parametrizations(layer).items():
        parameters = dict(form.named_parameters(recurse=False))
        if isinstance(form[0], Factorization):
            parameters = dict(zip((f"{local}.{name}" for name in form[0].names), parameters.values(), strict=True))
        shape = _formed_shape(layer, local, form)
        if parameters and len(shape) > 1:
            yield local, parameters, shape.numel()
    for local, parameter in layer.named_parameters(recurse=False):
        if parameter.dim() > 1 and not local.startswith("bias"):
            yield local, {local: parameter}, parameter.numel()


@torch.no_grad()
def _formed_shape(layer: nn.Module, local: str, form: nn.Module) -> torch.Size:
    """The shape of a parametrized weight. Some change their buffers where one is formed in training (spectral norm)."""
    modes = [(module, module.training) for module in form.modules()]
    try:
        for module, _ in modes:
            module.training = False
        return getattr(layer, local).shape
    finally:
        for module, training in modes:
            module.training = training


def _parametrizations(layer: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    own = "parametrizations" in layer._modules  # what torch.compile wraps answers for its wrapper too
    return dict(layer.parametrizations.items()) if own else {}  # type: ignore[operator, union-attr]


def matches(pattern: str, dense_name: str) -> bool:
    """A pattern names the parameter, its layer, or a module above it."""
    parts = dense_name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _offence(layer: nn.Module, local: str, parameters: Mapping[str, nn.Parameter]) -> str | None:
    """Why this weight can't be compressed, with the remedy; None where it can."""
    if computed := _computed_from(layer, local):
        return (
            f"is what a hook computes `{computed}` from (torch.nn.utils.weight_norm, spectral_norm or prune); call "
            "remove_weight_norm, remove_spectral_norm or prune.remove first or `ignore` it"
        )
    if any(p.is_complex() for p in parameters.values()):
        return "is complex, and constraints hold for real weights; `ignore` it to leave it dense"
    if any(not p.requires_grad for p in parameters.values()):
        return "is frozen (requires_grad=False), so it would be cut but not retrained; unfreeze it or `ignore` it"
    form = _parametrizations(layer).get(local)
    if form is not None and not isinstance(form[0], Factorization):
        return (
            f"is already parametrized by {type(form[0]).__name__}; call "
            "torch.nn.utils.parametrize.remove_parametrizations first or `ignore` it"
        )
    if not isinstance(layer, LAYERS):
        return f"belongs to a {type(layer).__name__}, which is not supported; `ignore` it to leave it dense"
    if isinstance(layer, nn.Embedding) and layer.sparse:
        return "has sparse gradients; build the embedding with sparse=False or `ignore` it"
    return None


def _computed_from(layer: nn.Module, local: str) -> str | None:
    """The attribute that a hook computes from parameter ``local``: ``weight`` from ``weight_orig``; None for others."""
    plain = (name for name, value in vars(layer).items() if isinstance(value, Tensor))
    return next((name for name in plain if local.startswith(f"{name}_")), None)


def shared_names(model: nn.Module) -> dict[int, list[str]]:
    """The names of every parameter that stands under more than one, by identity."""
    every = [(name, id(p)) for name, p in unwrapped(model).named_parameters(remove_duplicate=False)]
    counts = Counter(key for _, key in every)
    shared: dict[int, list[str]] = {}
    for name, key in every:
        if counts[key] > 1:
            shared.setdefault(key, []).append(name)
    return shared
