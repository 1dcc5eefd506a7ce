"""Borrowed gradients: the values of one network with the gradients of another."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

__all__ = ["StraightThrough"]


@final
class StraightThrough(nn.Module):
    r"""The values of one network with the gradients of another (Athalye et al. 2018, https://arxiv.org/abs/1802.00420).

    .. math:: f(x) + \bigl(g(x) - \mathrm{stop}(g(x))\bigr)

    For a network f whose gradient is zero or missing (rounded activations, an exported graph) and a differentiable twin
    g of it: an attack judges its points by f and moves along g.

    :param values: f.
    :param gradients: g; of the same inputs and outputs.

    >>> rounded = StraightThrough(nn.Hardtanh(), nn.Identity())
    >>> x = torch.tensor([2.0], requires_grad=True)
    >>> rounded(x).item(), torch.autograd.grad(rounded(x), x)[0].item()
    (1.0, 1.0)
    """

    def __init__(self, values: nn.Module, gradients: nn.Module) -> None:
        super().__init__()
        self.values, self.gradients = values, gradients

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.values(x)
        twin = self.gradients(x)
        return value + (twin - twin.detach())  # type: ignore[no-any-return]
