"""The command line. Torch and ART are imported by the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer

from art_atmc.cli import plugins
from art_atmc.cli.bench import bench
from art_atmc.cli.errors import options_of, sentence, translated
from art_atmc.cli.evaluate import evaluate
from art_atmc.cli.export import export
from art_atmc.cli.inspect import inspect
from art_atmc.cli.report import report
from art_atmc.cli.reproduce import reproduce
from art_atmc.cli.resume import Resumable
from art_atmc.cli.sweep import sweep
from art_atmc.cli.train import train

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


app.command(cls=Resumable)(train)
for command in (evaluate, sweep, report, reproduce, inspect, export, bench):
    app.command()(command)
app.add_typer(plugins.app, name="plugins")


def _one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    said = translated(str(message), options_of(typer.main.get_command(app), sys.argv[1:]))
    typer.echo(f"art-atmc: warning: {said}", err=True)


def main() -> None:
    """Run a command. What a user can mend is one sentence on stderr and exit status 2; a fault of ours a traceback."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line
            app()
    except Exception as error:
        said = sentence(error, options_of(typer.main.get_command(app), sys.argv[1:]))
        if said is None:
            typer.echo("art-atmc: this is a fault of art-atmc; please report it with the lines below", err=True)
            raise
        from art_atmc.support.terminal import printable

        # Names in files of others may steer a terminal.
        typer.echo(f"art-atmc: {printable(said)}", err=True)
        sys.exit(2)
