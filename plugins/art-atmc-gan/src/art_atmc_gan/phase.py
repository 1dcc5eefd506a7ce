"""A stretch of a fit: steps under the same solvers and the average of their weights, with all of it in one state."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from art_atmc import Solver, enforced
from art_atmc_gan.play import Collapse, Game

__all__ = ["Batches", "Phase"]


@final
class Batches:
    """Draws without replacement, epoch by epoch; what is left of an epoch is dropped.

    >>> batches = Batches(5, 2, torch.Generator().manual_seed(0))
    >>> [len(batches.draw()) for _ in range(3)], len(batches.left)
    ([2, 2, 2], 1)
    """

    def __init__(self, n: int, size: int, rng: torch.Generator) -> None:
        self.n, self.size, self.rng = n, size, rng
        self.left: list[Tensor] = []

    def draw(self) -> Tensor:
        """The places of the next batch, shape (size,)."""
        if not self.left:
            self.left.extend(torch.randperm(self.n, generator=self.rng).split(self.size)[: self.n // self.size])
        return self.left.pop(0)


@final
class Phase:
    """So many steps of a game, and at their end the average of its weights, put on the constraints.

    :param game: whose generator is trained.
    :param on_weights: solvers that act inside the steps of the weights.
    :param on_scales: likewise, of the scales.
    :param batches: draw the images of a step.
    :param nb_steps: of the phase.
    :param decay: of the average, in [0, 1); 0 for the last weights.
    """

    def __init__(
        self,
        game: Game,
        on_weights: Sequence[Solver],
        on_scales: Sequence[Solver],
        batches: Batches,
        nb_steps: int,
        decay: float,
    ) -> None:
        self.game, self.on_weights, self.on_scales = game, on_weights, on_scales
        self.batches, self.nb_steps, self.decay = batches, nb_steps, decay
        self.step = 0
        self.average = {name: p.detach().clone() for name, p in game.generator.named_parameters()}
        self.collapse = Collapse()

    def play(self, images: Tensor, settled: Callable[[dict[str, float]], None]) -> None:
        """Take the steps that are left; ``settled`` is called with the figures of each, where the state is whole."""
        generator = self.game.generator
        with contextlib.ExitStack() as stack:
            for optimizer, solvers in ((self.game.weights, self.on_weights), (self.game.scales, self.on_scales)):
                if solvers:
                    stack.enter_context(enforced(optimizer, solvers))
            while self.step < self.nb_steps:
                figures = self.game.step(images[self.batches.draw()])
                self.step += 1
                self.collapse.look(figures)
                with torch.no_grad():
                    for name, p in generator.named_parameters():
                        self.average[name].lerp_(p, 1 - self.decay)
                settled(figures | {key: value for solver in self.on_scales for key, value in solver.figures().items()})
            closed = {name for solver in self.on_scales for name in solver.weights}
            with torch.no_grad():  # inside of the blocks, whose end puts the average on the constraints
                for name, p in generator.named_parameters():
                    p.copy_(self.average[name] * (p != 0) if name in closed else self.average[name])
        generator.eval()

    def state_dict(self) -> dict[str, Any]:
        """All that changes, but for the random generator of the batches."""
        return {
            "step": self.step,
            "game": self.game.state_dict(),
            "solvers": [solver.state_dict() for solver in (*self.on_weights, *self.on_scales)],
            "average": self.average,
            "left": self.batches.left,
            "collapse": self.collapse.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.game.load_state_dict(state["game"])
        for solver, held in zip((*self.on_weights, *self.on_scales), state["solvers"], strict=True):
            solver.load_state_dict(held)
        for name, mean in self.average.items():
            mean.copy_(state["average"][name])
        self.batches.left = list(state["left"])
        self.collapse.load_state_dict(state["collapse"])
