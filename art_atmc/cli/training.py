"""``art-atmc train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


# Optional[...] in place of `| None`: typer reads the annotations at run time.
def train(
    data: Annotated[str, typer.Option(help="digits, mnist, cifar10, or a .npz with x_train, y_train, x_test, y_test.")],
    output: Annotated[Path, typer.Option(help="Folder for metrics.json, history.jsonl and the weights.")],
    data_dir: Annotated[Optional[Path], typer.Option(help="Folder of the files of mnist or cifar10.")] = None,  # noqa: UP045
    network: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="digits-cnn, lenet, lenet-relu, resnet18, resnet34, wrn-16-8, or package.module:function of your own, "
            "which returns a module; by default one that suits the data."
        ),
    ] = None,
    eps: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Radius of the attack; by default 0.1 for digits, 76/255 for mnist, 8/255 else."),
    ] = None,
    eps_step: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Step; by default 1.25 eps / max-iter, and 2.5 eps / test-max-iter in the final test."),
    ] = None,
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
    augment: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(help="Shift and mirror training images at random; by default for cifar10."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    seeds: Annotated[int, typer.Option(help="Repeat with this many seeds and show the spread.")] = 1,
    dense: Annotated[bool, typer.Option(help="Train the dense network too, for comparison.")] = True,
    threads: Annotated[int, typer.Option(help="CPU threads; one is fastest for small networks.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in an output folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train a dense and a compressed network adversarially, and compare them on test data once."""
    settings = {k: v for k, v in locals().items() if k not in ("output", "seeds", "threads", "overwrite", "quiet")}
    import torch

    from art_atmc.experiments.experiment import Experiment
    from art_atmc.experiments.seeds import repeat

    torch.set_num_threads(threads)
    settings |= {"constraint": tuple(constraint or ()), "ignore": tuple(ignore or ())}
    experiment = Experiment(**settings)
    if seeds == 1:
        experiment.run(output, overwrite=overwrite, verbose=not quiet)
    else:
        repeat(experiment, output, seeds, overwrite=overwrite, verbose=not quiet)
