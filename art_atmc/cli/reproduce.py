"""``art-atmc reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from art_atmc.cli.options import Networks, Precision, Quiet, Schedule, Seeds, Threads
from art_atmc.cli.progress import progress


def reproduce(
    panel: Annotated[str, typer.Argument(help="mnist or cifar10.", show_default=False)],
    data_dir: Annotated[Path, typer.Option(help="Folder of the data's files.")],
    output: Networks,
    budget: Annotated[
        int | None, typer.Option(help="Epochs of every network in all; by default 50 for mnist, 200 for cifar10.")
    ] = None,
    max_iter: Annotated[
        int | None,
        typer.Option(help="Steps of the attack in training, to save time; by default the paper's, as in the test."),
    ] = None,
    training: Annotated[
        Literal["paper", "fast"], typer.Option(help="As for train; by default as the released code trains.")
    ] = "paper",
    precision: Precision = None,
    recipe: Annotated[list[str] | None, typer.Option(help="May be repeated; by default DA and ATMC-b.")] = None,
    density: Annotated[
        list[float] | None, typer.Option(help="May be repeated; by default those of the paper's points.")
    ] = None,
    bits: Annotated[int, typer.Option(help="Of ATMC-b.")] = 8,
    seeds: Seeds = 1,
    schedule: Annotated[Schedule, typer.Option(help="As for sweep.")] = "matched",
    threads: Threads = 1,
    quiet: Quiet = False,
) -> None:
    """Train a panel of the paper's main figure, and measure the distance to its points."""
    import torch
    from rich.console import Console

    from art_atmc.experiments import recipes
    from art_atmc.experiments import reproduce as panels
    from art_atmc.experiments.study import Study
    from art_atmc.experiments.sweep import sweep
    from art_atmc.support.atomic import write_file

    if panel not in panels.PANELS:
        raise ValueError(f"there is no panel {panel!r}; there are {', '.join(panels.PANELS)}")
    torch.set_num_threads(threads)
    wanted = panels.PANELS[panel]
    with progress(quiet) as verbose:
        settings = wanted.settings(data_dir, budget, max_iter, training, precision)
        study = Study(settings, output, recipes.Schedule(schedule), verbose=verbose)
        stages = study.grid(recipe or ["DA", "ATMC-b"], density or wanted.densities, [bits], range(seeds))
        rows = panels.distances(sweep(study, stages))
    write_file(output / "distances.md", panels.markdown(rows))
    Console().print(panels.table(rows))
