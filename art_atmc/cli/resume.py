"""``art-atmc train --resume DIR``: the options of the command that filled a folder, given again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand

__all__ = ["Resumable", "note_options"]

OPTIONS: Final = "options.json"
RESUME: Final = "--resume"


class Resumable(TyperCommand):
    """A command with ``--resume DIR``, which stands for all options that the folder was begun with."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if RESUME in args and "--help" not in args:
            place = args.index(RESUME)
            folder, others = args[place + 1 : place + 2], [*args[:place], *args[place + 2 :]]
            if folder:
                args = [*_stored(Path(folder[0])), "--output", folder[0], *others]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            # What was interrupted within a fit says where; elsewhere nothing is lost but the work since then.
            how = f"go on with: art-atmc train --resume {ctx.params['output']}"
            typer.echo(f"art-atmc: {error or 'interrupted'}\n{how}", err=True)
            raise typer.Exit(130) from None


def note_options(ctx: Any, output: Path) -> None:
    """Write the options that the user gave, but for the folder itself, into it."""
    from art_atmc.support.atomic import write_file

    words: list[str] = []
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(parameter.name)
        if given is None or given.name != "COMMANDLINE" or parameter.name in ("output", "overwrite"):
            continue
        value = ctx.params[parameter.name]
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0], str(one.resolve() if isinstance(one, Path) else one)]
    output.mkdir(parents=True, exist_ok=True)
    write_file(output / OPTIONS, json.dumps(words, indent=1) + "\n")


def _stored(folder: Path) -> list[str]:
    from art_atmc.support.reading import read_json

    if not (folder / OPTIONS).is_file():
        raise FileNotFoundError(f"{folder} holds no run to go on with; begin one by art-atmc train --output {folder}")
    words: list[str] = read_json(folder / OPTIONS, list[str], "the options of art-atmc train", "give them again")
    return words
