"""What a terminal shows, as plain text: for `print`, logs and notebooks."""

from __future__ import annotations

from rich.console import Console, RenderableType

__all__ = ["as_text"]


def as_text(shown: RenderableType) -> str:
    """80 columns without colours.

    >>> from rich.table import Table
    >>> print(as_text(Table("network", "clean", box=None, padding=(0, 2, 0, 0))).strip())
    network  clean
    """
    console = Console(width=80, color_system=None, force_terminal=False, force_jupyter=False)
    with console.capture() as capture:
        console.print(shown)
    return capture.get().rstrip()
