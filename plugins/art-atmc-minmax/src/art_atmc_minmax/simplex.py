r"""Weights of domains: points of the simplex :math:`\mathbb{P} = \{ w \ge 0,\; \sum_i w_i = 1 \}`, and the steps that
maximise a regularised worst case over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["ascend", "prior_faults", "project_simplex", "worst_weights"]


def project_simplex(points: Tensor) -> Tensor:
    r"""The nearest point of the simplex to each row,

    .. math:: \Pi_{\mathbb{P}}(v) = \max(v - \mu, 0), \qquad \sum_i \max(v_i - \mu, 0) = 1 ,

    with :math:`\mu` found exactly in the sorted row (Held, Wolfe and Crowder 1974). A row that lies on the simplex up
    to the rounding of its type comes back bit for bit.

    :param points: (..., K), finite.

    >>> project_simplex(torch.tensor([[0.5, 0.5], [2.0, 0.5], [0.75, 0.75]]))
    tensor([[0.5000, 0.5000],
            [1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    exact = points.double()
    ordered = exact.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(dim=-1) - 1
    counts = torch.arange(1, points.shape[-1] + 1, dtype=torch.float64, device=points.device)
    kept = (ordered * counts > excess).sum(dim=-1, keepdim=True).clamp_(min=1)  # NaN: none
    shift = excess.gather(-1, kept - 1) / kept
    rounding = 4 * points.shape[-1] * torch.finfo(points.dtype).eps
    there = (exact.amin(-1, keepdim=True) >= 0) & ((exact.sum(-1, keepdim=True) - 1).abs() <= rounding)
    return torch.where(there, points, (exact - shift).clamp_(min=0).to(points.dtype))


def worst_weights(losses: Tensor, gamma: float, prior: Tensor | None = None) -> Tensor:
    r"""The weights of the regularised worst case, in closed form,

    .. math:: \arg\max_{w \in \mathbb{P}} w^\top F - \frac\gamma2 \|w - \pi\|_2^2
              = \Pi_{\mathbb{P}}\bigl(\pi + F / \gamma\bigr) .

    :param losses: F, (..., K), finite.
    :param gamma: from 0, all weight on the first of the largest losses, to infinity, the prior whatever the losses are.
    :param prior: :math:`\pi`, on the simplex; 1 / K where None.

    >>> losses = torch.tensor([1.0, 3.0])
    >>> [worst_weights(losses, gamma).tolist() for gamma in (0, 4, math.inf)]
    [[0.0, 1.0], [0.25, 0.75], [0.5, 0.5]]
    """
    return ascend(torch.zeros_like(losses), losses, gamma, math.inf, prior)


def ascend(weights: Tensor, losses: Tensor, gamma: float, step: float, prior: Tensor | None = None) -> Tensor:
    r"""One proximal step of ascent on the regularised worst case,

    .. math:: w^+ = \arg\max_{v \in \mathbb{P}} v^\top F - \frac\gamma2 \|v - \pi\|^2 - \frac1{2b} \|v - w\|^2
              = \Pi_{\mathbb{P}}\Bigl( \frac{w / b + \gamma \pi + F}{1 / b + \gamma} \Bigr) .

    With :math:`b = b' / (1 - b' \gamma)` this is the projected gradient step
    :math:`\Pi_{\mathbb{P}}(w + b' (F - \gamma (w - \pi)))` of the paper, which needs :math:`b' \gamma < 1` to be
    stable; the proximal step is stable for every gamma. An infinite b answers the losses at once, which is
    :func:`worst_weights`.

    :param weights: w, (..., K), on the simplex.
    :param losses: F, of that shape, finite.
    :param gamma: at least 0; infinity for the prior.
    :param step: b, positive; infinity for the closed form.
    :param prior: :math:`\pi`; 1 / K where None.

    >>> ascend(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), gamma=0.0, step=0.5)
    tensor([0.7500, 0.2500])
    """
    if prior is None:
        prior = torch.full_like(losses, 1 / losses.shape[-1])
    stiffness = 1 / step + gamma
    if math.isinf(stiffness):
        return prior.expand_as(losses).to(losses)
    if stiffness == 0:
        return one_hot(losses.argmax(dim=-1), losses.shape[-1]).to(losses)
    # Only differences of losses move a projection: taken from the largest, they are exact where it counts.
    relative = losses - losses.amax(dim=-1, keepdim=True)
    return project_simplex((weights / step + gamma * prior + relative) / stiffness)


def prior_faults(prior: Sequence[float], count: int) -> list[str]:
    """What is wrong with weights that have to lie on the simplex."""
    if len(prior) != count:
        return [f"`prior` must have a weight for each of {count} domains, got {len(prior)}"]
    if not all(weight >= 0 for weight in prior) or not math.isclose(sum(prior), 1, abs_tol=1e-6):
        return [
            f"`prior` must lie on the simplex, weights of at least 0 with sum 1, got {prior} with sum {sum(prior):g}; "
            "divide it by its sum"
        ]
    return []
