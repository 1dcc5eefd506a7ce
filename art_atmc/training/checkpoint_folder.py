"""Checkpoints as files, and signals that wait for one: for every loop that is to go on after an interruption."""

from __future__ import annotations

import hashlib
import io
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, final

import torch

from art_atmc.support.atomic import write_file
from art_atmc.support.versions import versions

__all__ = ["CheckpointFolder", "Interrupted", "StopSignals"]

NAME = re.compile(r"(\d{9})-([0-9a-f]{16})\.pt")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A fit that was asked to stop, has written a checkpoint and says how to go on."""


@final
class CheckpointFolder:
    """The last states of a loop, each one file that is written whole, with the SHA-256 of its content in its name.

    A file is read by ``torch.load(weights_only=True)``. With each state lie the conditions under which it was reached,
    and the versions that computed it; under others it is refused.

    :param folder: of this loop alone; made where it is missing.
    :param keep: how many of the last states stay, at least 1. A damaged one is passed over for the one before it.
    :raises ValueError: when ``keep`` is below 1.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = CheckpointFolder(name)
    ...     folder.newest({"seed": "0"}), folder.write(7, {"loss": 0.5}, {"seed": "0"}), folder.newest({"seed": "0"})
    (None, True, {'loss': 0.5})
    """

    def __init__(self, folder: str | Path, *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1, got {keep}")
        self.folder, self.keep = Path(folder), keep
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, state: Mapping[str, Any], conditions: Mapping[str, str]) -> bool:
        """Write a state; on a full disk say so, leave the ones before as they are, and return False.

        :param step: how far the loop has come, at least 0.
        :param state: tensors, numbers, strings, lists and dictionaries.
        :param conditions: all that must be the same for the loop to go on from here, by name, in words.
        """
        buffer = io.BytesIO()
        torch.save({"conditions": _with_versions(conditions), "run": dict(state)}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"{step:09}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
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

    def newest(
        self, conditions: Mapping[str, str], common: Callable[[Iterable[int]], Iterable[int]] = set
    ) -> dict[str, Any] | None:
        """The last state that is whole; None where there is none.

        :param conditions: those of now.
        :param common: of the steps that this process has, those that may be gone on from.
        :raises ValueError: for a state that was reached under other conditions, naming all that differ.
        """
        whole = {}
        for path in self._found():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] == path.stem[10:]:
                whole[int(path.name[:9])] = content
            else:
                warnings.warn(f"{path} is damaged, and the checkpoint before it is taken", stacklevel=2)
        if not (steps := [*common(whole)]):
            return None
        held = torch.load(io.BytesIO(whole[max(steps)]), weights_only=True, map_location="cpu")
        _check_conditions(self.folder, held["conditions"], _with_versions(conditions))
        state: dict[str, Any] = held["run"]
        return state

    def _found(self) -> list[Path]:
        """By step; those of one step by time."""
        paths = [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        return sorted(paths, key=lambda path: (path.name[:9], path.stat().st_mtime_ns))


@final
class StopSignals:
    """Within the block SIGTERM and Ctrl-C are noted, so that a loop can stop where its state is whole.

    A second Ctrl-C stops at once. Outside of the main thread, which alone gets signals, nothing is noted.

    >>> with StopSignals() as signals:
    ...     signal.raise_signal(signal.SIGINT)
    ...     signals.asked
    'SIGINT'
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        """The name of the signal that came; None before."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self.asked = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name


def _with_versions(conditions: Mapping[str, str]) -> dict[str, str]:
    return {**{f"version of {name}": version for name, version in versions().items()}, **conditions}


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
