"""One way to write a file: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path

__all__ = ["write_file"]


def write_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Let ``path`` hold ``content``: whenever the process dies, it is this or what was there before.

    A symbolic link stays one, and its target is written; a device or a pipe is written as it is. The permissions of
    a file that was there stay. Other threads and processes may write the same path at the same time.

    :param content: bytes, or text, which is written as UTF-8.
    :raises OSError: when it can't be written, as on a full disk; ``path`` is as it was then.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder, "a.txt"), "one")
    ...     Path(folder, "a.txt").read_text(), os.listdir(folder)
    ('one', ['a.txt'])
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        mode = _mode(path)
        if mode is None or stat.S_ISREG(mode):
            _replace(Path(os.path.realpath(path)), data, mode)
        else:  # open refuses a folder, and opens a device
            with open(path, "wb") as file:
                file.write(data)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}, so this was not written", os.fspath(path)) from None


def _mode(path: str | os.PathLike[str]) -> int | None:
    """Kind and permissions of what is there, behind links; None where nothing is."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _replace(path: Path, data: bytes, mode: int | None) -> None:
    # A name may have 255 bytes, and a letter may take four.
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        part.unlink(missing_ok=True)  # of a process that was killed and had the same numbers
        with part.open("xb") as file:
            if mode is not None:
                part.chmod(stat.S_IMODE(mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Let the renaming survive a power cut, where the system can: Windows has no such call."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
