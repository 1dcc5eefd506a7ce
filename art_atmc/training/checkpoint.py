"""Checkpoints: a fit that was killed goes on to the same bits."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import signal
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, final

import torch

from art_atmc.support.atomic import write_file
from art_atmc.training.callbacks import Callback
from art_atmc.training.devices import World
from art_atmc.training.run import Run

__all__ = ["Checkpoint", "Interrupted"]

logger = logging.getLogger("art_atmc.training")

NAME = re.compile(r"(\d{9})-([0-9a-f]{16})\.pt")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A fit that was asked to stop, has written a checkpoint and says how to go on."""


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
        self._asked: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, run: Run) -> None:
        self._fits += 1
        self.folder = self._base if self._fits == 1 else self._base / f"fit-{self._fits}"
        if not run.world.main:  # random states and kept perturbations are each process's own
            self.folder = self.folder / f"process-{run.world.rank}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._asked = None
        if (state := self._newest(run.world)) is not None:
            _check_conditions(self.folder, state["conditions"], run.conditions())
            run.load_state_dict(state["run"])
            logger.info("going on from %s: epoch %d, batch %d", self.folder, run.epoch + 1, run.batch)
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_settled(self, run: Run) -> None:
        if not run.batch:  # the end of an epoch
            if self.every is None or run.epoch == run.epochs or run.stopped is not None:
                self.write(run)
            return
        if run.accumulating:
            return
        if run.world.any(self._asked is not None):
            written = self.write(run)
            raise Interrupted(
                f"{self._asked or 'another process'}: stopped after epoch {run.epoch + 1}, batch {run.batch}; "
                + (f"run the same again to go on from {self.folder}" if written else "no checkpoint could be written")
            )
        if self.every is not None and run.step % self.every == 0:
            self.write(run)

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def write(self, run: Run) -> bool:
        """Write a checkpoint; on a full disk say so, leave the ones before as they are, and return False."""
        buffer = io.BytesIO()
        torch.save({"conditions": run.conditions(), "run": run.state_dict()}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"{run.step:09}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        try:
            write_file(path, content)
        except OSError as error:
            kept = self._found()
            last = f"the last one is {kept[-1]}" if kept else "there is none"
            warnings.warn(f"a checkpoint could not be written, and the fit goes on: {error}; {last}", stacklevel=2)
            return False
        for old in self._found()[: -self.keep]:
            old.unlink(missing_ok=True)
        return True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = signal.Signals(number).name

    def _found(self) -> list[Path]:
        """By step; those of one step by time."""
        paths = [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        return sorted(paths, key=lambda path: (path.name[:9], path.stat().st_mtime_ns))

    def _newest(self, world: World) -> dict[str, Any] | None:
        """The last one that is whole, and that every process has."""
        whole = {}
        for path in self._found():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] == path.stem[10:]:
                whole[int(path.name[:9])] = content
            else:
                warnings.warn(f"{path} is damaged, and the checkpoint before it is taken", stacklevel=2)
        if not (steps := world.common(whole)):
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(whole[max(steps)]), weights_only=True, map_location="cpu")
        return state


def _check_conditions(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    differing = [
        f"{name}: {_brief(before.get(name))} then, {_brief(now.get(name))} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise ValueError(
            f"{folder} holds checkpoints of another fit, which differs in\n  "
            + "\n  ".join(differing)
            + "\ngo on under the conditions of that fit, or give another folder"
        )


def _brief(text: str | None) -> str:
    return "nothing" if text is None else text if len(text) <= 100 else f"{text[:97]}..."
