"""The worst of several attacks, for each example by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from art_atmc.attacks import Adversary, Problem, adversary, perturb
from art_atmc.attacks.square import margin
from art_atmc.classifiers import true_class

if TYPE_CHECKING:
    from art.attacks.attack import EvasionAttack

__all__ = ["WorstOf", "chosen"]


@final
@dataclasses.dataclass(frozen=True)
class WorstOf(Adversary):
    r"""Of what several attacks make of an input, the one with the largest margin :math:`\max_{j \ne y} z_j - z_y`.

    It is misclassified where any of them is, so the robust accuracy under it is that of the union of the attacks.

    :param attacks: ART evasion attacks or adversaries of ours, at least one.
    :raises TypeError: for what is no attack.
    :raises ValueError: for an empty list and targeted attacks.

    >>> from art_atmc import PGD
    >>> network = torch.nn.Linear(2, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))  # class 0 for x_1 + x_2 > 0
    >>> balls = [PGD(0.5, 0.5, 1, random_start=False), PGD(0.6, 0.6, 1, norm=1, random_start=False)]
    >>> WorstOf(balls)(Problem(network), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    tensor([[ 0.5000, -0.5000]])
    """

    attacks: Sequence[Adversary | EvasionAttack]

    def __init__(self, attacks: Iterable[Adversary | EvasionAttack]) -> None:
        given = tuple(attacks) if isinstance(attacks, Iterable) else (attacks,)
        object.__setattr__(self, "attacks", given)
        if not given:
            raise ValueError("`attacks` is empty; give at least one attack")
        for attack in given:
            adversary(attack)  # refuses what can't be one

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        points = [perturb(problem, attack, x, y) for attack in self.attacks]
        if len(points) == 1:
            return points[0]
        hardness = torch.stack([_margin(problem.answers(point), y) for point in points], dim=1)
        return chosen(points, hardness.argmax(dim=1))

    def without_memory(self) -> WorstOf:
        return WorstOf([a.without_memory() if isinstance(a, Adversary) else a for a in self.attacks])

    def state_dict(self) -> dict[str, Any]:
        kept = {str(k): a.state_dict() for k, a in enumerate(self.attacks) if isinstance(a, Adversary)}
        return {k: state for k, state in kept.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for k, kept in state.items():
            attack = self.attacks[int(k)]
            if isinstance(attack, Adversary):
                attack.load_state_dict(kept)


def chosen(batches: Sequence[Tensor], which: Tensor) -> Tensor:
    """Row n of the batch that ``which`` names for it.

    >>> chosen([torch.tensor([[1], [2]]), torch.tensor([[3], [4]])], torch.tensor([0, 1])).tolist()
    [[1], [4]]
    """
    return torch.stack(list(batches), dim=1)[torch.arange(len(which), device=which.device), which]


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    if logits.dim() == 1 or logits.shape[1] == 1:  # a single logit, of class 1
        return logits.reshape(-1) * (1 - 2 * true_class(y).to(logits))
    return margin(logits, true_class(y).to(logits.device))
