"""Where a fit stands, kept in a folder, so that one that was interrupted goes on to the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn

from art_atmc.support.randomness import global_states, set_global_states
from art_atmc.training import CheckpointFolder, Interrupted, StopSignals
from art_atmc_gan.phase import Phase

__all__ = ["Progress", "fingerprint"]


@final
class Progress:
    """The phases of a fit that are done, and the state of the present one.

    Within the block SIGTERM and Ctrl-C wait for the end of a step, write a checkpoint and raise
    :class:`~art_atmc.training.Interrupted`. Without a folder nothing is kept, and signals act as ever.

    :param folder: of checkpoints; or None.
    :param every: steps between two of them; None for one at the end of each phase.
    :param conditions: all that must be the same for a fit to go on.
    :param rng: draws the order of images.
    :param history: of the fit.
    :raises ValueError: for a folder that holds checkpoints of another fit, naming all that differ.
    """

    def __init__(
        self,
        folder: Path | None,
        every: int | None,
        conditions: Mapping[str, str],
        rng: torch.Generator,
        history: list[dict[str, float]],
    ) -> None:
        self.every, self.conditions, self.rng, self.history = every, conditions, rng, history
        self.folder = None if folder is None else CheckpointFolder(folder)
        self.signals: StopSignals | None = None if folder is None else StopSignals()
        self.done: list[dict[str, Any]] = []
        self.before = 0  # steps of the phases that are done
        state = None if self.folder is None else self.folder.newest(conditions)
        self.taken_up = state is not None
        self._kept: list[dict[str, Any]] = []
        self._present: dict[str, Any] | None = None
        if state is not None:
            self._kept, self._present = list(state["done"]), state["present"]
            history[:] = state["history"]
            rng.set_state(state["rng"])
            set_global_states(state["global"])

    def __enter__(self) -> Progress:
        if self.signals is not None:
            self.signals.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.signals is not None:
            self.signals.__exit__()

    def resume(self, phase: Phase) -> bool:
        """Take a phase up where it was left, if it was begun; whether it was finished."""
        if len(self.done) < len(self._kept):
            networks = self._kept[len(self.done)]
            phase.game.generator.load_state_dict(networks["generator"])
            phase.game.discriminator.load_state_dict(networks["discriminator"])
            phase.game.generator.eval()
            self._end(phase, networks)
            return True
        if self._present is not None:
            phase.load_state_dict(self._present)
            self._present = None
        return False

    def settle(self, phase: Phase) -> None:
        """After a step: keep the state where it is due."""
        if self.every is not None and phase.step % self.every == 0 and phase.step < phase.nb_steps:
            self._write(phase)
        self._stop_if_asked(phase)

    def finish(self, phase: Phase) -> None:
        """After a phase."""
        networks = {"generator": phase.game.generator, "discriminator": phase.game.discriminator}
        self._end(phase, {name: _copied(network) for name, network in networks.items()})
        self._write(None)

    def _end(self, phase: Phase, networks: dict[str, Any]) -> None:
        self.done.append(networks)
        self.before += phase.nb_steps

    def _stop_if_asked(self, phase: Phase) -> None:
        if self.folder is None or self.signals is None or self.signals.asked is None:
            return
        written = self._write(phase)
        raise Interrupted(
            f"{self.signals.asked}: stopped after step {self.before + phase.step}; "
            + (
                f"run the same again to go on from {self.folder.folder}"
                if written
                else "no checkpoint could be written"
            )
        )

    def _write(self, phase: Phase | None) -> bool:
        if self.folder is None:
            return False
        state = {
            "done": self.done,
            "present": None if phase is None else phase.state_dict(),
            "history": [dict(row) for row in self.history],
            "rng": self.rng.get_state(),
            "global": global_states(),
        }
        return self.folder.write(self.before + (0 if phase is None else phase.step), state, self.conditions)


def fingerprint(held: Tensor | nn.Module) -> str:
    """SHA-256 of a tensor, or of all that a network holds, shortened.

    >>> zeros = fingerprint(torch.zeros(2))
    >>> zeros == fingerprint(torch.zeros(2)), zeros == fingerprint(torch.zeros(1, 2))
    (True, False)
    """
    digest = hashlib.sha256()
    tensors = held.state_dict() if isinstance(held, nn.Module) else {"": held}
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
