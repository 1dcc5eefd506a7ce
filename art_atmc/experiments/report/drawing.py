"""How all pictures of the report look: one style, and colours that colour-blind readers tell apart."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = [
    "NARROW",
    "SMALL",
    "Picture",
    "heading",
    "key",
    "log_ticks",
    "looks",
    "percent_axis",
    "picture",
    "slug",
    "small_lines",
]

WIDTH: Final = 4.8  # inches; small enough for its text to be read on a telephone
NARROW: Final = 4.0  # where three stand side by side
DPI: Final = 160
SMALL: Final = 7.5  # points, of the second line of a title

STYLE: Final[Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "errorbar.capsize": 2.0,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.08,
    "text.parse_math": False,  # names are not ours: a $ in one is a $
    "pdf.fonttype": 42,  # text that can be searched, and that journals accept
    "svg.hashsalt": "art-atmc",  # the same picture is the same file
}
# Nothing of the moment, so that the same figures give the same files.
FORMATS: Final[dict[str, dict[str, None]]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}

# Okabe and Ito's colours; a method has the same one in each report.
LOOKS: Final[dict[str, tuple[str, str]]] = {
    "ND": ("#999999", "X"),
    "DA": ("#000000", "*"),
    "NAP": ("#E69F00", "v"),
    "AP": ("#56B4E9", "^"),
    "AL0": ("#009E73", "s"),
    "ALR": ("#CC79A7", "D"),
    "ATMC-32": ("#0072B2", "P"),
    "ATMC-8": ("#D55E00", "o"),
}
OTHERS: Final = (("#882255", "h"), ("#999933", "<"), ("#332288", ">"), ("#661100", "p"), ("#117733", "d"))


@final
@dataclasses.dataclass(frozen=True)
class Picture:
    """A finished picture.

    :param name: of its files, without what follows the dot.
    :param alt: what it shows, for those who do not see it.
    :param files: the bytes of the picture as ``png``, ``pdf`` and ``svg``.
    """

    name: str
    alt: str
    files: Mapping[str, bytes]

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.files["png"]).decode()

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height, which a PNG file says in its first bytes."""
        png = self.files["png"]
        return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def picture(name: str, alt: str, draw: Callable[[Figure], None], *, height: float, width: float = WIDTH) -> Picture:
    """What ``draw`` puts on an empty figure.

    :param height: in inches.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of a name in letters that the font lacks
        mpl.rcdefaults()  # not the style that the user's matplotlibrc sets
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
        draw(figure)
        return Picture(slug(name), alt, {kind: _file(figure, kind) for kind in FORMATS})


def _file(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata=FORMATS[kind])
    figure.set_layout_engine("none")  # the place that was found for everything is that of the other formats too
    return file.getvalue()


def slug(text: str) -> str:
    """A name that is safe as that of a file.

    >>> slug("codebook: conv1/weight")
    'codebook-conv1-weight'
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "picture"


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each method; those that the paper lacks share a few more, by their order.

    >>> looks(["DA", "ATMC-4"])["ATMC-4"]
    {'color': '#882255', 'marker': 'h'}
    """
    others = itertools.cycle(OTHERS)
    drawn = {name: LOOKS[name] if name in LOOKS else next(others) for name in dict.fromkeys(names)}
    return {name: {"color": colour, "marker": marker} for name, (colour, marker) in drawn.items()}


def heading(axes: Axes, title: str, conditions: str) -> None:
    """A title, and below it, small, under which conditions the figures were measured."""
    below = small_lines(conditions, axes.get_figure(root=True).get_figwidth())  # type: ignore[union-attr]
    axes.set_title(title, pad=8 + 1.25 * SMALL * (1 + below.count("\n")))
    style: dict[str, Any] = {"fontsize": SMALL, "color": "0.35", "va": "bottom", "linespacing": 1.25}
    axes.annotate(below, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", **style)


def small_lines(text: str, width: float) -> str:
    """The text in lines that fit a figure of this width, in inches, at the size :data:`SMALL`."""
    return "\n".join(textwrap.wrap(text, round(14.5 * width)))


def percent_axis(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{round(100 * share, 6):g}%"))


def log_ticks(axis: Axis, most: int = 8) -> None:
    """Plain numbers at a logarithmic axis.

    :param most: about how many of them there is room for.
    """
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    subs = next((s for s in ((1, 2, 5), (1, 3)) if decades * len(s) <= most), (1,))
    axis.set_major_locator(LogLocator(subs=subs, numticks=most + 2))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def key(figure: Figure, entries: Iterable[tuple[str, dict[str, Any]]], columns: int = 3) -> None:
    """A legend below the axes, where it hides no point.

    :param entries: text and the style of its line.
    """
    handles = [Line2D([], [], label=label, **style) for label, style in entries]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))
