"""The command line. Torch and ART are imported by the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from art_atmc.cli import artefact, plugins, study, training

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train networks that are small and robust: ATMC for the Adversarial Robustness Toolbox.",
)


def _version(asked: bool) -> None:
    if asked:
        from art_atmc._version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train networks that are small and robust: ATMC for the Adversarial Robustness Toolbox."""


app.command()(training.train)
app.command()(study.evaluate)
app.command()(study.sweep)
app.command()(study.report)
app.command()(study.reproduce)
app.command()(artefact.inspect)
app.command()(artefact.export)
app.command()(artefact.bench)
app.add_typer(plugins.app, name="plugins")


def main() -> None:
    """Run a command; errors of the user are one sentence on stderr and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
        typer.echo(f"art-atmc: {error}", err=True)
        sys.exit(2)
