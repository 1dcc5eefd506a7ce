"""``art-atmc bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from art_atmc.cli.options import Json, Model, OwnNetwork, Threads, load_network


def bench(
    path: Model,
    network: OwnNetwork = None,
    threads: Threads = 1,
    seconds: Annotated[
        float, typer.Option(help="Time to spend on each way at each batch size.", min=0.001, max=3600)
    ] = 1.0,
    json: Json = False,
) -> None:
    """Time dense torch, restored torch and onnxruntime, one example at a time and 64."""
    import dataclasses
    from json import dumps

    import torch
    from rich.console import Console

    from art_atmc.evaluation import latency
    from art_atmc.experiments.folder import model_file
    from art_atmc.files import CompressedModel

    torch.set_num_threads(threads)
    rows = latency.compare(CompressedModel.load(model_file(path)), load_network(network), seconds=seconds)
    if json:
        typer.echo(dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        Console().print(latency.table(rows))
