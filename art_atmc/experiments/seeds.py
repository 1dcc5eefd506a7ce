"""The same experiment from several seeds, and how far its figures spread."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from art_atmc.experiments.experiment import Experiment
from art_atmc.support.statistics import Spread

__all__ = ["repeat"]

FIGURES = ("clean_accuracy", "robust_accuracy", "file_bytes")


def repeat(
    experiment: Experiment, output: Path, seeds: int, *, overwrite: bool = False, verbose: bool = True
) -> dict[str, dict[str, Spread]]:
    """Run ``experiment`` from ``seeds`` seeds, its own first, each into a folder ``seed-S`` of ``output``.

    :returns: the spread of each figure of each network; also in ``seeds.json``.
    :raises ValueError: for fewer than two seeds.
    :raises FileExistsError: when a folder holds results and ``overwrite`` is not set.
    """
    if seeds < 2:
        raise ValueError(f"a spread needs at least 2 seeds, got {seeds}")
    runs: list[dict[str, Any]] = []
    for seed in range(experiment.seed, experiment.seed + seeds):
        repeated = dataclasses.replace(experiment, seed=seed)
        runs.append(repeated.run(output / f"seed-{seed}", overwrite=overwrite, verbose=verbose))
    kinds = [kind for kind in ("dense", "compressed") if kind in runs[0]]
    spreads: dict[str, dict[str, Spread]] = {
        kind: {name: Spread.of([run[kind][name] for run in runs]) for name in FIGURES} for kind in kinds
    }
    plain = {k: {name: dataclasses.asdict(spread) for name, spread in row.items()} for k, row in spreads.items()}
    (output / "seeds.json").write_text(json.dumps(plain, indent=2) + "\n")
    Console().print(_table(spreads, seeds))
    return spreads


def _table(spreads: dict[str, dict[str, Spread]], seeds: int) -> Table:
    table = Table(title=f"{seeds} seeds: mean ± standard deviation (least to greatest)")
    for column in ("network", "clean", "robust", "file"):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for kind, row in spreads.items():
        size = row["file_bytes"]
        table.add_row(kind, *(_percent(row[name]) for name in FIGURES[:2]), f"{size.mean / 1000:,.1f} kB")
    return table


def _percent(spread: Spread) -> str:
    return f"{spread.mean:.1%} ± {100 * (spread.std or 0):.1f} ({100 * spread.min:.1f} to {100 * spread.max:.1f})"
