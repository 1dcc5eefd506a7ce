"""``art-atmc export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import typer

from art_atmc.cli.options import Model, OwnNetwork, load_network

Format: TypeAlias = Literal["onnx", "state-dict", "npz"]
SUFFIXES: Final[dict[Format, tuple[str, ...]]] = {
    "onnx": (".onnx",), "state-dict": (".pt", ".pth", ".safetensors"), "npz": (".npz",)
}  # fmt: skip


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
    preprocessing: Annotated[
        bool, typer.Option(help="Whether an ONNX graph standardises inputs and defends them as the classifier does.")
    ] = True,
    network: OwnNetwork = None,
) -> None:
    """Write a compressed model for use without art-atmc."""
    from art_atmc.experiments.folder import model_file
    from art_atmc.files import CompressedModel

    file = model_file(path)
    kind = _format(output, kind)
    if dense and kind != "onnx":
        raise ValueError(f"`dense` says how an ONNX graph holds the weights; {kind} always holds them dense")
    if output.exists() and output.samefile(file):
        raise ValueError(f"`output` is the compressed model itself, {file}; choose another file")
    model = CompressedModel.load(file)
    if kind == "onnx":
        from art_atmc.files.onnx import export as export_onnx

        export_onnx(model, output, module=load_network(network), dense=dense, preprocessing=preprocessing)
    else:
        from art_atmc.files.state_dict import export_npz, export_state_dict

        (export_npz if kind == "npz" else export_state_dict)(model, output)
    typer.echo(f"{output}: {output.stat().st_size:,} bytes ({file}: {file.stat().st_size:,})")


def _format(output: Path, kind: Format | None) -> Format:
    """The format that the name and the option both allow."""
    by_name = next((format for format, suffixes in SUFFIXES.items() if output.suffix in suffixes), None)
    if by_name is None or kind not in (None, by_name):
        wanted = [suffix for format, suffixes in SUFFIXES.items() if kind in (None, format) for suffix in suffixes]
        kinds = f"`format` {kind}" if kind else "an export"
        raise ValueError(f"`output` of {kinds} must end in {', '.join(wanted)}, got {output}")
    return by_name
