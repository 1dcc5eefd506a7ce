"""Attacks that only an evaluation needs: WRM, ART's attacks built for the network they meet, borrowed gradients."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_atmc.adversaries import Adversary, ClipValues, Loss, fixed
from art_atmc.art_attacks import ARTAttack
from art_atmc.evaluation.balls import box

if TYPE_CHECKING:
    from art.attacks.attack import EvasionAttack

__all__ = ["WRM", "Built", "StraightThrough"]


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

    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> WRM(max_iter=1)(network, torch.tensor([[0.0]]), torch.tensor([0]))  # the gradient of the loss is -1 there
    tensor([[-1.3000]])
    """

    gamma: float = 1.3
    max_iter: int = 7

    def __post_init__(self) -> None:
        faults = []
        if not 0 < self.gamma < math.inf:
            faults.append(f"`gamma` must be positive and finite, got {self.gamma!r}; the paper has 1.3")
        if not isinstance(self.max_iter, int) or self.max_iter < 1:
            faults.append(f"`max_iter` must be an integer of at least 1, got {self.max_iter!r}; the paper has 7")
        if faults:
            raise ValueError("; ".join(faults))

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: Loss = F.cross_entropy,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        x, (low, high) = x.detach(), box(clip_values, x)
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


@final
@dataclasses.dataclass(frozen=True)
class Built(Adversary):
    """An attack class of ART as an adversary that needs no classifier beforehand: it is built for the network it meets.

    :param attack: a class of ``art.attacks.evasion``.
    :param options: its arguments beyond the estimator; ``eps`` and ``norm`` are not filled in.
    :raises TypeError: for anything else than an evasion attack's class.
    :raises ImportError: when called, for AutoAttack without ``multiprocess``.

    >>> from art.attacks.evasion import DeepFool
    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> x_adv = Built(DeepFool)(network, torch.tensor([[1.0]]), torch.tensor([0]))
    >>> bool(-0.1 < x_adv < 0)  # just across the border
    True
    """

    attack: type[EvasionAttack]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        from art.attacks.attack import EvasionAttack

        if not (isinstance(self.attack, type) and issubclass(self.attack, EvasionAttack)):
            raise TypeError(
                f"`attack` must be a class of art.attacks.evasion, got {self.attack!r}; give a built attack as it is"
            )

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: Loss = F.cross_entropy,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        from art.estimators.classification import PyTorchClassifier

        check_importable(self.attack)
        with fixed(network), torch.no_grad():
            nb_classes = network(x[:1]).shape[1]
        classifier = PyTorchClassifier(
            network,
            nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            nb_classes,
            clip_values=None if clip_values is None else tuple(clip_values),
            preprocessing=None,
            device_type="cpu" if x.device.type == "cpu" else "gpu",
        )
        attack = ARTAttack(self.attack(classifier, **self.options))
        return attack(network, x, y, clip_values=clip_values, generator=generator)


def check_importable(attack: type) -> None:
    """ART's AutoAttack imports a package that ART does not declare.

    :raises ImportError: where it is missing, naming the extra that brings it.
    """
    if attack.__name__ == "AutoAttack" and importlib.util.find_spec("multiprocess") is None:
        raise ImportError(
            "ART's AutoAttack needs the package multiprocess, which is not installed; "
            "pip install 'art-atmc[evaluation]', or choose a suite without AutoAttack"
        )


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
