"""``art-atmc report``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="The output of sweep, reproduce or train.", show_default=False)],
    output: Annotated[Path | None, typer.Option(help="Folder of the page; by default the same one.")] = None,
) -> None:
    """Write one HTML page, with pictures, about all networks of a folder."""
    from art_atmc.experiments.report import write
    from art_atmc.support.terminal import printable

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        page = write(folder, output)
    for warning in caught:
        typer.echo(f"art-atmc: {printable(warning.message)}", err=True)
    typer.echo(str(page))
