"""``art-atmc sweep``."""

from __future__ import annotations

from typing import Annotated

import typer

from art_atmc.cli.options import Conditions, Networks, Quiet, Schedule, Seed, Seeds, Test, Threads, grouped
from art_atmc.cli.progress import progress


@grouped
def sweep(
    conditions: Conditions,
    output: Networks,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="ND, DA, NAP, AP, AL0, ALR, ATMC-32, ATMC-b, or ATMC-4 for ATMC-b with 4 bits; may be repeated; "
            "by default all but ND."
        ),
    ] = None,
    density: Annotated[
        list[float] | None,
        typer.Option(help="Share of the weights that is kept; may be repeated. By default 0.1, 0.05, 0.02."),
    ] = None,
    bits: Annotated[list[int] | None, typer.Option(help="Of ATMC-b; may be repeated. By default 4.")] = None,
    search: Annotated[
        int,
        typer.Option(help="In place of the grid: networks of a search between the least and greatest sizes.", min=0),
    ] = 0,
    schedule: Annotated[
        Schedule, typer.Option(help="The same epochs for all, or the stages of the released code.")
    ] = "matched",
    epochs: Annotated[int, typer.Option(help="Of each network in all (matched), or of each stage (reference).")] = 30,
    suite: Annotated[
        Test, typer.Option(help="Test with PGD, the paper's attack and Square (test), with PGD alone, or with a suite.")
    ] = "test",
    seed: Seed = 0,
    seeds: Seeds = 1,
    threads: Threads = 1,
    quiet: Quiet = False,
) -> None:
    """Train and test recipes at many sizes; goes on where an interrupted sweep stopped."""
    import torch
    from rich.console import Console

    from art_atmc.experiments import recipes, reproduce
    from art_atmc.experiments import sweep as points
    from art_atmc.experiments.settings import Settings
    from art_atmc.experiments.study import Study

    if conditions.constraint and (density or bits or search):
        raise ValueError("`constraint` is one size, in place of `density`, `bits` and `search`; leave these out")
    torch.set_num_threads(threads)
    settings = Settings.resolved(**conditions.chosen(), epochs=epochs, suite=suite)
    own = settings.constraints if conditions.constraint else ()
    densities, widths = density or [0.1, 0.05, 0.02], bits or [4]
    with progress(quiet) as verbose:
        study = Study(settings, output, recipes.Schedule(schedule), verbose=verbose)
        if search:
            if seeds > 1 or len(recipe or ()) > 1:
                raise ValueError("`search` trains one `recipe` from one seed; give one recipe, and leave out `seeds`")
            made, only = recipes.named((recipe or ["ATMC-b"])[0], 0)
            widths = [only] if only else widths
            sizes = (min(densities), max(densities)), (min(widths), max(widths))
            found = points.search(study, points.Search(made.name, *sizes, search, seed))
        else:
            names = recipe or [name for name in recipes.RECIPES if name != "ND" and not (own and name == "ALR")]
            found = points.sweep(study, study.grid(names, densities, widths, range(seed, seed + seeds), own))
    Console().print(reproduce.table(reproduce.distances(found)))
