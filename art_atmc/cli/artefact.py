"""``art-atmc inspect``, ``export`` and ``bench``: what can be done with a compressed model."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from torch import nn

File = Annotated[Path, typer.Argument(help="A compressed model, such as compressed.atmc.", show_default=False)]
Network = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="The network of the file where it names none: package.module:function, called without arguments."
    ),
]


class Format(str, enum.Enum):
    """What a compressed model can be exported to."""

    onnx = "onnx"
    state_dict = "state-dict"
    npz = "npz"


def inspect(
    file: File,
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check that the weights obey the constraints.")] = False,
) -> None:
    """Show what a compressed model holds, tensor by tensor, beside the bounds of its size."""
    from rich.console import Console

    from art_atmc.files import CompressedModel

    model = CompressedModel.load(file)
    if verify:
        model.verify()
        typer.echo(f"the weights obey {', '.join(model.manifest.constraints) or 'no constraint'}", err=True)
    report = model.report()
    if json:
        typer.echo(report.to_json())
        return
    console = Console()
    console.print(report.table())
    console.print(model.manifest.table())


def export(
    file: File,
    output: Annotated[Path, typer.Option(help="The file to write.")],
    kind: Annotated[
        Format, typer.Option("--format", help="An ONNX graph, a torch state dict, or numpy arrays.")
    ] = Format.onnx,
    dense: Annotated[bool, typer.Option("--dense", help="ONNX with plain dense weights.")] = False,
    network: Network = None,
) -> None:
    """Write a compressed model for use without art-atmc."""
    from art_atmc.files import CompressedModel

    model = CompressedModel.load(file)
    if kind is Format.onnx:
        from art_atmc.files.onnx import export as export_onnx

        export_onnx(model, output, module=load_network(network), dense=dense)
    else:
        from art_atmc.files.state_dict import export_npz, export_state_dict

        {Format.state_dict: export_state_dict, Format.npz: export_npz}[kind](model, output)
    typer.echo(f"{output}: {output.stat().st_size:,} bytes ({file}: {file.stat().st_size:,})")


def bench(
    file: File,
    network: Network = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    seconds: Annotated[float, typer.Option(help="Time to spend on each way at each batch size.")] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Time dense torch, restored torch and onnxruntime, one example at a time and 64."""
    import dataclasses
    from json import dumps

    import torch
    from rich.console import Console

    from art_atmc.evaluation import latency
    from art_atmc.files import CompressedModel

    torch.set_num_threads(threads)
    rows = latency.compare(CompressedModel.load(file), load_network(network), seconds=seconds)
    if json:
        typer.echo(dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        Console().print(latency.table(rows))


def load_network(reference: str | None) -> nn.Module | None:
    from art_atmc.networks.by_name import import_network

    return None if reference is None else import_network(reference)
