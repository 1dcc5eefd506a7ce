"""What a command does when something goes wrong: a sentence for what a user can mend, a traceback for what we must."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["options_of", "sentence", "translated"]

# What a user's files, data, settings, networks and machine bring about, wherever it is raised.
MENDABLE: Final = (ValueError, OSError, ImportError, MemoryError, FloatingPointError)
# A user's mistake where our code says so in words; a fault of ours, or of a library, where the language says so.
DELIBERATE: Final = (TypeError, RuntimeError)
OURS: Final = re.compile(r"art_atmc(_\w+)?(\.|$)")
REMEDIES: Final = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOTDIR: "check the path",
    errno.ENOSPC: "free some space and start the same command again, which goes on",
    errno.EDQUOT: "free some space and start the same command again, which goes on",
    errno.EFBIG: "raise the limit and start the same command again, which goes on",
}
# Arguments of the library that are called otherwise on the command line.
CALLED: Final = {"checkpoint": "output", "module": "network", "nb_epochs": "epochs"}


def sentence(error: BaseException, options: Sequence[str]) -> str | None:
    """What to tell the user; None for a fault that is not theirs.

    :param options: those of the command, such as ``--max-iter``. Arguments of the library, which its errors name in
        backquotes, are named as options where the command has one of that name.

    >>> sentence(ValueError("`max_iter` must be at least 1, got 0"), ["--max-iter"])
    '--max-iter must be at least 1, got 0'
    """
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    deliberate = bool(modules) and OURS.match(modules[-1]) is not None
    if isinstance(error, MENDABLE) or (isinstance(error, DELIBERATE) and deliberate):
        text = _readable(error) if isinstance(error, OSError) else str(error) or type(error).__name__
        # What comes through the plug-ins speaks of the fields of a constraint.
        return text if any(name.startswith("art_atmc.plugins.") for name in modules) else translated(text, options)
    if type(error).__name__ == "OutOfMemoryError":  # of torch, which this module does not import
        return f"the device has not enough memory: {error}"
    return None


def options_of(command: Any, arguments: Sequence[str]) -> list[str]:
    """The options of the command, or of its subcommand, that ``arguments`` call."""
    for argument in arguments:
        command = getattr(command, "commands", {}).get(argument, command)
    return [name for parameter in command.params for name in parameter.opts if name.startswith("--")]


def _readable(error: OSError) -> str:
    """What the system says of which file, and what to do."""
    if error.errno is None or error.filename is None:
        return str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno)
    return f"{error.filename}: {error.strerror}" + (f"; {remedy}" if remedy else "")


def translated(text: str, options: Sequence[str]) -> str:
    """The arguments that ``text`` names in backquotes as options, where the command has one of that name.

    >>> translated("leave `precision` out", ["--precision"])
    'leave --precision out'
    """

    def option(found: re.Match[str]) -> str:
        name = CALLED.get(found[1], found[1])
        called = f"--{name.replace('_', '-')}"
        return called if called in options else found[0]

    return re.sub(r"`(\w+)`", option, text)
