"""Checkpoints: a fit that was killed goes on to the same bits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import final

from art_atmc.training.callbacks import Callback
from art_atmc.training.checkpoint_folder import CheckpointFolder, Interrupted, StopSignals
from art_atmc.training.run import Run

__all__ = ["Checkpoint"]

logger = logging.getLogger("art_atmc.training")


@final
class Checkpoint(Callback):
    """Writes the whole state of a fit into a folder, and takes a fit up again from there.

    A fit in whose folder a checkpoint lies goes on from it, within an epoch too, and ends on the bits of one that was
    never interrupted (same machine, same number of threads). SIGTERM and Ctrl-C end the batch, write a checkpoint and
    raise :class:`Interrupted`; a second Ctrl-C stops at once. After SIGKILL the last checkpoint counts.

    Each is one file, written whole, with the SHA-256 of its content in its name, and readable by
    ``torch.load(weights_only=True)``. It takes the bytes of the network, its best and its present weights, the
    optimizer's state, copies and duals, and of perturbations where they are kept. A second fit of the same trainer has
    a folder of its own in this one, so that a script of several fits goes on in the right one.

    :param folder: of this fit alone; made where it is missing.
    :param every: optimizer steps between two checkpoints; None for one at the end of each epoch.
    :param keep: how many of the last ones stay, at least 1. A damaged one is passed over for the one before it.
    :raises ValueError: for numbers below 1; when the fit starts, for checkpoints of a fit under other conditions,
        naming all that differ.

    >>> Checkpoint("runs/lenet", every=500).keep
    2
    """

    def __init__(self, folder: str | Path, *, every: int | None = None, keep: int = 2) -> None:
        if (every is not None and every < 1) or keep < 1:
            raise ValueError(f"`every` and `keep` must be at least 1, got {every} and {keep}")
        self.folder, self.every, self.keep = Path(folder), every, keep
        self._base, self._fits = self.folder, 0
        self._signals = StopSignals()

    def on_train_start(self, run: Run) -> None:
        self._fits += 1
        self.folder = self._base if self._fits == 1 else self._base / f"fit-{self._fits}"
        if not run.world.main:  # random states and kept perturbations are each process's own
            self.folder = self.folder / f"process-{run.world.rank}"
        # A step counts that every process has.
        state = CheckpointFolder(self.folder, keep=self.keep).newest(run.conditions(), run.world.common)
        if state is not None:
            run.load_state_dict(state)
            logger.info("going on from %s: epoch %d, batch %d", self.folder, run.epoch + 1, run.batch)
        self._signals.__enter__()

    def on_settled(self, run: Run) -> None:
        if not run.batch:  # the end of an epoch
            if self.every is None or run.epoch == run.epochs or run.stopped is not None:
                self.write(run)
            return
        if run.accumulating:
            return
        if run.world.any(self._signals.asked is not None):
            written = self.write(run)
            raise Interrupted(
                f"{self._signals.asked or 'another process'}: stopped after epoch {run.epoch + 1}, batch {run.batch}; "
                + (f"run the same again to go on from {self.folder}" if written else "no checkpoint could be written")
            )
        if self.every is not None and run.step % self.every == 0:
            self.write(run)

    def close(self) -> None:
        self._signals.__exit__()

    def write(self, run: Run) -> bool:
        """Write a checkpoint; on a full disk say so, leave the ones before as they are, and return False."""
        return CheckpointFolder(self.folder, keep=self.keep).write(run.step, run.state_dict(), run.conditions())
