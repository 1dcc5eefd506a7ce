"""The command line. Torch and ART are imported by the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

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
    density: Annotated[float, typer.Option(help="Share of the weights that is kept, in (0, 1].")] = 0.05,
    bits: Annotated[int, typer.Option(help="Bits of each codebook, 1 to 16; 32 for no codebook.")] = 4,
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
    Experiment(**settings).run(output, overwrite=overwrite, verbose=not quiet)


def main() -> None:
    """Run a command; errors of the user are one sentence on stderr and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        typer.echo(f"art-atmc: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
