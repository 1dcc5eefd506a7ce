"""WRM: the distributionally robust attack, held back by a penalty in place of a ball."""

from __future__ import annotations

import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from art_atmc.attacks.ball import box
from art_atmc.attacks.base import Adversary, Problem
from art_atmc.classifiers.modes import fixed
from art_atmc.support.numbers import Real, Whole, check_numbers

__all__ = ["WRM"]


@final
@dataclasses.dataclass(frozen=True)
class WRM(Adversary):
    r"""The distributionally robust attack (Sinha et al. 2018, https://arxiv.org/abs/1710.10571, Algorithm 1).

    .. math:: x_{t+1} = \mathrm{clip}\Bigl(x_t + \tfrac{1}{\sqrt{t+1}} \nabla_{x_t}
              \bigl(\gamma\, \ell(f(x_t), y) - \tfrac12 \|x_t - x\|_2^2\bigr)\Bigr), \qquad t = 0, 1, \dots

    A penalty holds it back rather than a ball, so its examples lie at no fixed distance. The defaults are those of the
    ATMC paper (poster of Gui et al., NeurIPS 2019); its released code for CIFAR-10 has gamma 20.

    :param gamma: weight of the loss, positive.
    :param max_iter: steps, at least 1.
    :raises ValueError: at construction, naming every parameter out of range.

    >>> network = torch.nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> WRM(max_iter=1)(Problem(network), torch.tensor([[0.0]]), torch.tensor([0]))  # the loss has gradient -1
    tensor([[-1.3000]])
    """

    gamma: float = 1.3
    max_iter: int = 7

    def __post_init__(self) -> None:
        check_numbers(self, gamma=Real("(0, inf)", "the paper has 1.3"), max_iter=Whole(1, None, "the paper has 7"))

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        network, loss = problem.network, problem.loss
        x, (low, high) = x.detach(), box(problem.clip_values, x)
        adv = x
        with fixed(network):
            for t in range(self.max_iter):
                with torch.enable_grad():
                    point = adv.detach().requires_grad_()
                    # `loss` is a mean over the batch; the ascent is that of each sample.
                    (gradient,) = torch.autograd.grad(self.gamma * len(x) * loss(network(point), y), point)
                adv = adv + (gradient - (adv - x)) / math.sqrt(t + 1)
                adv = torch.minimum(torch.maximum(adv, low), high)
        if not gradient.isfinite().all():
            raise FloatingPointError(
                "the loss gradient is not finite; look for NaN in the data, or for weights that diverged"
            )
        return adv
