"""One fit: all that changes in it in one object, so that a checkpoint is one call."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from art_atmc.support.randomness import global_states, set_global_states
from art_atmc.training.callbacks import Callback
from art_atmc.training.devices import World
from art_atmc.training.objectives import Objective
from art_atmc.training.rates import Pace

__all__ = ["Run"]


@final
@dataclasses.dataclass
class Run:
    """The state of a fit.

    :param classifier: the ART classifier that is trained, with its optimizer.
    :param generator: draws the order of the data, augmentation, and a seed for each epoch.
    :param starts: draws the random starts of attacks; on the network's device.
    :param epochs: that the fit is to make.
    :param batches: an epoch has; None where the loader has no length.
    :param epoch: epochs that are finished in this fit; ``batch`` and ``step`` likewise, in the epoch and in all.
    :param world: the processes that train together.
    :param accumulating: whether gradients of further batches are added before the optimizer's next step.
    :param settings: what the fit was asked for, such as its data and seed, in words.
    :param validated: examples that the validation accuracies are shares of; 0 without validation data.
    :param sums: loss, correctly classified examples and examples of the epoch so far.
    """

    classifier: Any
    objective: Objective
    pace: Pace
    generator: torch.Generator
    starts: torch.Generator
    callbacks: Sequence[Callback]
    history: list[dict[str, float]]
    epochs: int
    batches: int | None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    world: World = dataclasses.field(default_factory=World)
    accumulating: bool = False
    validated: int = 0
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sums: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    stopped: str | None = None
    _epoch_began: Tensor | None = None
    _position: dict[str, Any] | None = None

    @property
    def model(self) -> torch.nn.Module:
        return self.classifier.model  # type: ignore[no-any-return]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.classifier.optimizer  # type: ignore[no-any-return]

    def stop(self, reason: str) -> None:
        """End the fit after the present batch."""
        self.stopped = reason

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's state."""
        return _copied(self.model.state_dict())

    def conditions(self) -> dict[str, str]:
        """All that must be the same for a fit to go on as if it had not been interrupted, in words."""
        groups = [
            {k: v for k, v in g.items() if k not in ("params", "lr", "initial_lr")} for g in self.optimizer.param_groups
        ]
        shapes = {name: (str(t.dtype), tuple(t.shape)) for name, t in self.model.state_dict().items()}
        asked = {
            "epochs": str(self.epochs),
            "batches an epoch": str(self.batches),
            "processes": str(self.world.size),
            "network": f"{type(self.model).__name__} {shapes}",
            "optimizer": f"{type(self.optimizer).__name__} {groups} rates {self.pace.own}",
            "learning rate": self.pace.described,
            **self.settings,
        }
        for callback in self.callbacks:
            asked |= callback.conditions()
        return asked

    def begin_epoch(self) -> None:
        """Note where the random numbers stand, so that the epoch's data can be drawn again in the same order."""
        if self.batch:  # a run that goes on within an epoch
            assert self._epoch_began is not None
            self.generator.set_state(self._epoch_began)
        else:
            self._epoch_began = self.generator.get_state()
            self.sums = torch.zeros_like(self.sums)

    def reach_position(self) -> None:
        """After the batches before the position were drawn again: the random states of the moment of the checkpoint."""
        if self._position is not None:
            self.generator.set_state(self._position["generator"])
            self.starts.set_state(self._position["starts"])
            set_global_states(self._position["global"])
            self._position = None

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors, numbers, strings, lists and dictionaries."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pace": self.pace.state_dict(),
            "objective": self.objective.state_dict(),
            "callbacks": [[type(c).__name__, held] for c in self.callbacks if (held := c.state_dict())],
            "history": [dict(row) for row in self.history],
            "counts": {
                name: getattr(self, name) for name in ("epochs", "batches", "epoch", "batch", "step", "stopped")
            },
            "sums": self.sums,
            "epoch_began": self._epoch_began,
            "random": {
                "generator": self.generator.get_state(),
                "starts": self.starts.get_state(),
                "global": global_states(),
            },
        }

    def snapshot(self) -> dict[str, Any]:
        """A copy of :meth:`state_dict` that later steps leave alone."""
        copied: dict[str, Any] = _copied(self.state_dict())
        return copied

    def safe_point(self) -> dict[str, Any]:
        """A copy of what one bad step can ruin; half of what a checkpoint holds."""
        copied: dict[str, Any] = _copied(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "pace": self.pace.state_dict(),
                "objective": self.objective.state_dict(),
            }
        )
        return copied

    def return_to(self, safe: Mapping[str, Any]) -> None:
        """Put all of a safe point back together."""
        self.model.load_state_dict(safe["model"])
        self.optimizer.load_state_dict(copy.deepcopy(safe["optimizer"]))
        self.pace.load_state_dict(safe["pace"])
        self.objective.load_state_dict(safe["objective"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.return_to(state)
        keeping = [callback for callback in self.callbacks if callback.state_dict()]
        if (names := [type(c).__name__ for c in keeping]) != (held := [name for name, _ in state["callbacks"]]):
            raise ValueError(f"the run had the callbacks {held} with a state, this one has {names}; give the same ones")
        for callback, (_, kept) in zip(keeping, state["callbacks"], strict=True):
            callback.load_state_dict(kept)
        self.history[:] = [dict(row) for row in state["history"]]
        for name in ("epoch", "batch", "step", "stopped"):
            setattr(self, name, state["counts"][name])
        self.sums = state["sums"].clone().to(self.sums.device)
        self._epoch_began = state["epoch_began"]
        self.generator.set_state(state["random"]["generator"])
        self.starts.set_state(state["random"]["starts"])
        self._position = dict(state["random"]) if self.batch else None


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copied(value) for value in state)
    return state
