"""``art-atmc evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from art_atmc.cli.options import DataDir, Model, Norm, OwnNetwork, Quiet, Threads, load_network
from art_atmc.cli.progress import progress


def evaluate(
    path: Model,
    suite: Annotated[Literal["quick", "standard", "thorough"], typer.Option(help="How thorough.")] = "quick",
    data: Annotated[str | None, typer.Option(help="As for train; by default what it was trained on.")] = None,
    data_dir: DataDir = None,
    eps: Annotated[float | None, typer.Option(help="Radius; by default that of the training.")] = None,
    norm: Annotated[Norm | None, typer.Option(help="By default that of the training.")] = None,
    examples: Annotated[int | None, typer.Option(help="How many test examples; by default all.", min=1)] = None,
    dense: Annotated[
        Path | None,
        typer.Option(help="Compressed model or folder of the network to transfer examples from."),
    ] = None,
    smoothing: Annotated[
        list[float] | None,
        typer.Option(help="Certify too, by Gaussian noise of this scale on the inputs; may be repeated."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file; an interrupted evaluation goes on from it.")] = None,
    network: OwnNetwork = None,
    batch_size: Annotated[int, typer.Option(help="Examples at a time.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    threads: Threads = 1,
    quiet: Quiet = False,
) -> None:
    """Attack a network with a suite, on test data, and check whether the figures can be believed."""
    import torch
    from rich.console import Console

    from art_atmc.data import load
    from art_atmc.evaluation import SUITES, Smoothing
    from art_atmc.evaluation import evaluate as run
    from art_atmc.experiments.folder import subject

    certificates = [Smoothing(scale) for scale in smoothing or ()]
    torch.set_num_threads(threads)
    tested = subject(path, load_network(network))
    other = tested.dense if dense is None else subject(dense, load_network(network)).classifier
    data = tested.data if data is None else data
    eps = tested.eps if eps is None else eps
    if data is None or eps is None:
        raise ValueError(f"{path} does not say what it was trained on; give `data` and `eps`")
    dataset = load(data, tested.data_dir if data_dir is None else data_dir)
    with progress(quiet) as verbose:
        result = run(
            tested.classifier,
            dataset.x_test[:examples],
            dataset.y_test[:examples],
            suite=SUITES[suite](eps, float(norm or tested.norm or "inf"), _steps(dataset.name)),
            dense=other,
            certificates=certificates,
            batch_size=batch_size,
            seed=seed,
            checkpoint=output,
            verbose=verbose,
        )
    Console().print(result)


def _steps(data: str) -> int:
    """Of the paper's attack."""
    return 16 if data == "mnist" else 7
