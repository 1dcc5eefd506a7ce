"""``art-atmc inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

from art_atmc.cli.options import Json, Model, OwnNetwork, load_network


def inspect(
    path: Model,
    json: Json = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check that the weights obey the constraints.")] = False,
    network: OwnNetwork = None,
) -> None:
    """Show what a compressed model holds, tensor by tensor, beside the bounds of its size."""
    from rich.console import Console

    from art_atmc.experiments.folder import model_file
    from art_atmc.files import CompressedModel
    from art_atmc.support.terminal import printable

    model = CompressedModel.load(model_file(path))
    if verify:
        model.verify(load_network(network))
        typer.echo(printable(f"the weights obey {', '.join(model.manifest.constraints) or 'no constraint'}"), err=True)
    report = model.report()
    if json:
        typer.echo(report.to_json())
        return
    console = Console()
    console.print(report.table())
    console.print(model.manifest.table())
