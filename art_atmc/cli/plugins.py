"""``art-atmc plugins``: the constraints that installed distributions bring."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The constraints that installed distributions bring.")
Name = Annotated[str, typer.Argument(help="A name that `plugins list` shows.", show_default=False)]


@app.command("list")
def list_plugins(json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """List all constraints; reads metadata only."""
    from art_atmc.plugins import available, listing

    if json:
        from json import dumps

        typer.echo(dumps(listing(), indent=2))
        return
    for plugin in available():
        typer.echo(f"{plugin.name:24} {plugin.distribution} {plugin.version}")
        if plugin.problem:
            typer.echo(f"{'':24} {plugin.problem}")


@app.command()
def info(name: Name) -> None:
    """Show what a constraint is and which fields it takes."""
    from art_atmc.plugins import describe

    typer.echo(str(describe(name)))


@app.command()
def check(constraint: Annotated[str, typer.Argument(help="name:field=value,...", show_default=False)]) -> None:
    """Run the conformance kit on a constraint."""
    from art_atmc.plugins import parse
    from art_atmc.testing import check_constraint

    made = parse(constraint)
    try:
        check_constraint(made)
    except AssertionError as error:
        raise ValueError(f"{made} breaks a law: {error}") from None
    except Exception as error:  # a constraint is anybody's code
        raise ValueError(f"{made} raised {type(error).__name__}: {error}; report it to its authors") from error
    typer.echo(f"{made} obeys the laws of a constraint")
