"""What a terminal shows, as plain text: for `print`, logs and notebooks; and strings of others, as they are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["as_text", "figures", "plain_text", "printable"]


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


def printable(text: object) -> str:
    """``text`` with whatever steers a terminal or turns the direction of writing made visible; lines stay lines.

    >>> print(printable("fc\x1b[31m.weight"))
    fc\\x1b[31m.weight
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text))


def plain_text(text: object) -> Text:
    """A string that comes from a file or a user for a cell or title of rich, where it is no markup.

    >>> print(as_text(plain_text("conv[ab]*")))
    conv[ab]*
    """
    return Text(printable(text).replace("\n", "\\n"))


def figures(title: str, caption: str, columns: Sequence[str]) -> Table:
    """An empty table of figures: the first column is a name, which may be wrapped, the others are numbers.

    >>> made = figures("digits", "in %", ["network", "clean"])
    >>> made.add_row("dense", "98.6")
    >>> print(as_text(made))
         digits
    <BLANKLINE>
     network  clean
     ───────────────
     dense     98.6
    <BLANKLINE>
    in %
    """
    made = Table(
        title=plain_text(title),
        caption=Text(printable(caption)),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
    return made
