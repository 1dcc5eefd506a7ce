"""``art-atmc train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from art_atmc.cli.options import Conditions, Quiet, Seed, Seeds, Test, Threads, grouped
from art_atmc.cli.progress import progress
from art_atmc.cli.resume import note_options


@grouped
def train(
    context: typer.Context,
    conditions: Conditions,
    output: Annotated[
        Path, typer.Option(help="Folder for metrics.json, history.jsonl and the networks; it is gone on with.")
    ],
    density: Annotated[
        float | None, typer.Option(help="Share of the weights that is kept, in (0, 1]; by default 0.05.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Bits of each codebook, 1 to 16; 32 for no codebook; by default 4.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="In place of --density, what is asked for: robust-accuracy=0.85 on validation data, file-bytes=8000; "
            "by the plug-in art-atmc-distortion. May be repeated."
        ),
    ] = None,
    factored: Annotated[bool, typer.Option(help="Train W = (I + U)V + C, or the weights themselves.")] = True,
    epochs: Annotated[int, typer.Option(help="Passes over the training data, for either network.")] = 30,
    suite: Annotated[
        Test,
        typer.Option(help="Test with one PGD (pgd); with that, the paper's attack and Square (test); or with a suite."),
    ] = "pgd",
    seed: Seed = 0,
    seeds: Seeds = 1,
    dense: Annotated[bool, typer.Option(help="Train the dense network too, for comparison.")] = True,
    threads: Threads = 1,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with an interrupted run: its folder, in place of all options that it was begun with."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again, whatever the folder holds.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a dense and a compressed network adversarially, and compare them on test data once.

    Started again with the same options, or as --resume DIR, it goes on where it was interrupted, within an epoch too.
    """
    import torch
    from rich.console import Console

    from art_atmc.cli.targets import parsed, server, summary
    from art_atmc.experiments.comparison import compare, table
    from art_atmc.experiments.seeds import repeat, spread_table
    from art_atmc.experiments.settings import Settings

    serve = server(targets) if (targets := parsed(target or [])) else None
    if serve is not None and (density is not None or seeds != 1 or overwrite):
        raise ValueError(
            "with `target` the density is found, for one seed, in a folder of its own: leave `density`, `seeds` and "
            "`overwrite` out"
        )
    torch.set_num_threads(threads)
    settings = Settings.resolved(
        **conditions.chosen(),
        density=density,
        bits=bits,
        factored=factored,
        epochs=epochs,
        suite=suite,
        seed=seed,
    )
    note_options(context, output)
    found: object
    with progress(quiet) as verbose:
        if serve is not None:
            found = summary(serve(targets, settings, output, verbose))
        elif seeds == 1:
            found = table(compare(settings, output, dense=dense, overwrite=overwrite, verbose=verbose))
        else:
            found = spread_table(repeat(settings, output, seeds, dense=dense, overwrite=overwrite, verbose=verbose))
    Console().print(found)
