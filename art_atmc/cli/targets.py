"""``train --target``: a size or an accuracy that is asked for, which a plug-in finds the network for.

A plug-in registers the names of its targets as entry points ``art_atmc.targets``, each the same function
``(targets, settings, output, verbose) -> figures`` of values by name, :class:`art_atmc.experiments.settings.Settings`,
a folder and whether to show progress; the figures are those of ``metrics.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from art_atmc.experiments.settings import Settings

__all__ = ["parsed", "server", "summary"]

GROUP: Final = "art_atmc.targets"
REMEDY: Final = "install the plug-in art-atmc-distortion, which serves targets"
Server: TypeAlias = "Callable[[Mapping[str, float], Settings, Path, bool], Mapping[str, Any]]"


def parsed(given: Sequence[str]) -> dict[str, float]:
    """Values by name, of ``["robust-accuracy=0.85"]``.

    :raises ValueError: for what is not ``NAME=NUMBER``, and for a name given twice.

    >>> parsed(["file-bytes=8000"])
    {'file-bytes': 8000.0}
    """
    targets: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"`target` must be NAME=NUMBER, such as robust-accuracy=0.85, got {text!r}") from None
        if name in targets:
            raise ValueError(f"`target` {name} is given twice; keep one of them")
        targets[name] = number
    return targets


def server(targets: Mapping[str, float]) -> Server:
    """What trains a network to these targets.

    :raises ValueError: for names that nothing installed serves.
    """
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if missing := sorted(targets.keys() - points.keys()):
        known = f"; installed are: {', '.join(sorted(points))}" if points else ""
        raise ValueError(f"nothing installed serves the targets {', '.join(missing)}: {REMEDY}{known}")
    if len(owners := {points[name].value for name in targets}) > 1:
        raise ValueError(f"the targets {', '.join(sorted(targets))} belong to {sorted(owners)}; give those of one")
    served: Server = points[next(iter(targets))].load()
    return served


def summary(metrics: Mapping[str, Any]) -> str:
    """The figures in a line for a terminal."""
    asked = ", ".join(f"{name} {value:g}" for name, value in metrics["target"].items())
    return (
        f"asked for {asked}: density {metrics['density']:.4g}, {metrics['file_bytes']:,} bytes; on test data clean "
        f"{metrics['clean_accuracy']:.1%}, robust {metrics['robust_accuracy']:.1%}"
    )
