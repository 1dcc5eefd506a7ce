"""The laws of an attack and of an objective."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from art_atmc.attacks.base import Adversary, Problem
from art_atmc.support.randomness import isolated_randomness
from art_atmc.testing.comparison import RARE_SEED

if TYPE_CHECKING:
    from art_atmc.training.objectives import Objective

__all__ = ["check_attack", "check_objective"]


@isolated_randomness(RARE_SEED)
def check_attack(attack: Adversary) -> None:
    """Try the laws of an attack, on images of 8 by 8 pixels in [0, 1].

    Its examples have the shape and type of the inputs, lie within the clip values, and carry no graph; inputs and
    labels stay as they are, and so does the network, with its modes, buffers, gradients and what requires one; the
    same generator makes the same examples.

    :raises AssertionError: naming the first law that is broken.

    >>> from art_atmc import PGD
    >>> check_attack(PGD(eps=0.1, eps_step=0.05, max_iter=2))
    """
    network, x, y = _sample()
    problem = Problem(network, clip_values=(0.0, 1.0))
    x_before, y_before = x.clone(), y.clone()
    made = []
    for _ in range(2):
        with _unchanged(network):
            seeded = Problem(network, problem.loss, problem.clip_values, torch.Generator().manual_seed(0))
            made.append(attack.without_memory()(seeded, x, y))
    adv, again = made
    _require(attack, isinstance(adv, Tensor) and adv.shape == x.shape and adv.dtype == x.dtype,
             "its examples must have the shape and type of the inputs")  # fmt: skip
    _require(attack, not adv.requires_grad, "its examples must carry no graph")
    _require(attack, bool(((adv >= 0) & (adv <= 1)).all()), "its examples must lie within the clip values")
    _require(attack, torch.equal(x, x_before) and torch.equal(y, y_before), "inputs and labels must stay as they are")
    _require(attack, torch.equal(adv, again), "the same generator must make the same examples")


@isolated_randomness(RARE_SEED)
def check_objective(objective: Objective) -> None:
    """Try the laws of an objective: a finite scalar loss with a gradient to the weights, logits for each input, plain
    numbers as figures, and a state that can be put back.

    :raises AssertionError: naming the first law that is broken.

    >>> from art_atmc import PGD, Adversarial
    >>> check_objective(Adversarial(PGD(eps=0.1, eps_step=0.05, max_iter=2)))
    """
    network, x, y = _sample()
    network.train()
    seeded = Problem(network, clip_values=(0.0, 1.0), generator=torch.Generator().manual_seed(0))
    loss, logits = objective(seeded, x, y)
    _require(objective, loss.dim() == 0 and bool(loss.isfinite()), "its loss must be one finite number")
    _require(objective, logits.shape == (len(x), 10), "it must return the logits of each input")
    loss.backward()
    moved = [p for p in network.parameters() if p.grad is not None and bool(p.grad.any())]
    _require(objective, bool(moved), "its loss must have a gradient to the weights")
    figures = objective.figures()
    _require(objective, all(isinstance(v, float) for v in figures.values()), "its figures must be plain numbers")
    objective.load_state_dict(objective.state_dict())


def _sample() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 10)
    )
    return network, torch.rand(4, 1, 8, 8, generator=generator), torch.arange(4)


@contextlib.contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    def state() -> list[object]:
        modes = [module.training for module in network.modules()]
        return [*modes, *((p.requires_grad, p.grad is None) for p in network.parameters())]

    before, tensors = state(), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    yield
    same = state() == before and all(torch.equal(t, tensors[name]) for name, t in network.state_dict().items())
    _require(network, same, "the network must come back with its modes, buffers and gradients")


def _require(subject: object, holds: bool, law: str) -> None:
    if not holds:
        raise AssertionError(f"{type(subject).__name__}: {law}")
