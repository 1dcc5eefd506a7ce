"""What a fit whose weights must obey constraints has more than any other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

from art_atmc.compression.enforcement import projected
from art_atmc.compression.schedule import Ramp, postponed
from art_atmc.compression.solver import Solver
from art_atmc.training.callbacks import Callback
from art_atmc.training.run import Run

__all__ = ["Shipped"]


@final
class Shipped(Callback):
    """Validates the weights as they would be shipped, on all constraints; lets the constraints wait for the network to
    learn; keeps the solvers' state.

    :param guessing: the loss of a network that has learned nothing.
    """

    def __init__(self, solvers: Sequence[Solver], guessing: float) -> None:
        self.solvers = solvers
        self.guessing = guessing
        self.planned = [solver.ramp for solver in solvers]

    def on_epoch_end(self, run: Run, row: Mapping[str, float]) -> None:
        start = min((solver.ramp.start for solver in self.solvers), default=0)
        each, learned = run.step // run.epoch, row["loss"] < 0.9 * self.guessing
        later = min(run.step + each + 1, each * run.epochs // 2)  # not within the next epoch, nor after half of the run
        if run.step < start < later and not learned:
            ramps = postponed(self.planned, later, each * run.epochs)
            for solver, ramp in zip(self.solvers, ramps, strict=True):
                solver.ramp = ramp

    def validating(self, run: Run) -> AbstractContextManager[Mapping[str, float]]:
        return self._projected()

    @contextlib.contextmanager
    def _projected(self) -> Iterator[Mapping[str, float]]:
        with projected(self.solvers) as figures:
            for solver in self.solvers:
                figures |= solver.figures()
            yield figures

    def conditions(self) -> dict[str, str]:
        return {
            "constraints": ", ".join(
                f"{s.constraint} by {type(s).__name__} {ramp}"
                for s, ramp in zip(self.solvers, self.planned, strict=True)
            )
        }

    def state_dict(self) -> dict[str, Any]:
        ramps = [(solver.ramp.start, solver.ramp.end) for solver in self.solvers]
        return {"solvers": [solver.state_dict() for solver in self.solvers], "ramps": ramps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for solver, held, ramp in zip(self.solvers, state["solvers"], state["ramps"], strict=True):
            solver.load_state_dict(held)
            solver.ramp = Ramp(*ramp)
