"""``art-atmc export``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from art_atmc.cli.options import Model, OwnNetwork, load_network


class Format(str, enum.Enum):
    """What a compressed model can be exported to."""

    onnx = "onnx"
    state_dict = "state-dict"
    npz = "npz"


SUFFIXES = {Format.onnx: (".onnx",), Format.state_dict: (".pt", ".pth", ".safetensors"), Format.npz: (".npz",)}


def export(
    path: Model,
    output: Annotated[Path, typer.Option(help="The file to write.")],
    kind: Annotated[
        Format | None,
        typer.Option(
            "--format", help="An ONNX graph, a torch state dict, or numpy arrays; by default what the name ends in."
        ),
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="ONNX with plain dense weights.")] = False,
    network: OwnNetwork = None,
) -> None:
    """Write a compressed model for use without art-atmc."""
    from art_atmc.experiments.folder import model_file
    from art_atmc.files import CompressedModel

    file = model_file(path)
    kind = _format(output, kind)
    if dense and kind is not Format.onnx:
        raise ValueError(f"`dense` says how an ONNX graph holds the weights; {kind.value} always holds them dense")
    if output.exists() and output.samefile(file):
        raise ValueError(f"`output` is the compressed model itself, {file}; choose another file")
    model = CompressedModel.load(file)
    if kind is Format.onnx:
        from art_atmc.files.onnx import export as export_onnx

        export_onnx(model, output, module=load_network(network), dense=dense)
    else:
        from art_atmc.files.state_dict import export_npz, export_state_dict

        {Format.state_dict: export_state_dict, Format.npz: export_npz}[kind](model, output)
    typer.echo(f"{output}: {output.stat().st_size:,} bytes ({file}: {file.stat().st_size:,})")


def _format(output: Path, kind: Format | None) -> Format:
    """The format that the name and the option both allow."""
    by_name = next((format for format, suffixes in SUFFIXES.items() if output.suffix in suffixes), None)
    if by_name is None or kind not in (None, by_name):
        wanted = [suffix for format, suffixes in SUFFIXES.items() if kind in (None, format) for suffix in suffixes]
        kinds = f"`format` {kind.value}" if kind else "an export"
        raise ValueError(f"`output` of {kinds} must end in {', '.join(wanted)}, got {output}")
    return by_name
