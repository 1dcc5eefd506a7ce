"""The command line. Torch and ART are imported by the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import enum
import importlib
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train networks that are small and robust: ATMC for the Adversarial Robustness Toolbox.",
)


def _version(asked: bool) -> None:
    if asked:
        from art_atmc import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train networks that are small and robust: ATMC for the Adversarial Robustness Toolbox."""


# Optional[...] in place of `| None`: typer reads the annotations at run time.
@app.command()
def train(
    data: Annotated[str, typer.Option(help="digits, mnist, or a .npz with x_train, y_train, x_test, y_test.")],
    output: Annotated[Path, typer.Option(help="Folder for metrics.json, history.jsonl and the weights.")],
    data_dir: Annotated[Optional[Path], typer.Option(help="Folder of the MNIST idx files, gzipped or not.")] = None,  # noqa: UP045
    network: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="digits-cnn, lenet, resnet18, resnet34 or wrn-16-8; by default one that suits the data."),
    ] = None,
    eps: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Radius of the attack; by default 0.1 for digits, 76/255 for mnist, 8/255 else."),
    ] = None,
    eps_step: Annotated[Optional[float], typer.Option(help="Step; by default 1.25 eps / max-iter.")] = None,  # noqa: UP045
    max_iter: Annotated[int, typer.Option(help="Steps of the attack in training.")] = 7,
    test_max_iter: Annotated[Optional[int], typer.Option(help="Steps in the final test; by default max-iter.")] = None,  # noqa: UP045
    norm: Annotated[str, typer.Option(help="inf, 2 or 1.")] = "inf",
    clean_share: Annotated[float, typer.Option(help="Share of the clean loss, in [0, 1).")] = 0.0,
    density: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Share of the weights that is kept, in (0, 1]; by default 0.05."),
    ] = None,
    bits: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Bits of each codebook, 1 to 16; 32 for no codebook; by default 4."),
    ] = None,
    constraint: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="In place of --density and --bits: name:field=value,... of a plug-in; may be repeated."),
    ] = None,
    ignore: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Pattern of layers that stay dense; may be repeated."),
    ] = None,
    factored: Annotated[bool, typer.Option(help="Train W = (I + U)V + C, or the weights themselves.")] = True,
    epochs: Annotated[int, typer.Option(help="Passes over the training data, for either model.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start of the cosine.")] = 0.05,
    validation: Annotated[float, typer.Option(help="Share of the training data to choose the best epoch on.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    dense: Annotated[bool, typer.Option(help="Train the dense network too, for comparison.")] = True,
    threads: Annotated[int, typer.Option(help="CPU threads; one is fastest for small networks.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in an output folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train a dense and a compressed network adversarially, and compare them on test data once."""
    settings = {k: v for k, v in locals().items() if k not in ("output", "threads", "overwrite", "quiet")}
    import torch

    from art_atmc.experiment import Experiment

    torch.set_num_threads(threads)
    settings |= {"constraint": tuple(constraint or ()), "ignore": tuple(ignore or ())}
    Experiment(**settings).run(output, overwrite=overwrite, verbose=not quiet)


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


@app.command()
def inspect(
    file: File,
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check that the weights obey the constraints.")] = False,
) -> None:
    """Show what a compressed model holds, tensor by tensor, beside the bounds of its size."""
    from rich.console import Console

    from art_atmc import CompressedModel

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


@app.command()
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
    from art_atmc import CompressedModel

    model = CompressedModel.load(file)
    if kind is Format.onnx:
        from art_atmc.artefact.onnx import export as export_onnx

        export_onnx(model, output, module=_module(network), dense=dense)
    else:
        from art_atmc.artefact.export import export_npz, export_state_dict

        {Format.state_dict: export_state_dict, Format.npz: export_npz}[kind](model, output)
    typer.echo(f"{output}: {output.stat().st_size:,} bytes ({file}: {file.stat().st_size:,})")


@app.command()
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

    from art_atmc import CompressedModel
    from art_atmc.artefact import latency

    torch.set_num_threads(threads)
    rows = latency.compare(CompressedModel.load(file), _module(network), seconds=seconds)
    if json:
        typer.echo(dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        Console().print(latency.table(rows))


plugins = typer.Typer(no_args_is_help=True, help="The constraints that installed distributions bring.")
app.add_typer(plugins, name="plugins")
Name = Annotated[str, typer.Argument(help="A name that `plugins list` shows.", show_default=False)]


@plugins.command("list")
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


@plugins.command()
def info(name: Name) -> None:
    """Show what a constraint is and which fields it takes."""
    from art_atmc.plugins import describe

    typer.echo(str(describe(name)))


@plugins.command()
def check(constraint: Annotated[str, typer.Argument(help="name:field=value,...", show_default=False)]) -> None:
    """Run the conformance kit on a constraint."""
    from art_atmc.plugins import parse
    from art_atmc.testing import check_constraint

    made = parse(constraint)
    try:
        check_constraint(made)
    except AssertionError as error:
        raise ValueError(f"{made} breaks a law: {error}") from None
    typer.echo(f"{made} obeys the laws of a constraint")


def _module(reference: str | None) -> Any:
    """The network that ``package.module:function`` builds; modules of the working folder are found too."""
    if reference is None:
        return None
    module, colon, function = reference.partition(":")
    if not colon:
        raise ValueError(f"`--network` must be package.module:function, got {reference}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`--network` {reference} can't be imported: {error}") from None


def main() -> None:
    """Run a command; errors of the user are one sentence on stderr and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
        typer.echo(f"art-atmc: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
