"""``art-atmc report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="The output of sweep, reproduce or train.", show_default=False)],
    output: Annotated[Path | None, typer.Option(help="Folder of the page; by default the same one.")] = None,
) -> None:
    """Write one HTML page, with pictures, about all networks of a folder."""
    from art_atmc.experiments.report import write

    typer.echo(str(write(folder, output)))
