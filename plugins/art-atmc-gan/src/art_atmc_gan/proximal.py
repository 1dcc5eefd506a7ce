"""The soft threshold as a solver: an l1 penalty that gives exact zeros."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from art_atmc import Constraint, Solver, Weights
from art_atmc.support.numbers import Real, Whole
from art_atmc_gan.scales import ScaleSparsity

__all__ = ["Proximal", "soft_threshold"]


def soft_threshold(v: Tensor, t: float) -> Tensor:
    r"""The proximal step of the l1 norm, :math:`\arg\min_g \tfrac12 \|g - v\|^2 + t \|g\|_1
    = \operatorname{sign}(v) \max(|v| - t, 0)`.

    >>> soft_threshold(torch.tensor([3.0, -0.5, -2.0]), 1.0).tolist()
    [2.0, 0.0, -1.0]
    """
    return v - v.clamp(-t, t)


@final
class Proximal(Solver):
    r"""Proximal gradient on scales with an l1 penalty (GAN slimming, Algorithm 1).

    .. math:: \gamma \leftarrow S_{\rho\eta}(\gamma - \eta \Delta), \qquad
              S_t(v) = \operatorname{sign}(v) \max(|v| - t, 0)

    after each step :math:`\eta \Delta` of the optimizer, with the learning rate :math:`\eta` with which that step was
    made. A subgradient of the norm, in place of the threshold, would leave no scale exactly zero. A scale at zero loses
    its momentum: it comes back only when its gradient exceeds :math:`\rho`.

    With ``least`` the norm leaves out that many largest magnitudes of each layer, :math:`\rho (\|\gamma_l\|_1 - \sum_{i
    \le m} |\gamma_{l,(i)}|)`, the penalty of the trimmed lasso (Bertsimas et al. 2017,
    https://arxiv.org/abs/1708.04527). Its proximal step keeps those and thresholds the others, so that no layer closes.

    :param weights: the scales, as :func:`~art_atmc_gan.channel_scales` returns them.
    :param optimizer: the one that trains them.
    :param rho: the penalty's factor, at least 0.
    :param least: m, magnitudes of each tensor that the penalty leaves alone; 0 for the plain norm.
    :raises ValueError: for a negative ``rho`` or ``least``, and when the optimizer does not train the scales.

    >>> scales = torch.nn.Parameter(torch.tensor([1.0, 0.25]))
    >>> optimizer = torch.optim.SGD([scales], lr=0.5)
    >>> Proximal(Weights({"scales": scales}), optimizer, rho=0.5).step()
    >>> scales.tolist()
    [0.75, 0.0]
    """

    def __init__(self, weights: Weights, optimizer: torch.optim.Optimizer, *, rho: float, least: int = 0) -> None:
        super().__init__(weights, ScaleSparsity(density=1.0, least=1))  # which nothing breaks
        self.rho: float = Real("[0, inf)", "0 is no penalty").plain("rho", rho)
        self.least: int = Whole(0, None, "0 is the plain l1 norm").plain("least", least)
        self._optimizer = optimizer
        if missing := [name for name, weight in weights.items() if not self._rates(weight)]:
            raise ValueError(f"the optimizer does not train {missing}, whose learning rate the threshold takes")

    @torch.no_grad()
    def enforce(self, constraint: Constraint) -> None:
        for weight in self.weights.values():
            shrunk = soft_threshold(weight, self.rho * self._rates(weight)[0])
            if self.least:
                largest = weight.abs().argsort(descending=True, stable=True)[: self.least]
                shrunk[largest] = weight[largest]
            weight.copy_(shrunk)
            velocity = self._optimizer.state.get(weight, {}).get("momentum_buffer")
            if velocity is not None:
                velocity.masked_fill_(weight == 0, 0)

    def figures(self) -> dict[str, float]:
        """How many scales differ from zero."""
        return {"scales": float(self.weights.nnz())}

    def _rates(self, weight: Tensor) -> list[float]:
        """The learning rates of the groups that hold ``weight``, of which there is one."""
        return [float(g["lr"]) for g in self._optimizer.param_groups if any(p is weight for p in g["params"])]
