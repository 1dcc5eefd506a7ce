"""Low rank as a start: truncated singular value decompositions within one budget, in the factors that we train."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from art_atmc.compression.constraints import Sparsity
from art_atmc.compression.factors import decompose
from art_atmc.compression.weights import Weights, compressible

__all__ = ["low_rank_", "ranks", "require_rank_one"]


def ranks(singular: dict[str, Tensor], costs: dict[str, int], budget: int) -> dict[str, int]:
    r"""How many singular values every matrix keeps: the largest of all matrices together, at least one each.

    .. math:: \sum_l r_l (m_l + n_l) \le k

    They are taken in decreasing order until the next one no longer fits; the paper's baseline keeps a share of all
    singular values by the same order (Gui et al. 2019, ALR).

    :param singular: singular values of each matrix, decreasing.
    :param costs: entries that one more singular value takes, rows and columns.
    :param budget: k.
    :raises ValueError: when the budget does not suffice for rank 1 everywhere.

    >>> ranks({"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([4.0, 3.0])}, {"a": 10, "b": 6}, budget=25)
    {'a': 1, 'b': 2}
    """
    kept = dict.fromkeys(singular, 1)
    used = sum(costs.values())
    if used > budget:
        raise ValueError(
            f"low rank needs {used} entries for rank 1 in every layer, but the budget is {budget}; raise the density"
        )
    rest = sorted(((float(s), name) for name, values in singular.items() for s in values[1:]), reverse=True)
    for _, name in rest:
        if used + costs[name] > budget:
            break
        used += costs[name]
        kept[name] += 1
    return kept


def require_rank_one(weights: Weights, density: float) -> None:
    """
    :raises ValueError: when the budget of this density does not suffice for rank 1 in every layer.
    """
    ranks({name: torch.ones(1) for name in weights}, _costs(weights), Sparsity(density).budget(weights))


def _costs(weights: Weights) -> dict[str, int]:
    return {name: len(w) + w[0].numel() for name, w in weights.items()}


@torch.no_grad()
def low_rank_(model: nn.Module, density: float, ignore: Sequence[str] = ()) -> nn.Module:
    r"""Replace every compressible weight by its best approximation of low rank, as factors of ATMC, in place.

    With :math:`W \approx B A` of rank r, the factors of :math:`W = (I + U) V + C` become

    .. math:: U = [\,B - I_{\cdot, 1..r} \mid 0\,], \qquad V = \begin{bmatrix} A \\ 0 \end{bmatrix}, \qquad C = 0,

    (for a tall W the square factor is V), so that they have as many entries as B and A, and what trains and stores
    ATMC's factors trains and stores these. Both B and A get the square roots of the singular values.

    :param density: the budget is this share of the dense weights, :class:`~art_atmc.Sparsity`'s k.
    :param ignore: patterns of layers that stay as they are.
    :returns: ``model``.
    :raises ValueError: when the budget does not suffice for rank 1 everywhere.

    >>> layer = nn.Linear(20, 30, bias=False)
    >>> _ = layer.weight.data.copy_(torch.outer(torch.arange(30.0), torch.ones(20)))
    >>> torch.allclose(low_rank_(layer, density=0.1).weight, torch.arange(30.0)[:, None].expand(30, 20), atol=1e-4)
    True
    """
    weights = compressible(model, ignore)
    budget = Sparsity(density).budget(weights)
    parts = {name: torch.linalg.svd(w.detach().flatten(1), full_matrices=False) for name, w in weights.items()}
    kept = ranks({name: part.S for name, part in parts.items()}, _costs(weights), budget)
    wide = {name: len(w) <= w[0].numel() for name, w in weights.items()}
    decompose(model, ignore)
    factors = compressible(model, ignore)
    for name, (left, values, right) in parts.items():
        r = kept[name]
        root = values[:r].sqrt()
        first, second = left[:, :r] * root, root[:, None] * right[:r]
        U, V, C = (factors[f"{name}.{factor}"] for factor in "UVC")
        for factor in (U, V, C):
            factor.zero_()
        U[:, :r], V[:r] = first, second
        square = U if wide[name] else V
        square.diagonal()[:r] -= 1
    return model
