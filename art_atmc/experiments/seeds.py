"""The same comparison from several seeds, and how far its figures spread."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from art_atmc.experiments.comparison import KINDS, compare
from art_atmc.experiments.settings import Settings
from art_atmc.support.atomic import write_file
from art_atmc.support.statistics import Spread
from art_atmc.support.terminal import figures

__all__ = ["repeat"]

FIGURES: Final = ("clean_accuracy", "robust_accuracy", "nnz", "file_bytes")


def repeat(
    settings: Settings,
    output: Path,
    seeds: int,
    *,
    dense: bool = True,
    overwrite: bool = False,
    verbose: bool = True,
) -> list[dict[str, Any]]:
    """:func:`~art_atmc.experiments.comparison.compare` from ``seeds`` seeds, that of the settings first.

    Each has a folder ``seed-S`` in ``output``. Finished seeds are not trained again, so that more may be added.

    :returns: the metrics of each; the spread of each figure is also in ``seeds.json``.
    :raises ValueError: for fewer than two seeds, and when a folder holds networks of other settings.
    """
    if seeds < 2:
        raise ValueError(f"`seeds` must be at least 2 for a spread, got {seeds}")
    runs = [
        compare(
            dataclasses.replace(settings, seed=seed),
            output / f"seed-{seed}",
            dense=dense,
            overwrite=overwrite,
            verbose=verbose,
        )
        for seed in range(settings.seed, settings.seed + seeds)
    ]
    plain = {
        kind: {name: dataclasses.asdict(_spread(runs, kind, name)) for name in FIGURES}
        for kind in KINDS
        if kind in runs[0]
    }
    write_file(output / "seeds.json", json.dumps(plain, indent=2) + "\n")
    return runs


def spread_table(runs: list[dict[str, Any]]) -> Table:
    """For a terminal of 80 columns: one row a network."""
    first = runs[0]
    kinds = [kind for kind in KINDS if kind in first]
    attack = first[kinds[0]]["attack"]
    doubts = [
        f"\nseed {run['settings']['seed']}, {kind}: {sentence}"
        for run in runs
        for kind in kinds
        for sentence in run[kind]["doubts"]
    ]
    table = figures(
        f"{first['data']['name']}, {len(runs)} seeds, {first['data']['test']} test images, "
        f"PGD eps {attack['eps']:.3g}, {attack['max_iter']} steps, norm {attack['norm']}",
        "in %: mean ± standard deviation (least to greatest); file: mean" + "".join(doubts),
        ("network", "clean", "robust", "file"),
    )
    for kind in kinds:
        size = _spread(runs, kind, "file_bytes")
        shares = (_percent(_spread(runs, kind, name)) for name in ("clean_accuracy", "robust_accuracy"))
        table.add_row(kind, *shares, f"{size.mean / 1000:,.1f} kB")
    return table


def _spread(runs: list[dict[str, Any]], kind: str, name: str) -> Spread:
    return Spread.of([run[kind][name] for run in runs])


def _percent(spread: Spread) -> str:
    return f"{100 * spread.mean:.1f} ± {100 * (spread.std or 0):.1f} ({100 * spread.min:.1f} to {100 * spread.max:.1f})"
