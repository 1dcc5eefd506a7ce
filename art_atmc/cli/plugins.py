"""``art-atmc plugins``: the constraints, attacks and objectives that installed distributions bring."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(no_args_is_help=True, help="The constraints, attacks and objectives of installed distributions.")
Name = Annotated[str, typer.Argument(help="A name that `plugins list` shows.", show_default=False)]


@app.command("list")
def list_plugins(json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """List all of them; reads metadata only."""
    from art_atmc.plugins import available, listing

    if json:
        from json import dumps

        typer.echo(dumps(listing(), indent=2))
        return
    for plugin in available():
        typer.echo(f"{plugin.name:24} {plugin.kind:11} {plugin.distribution} {plugin.version}")
        if plugin.problem:
            typer.echo(f"{'':24} {plugin.problem}")


KindOf = Annotated[
    Literal["constraint", "attack", "objective"] | None,
    typer.Option(
        "--kind", help="Where a name is one of several kinds; by default the first in this order that has it."
    ),
]


@app.command()
def info(name: Name, kind: KindOf = None) -> None:
    """Show what a plug-in is and which fields it takes."""
    from art_atmc.plugins import describe

    typer.echo(str(describe(name, kind)))


@app.command()
def check(
    text: Annotated[str, typer.Argument(help="name:field=value,...", show_default=False)], kind: KindOf = None
) -> None:
    """Run the conformance kit on a constraint, an attack, or an objective, which is tried with a PGD."""
    from art_atmc.plugins import describe
    from art_atmc.testing import check_attack, check_constraint, check_objective

    kits: dict[str, Callable[[Any], None]] = {
        "constraint": check_constraint, "attack": check_attack, "objective": check_objective
    }  # fmt: skip
    found = describe(text.partition(":")[0].strip(), kind).plugin.kind
    made = _made(text, found)
    try:
        kits[found](made)
    except AssertionError as error:
        raise ValueError(f"{made} breaks a law: {error}") from None
    except Exception as error:  # it is anybody's code
        raise ValueError(f"{made} raised {type(error).__name__}: {error}; report it to its authors") from error
    typer.echo(f"{made} obeys the laws of {'an' if found[0] in 'ao' else 'a'} {found}")


def _made(text: str, kind: str) -> Any:
    from art_atmc.plugins import load, parse

    if kind != "objective":
        return parse(text, kind)
    from art_atmc.attacks import PGD

    fields = {field.name for field in dataclasses.fields(load(text.partition(":")[0].strip(), kind)) if field.init}
    attacks = PGD(0.1, 0.05, 2), PGD(0.2, 0.1, 2, norm=2)
    given = {"attacks": attacks} if "attacks" in fields else {"attack": attacks[0]} if "attack" in fields else {}
    return parse(text, kind, **given)
