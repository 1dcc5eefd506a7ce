"""``art-atmc evaluate``, ``sweep``, ``report`` and ``reproduce``: figures one can trust."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from art_atmc.cli.artefact import Network, load_network

DataDir = Annotated[Optional[Path], typer.Option(help="Folder of the files of mnist or cifar10.")]  # noqa: UP045
Threads = Annotated[int, typer.Option(help="CPU threads; one is fastest for small networks.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


class Suite(str, enum.Enum):
    """What to attack with."""

    quick = "quick"
    standard = "standard"
    thorough = "thorough"


class Schedule(str, enum.Enum):
    """How recipes are put into epochs."""

    matched = "matched"
    reference = "reference"


def evaluate(
    path: Annotated[
        Path, typer.Argument(help="An .atmc file, or a folder that train or sweep wrote.", show_default=False)
    ],
    suite: Annotated[Suite, typer.Option(help="How thorough.")] = Suite.quick,
    data: Annotated[Optional[str], typer.Option(help="As for train; by default what it was trained on.")] = None,  # noqa: UP045
    data_dir: DataDir = None,
    eps: Annotated[Optional[float], typer.Option(help="Radius; by default that of the training.")] = None,  # noqa: UP045
    norm: Annotated[Optional[str], typer.Option(help="inf, 2 or 1; by default that of the training.")] = None,  # noqa: UP045
    examples: Annotated[Optional[int], typer.Option(help="How many test examples; by default all.")] = None,  # noqa: UP045
    dense: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Compressed model or folder of the network to transfer examples from."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file; an interrupted evaluation goes on from it.")] = None,
    network: Network = None,
    batch_size: Annotated[int, typer.Option(help="Examples at a time.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    threads: Threads = 1,
    quiet: Quiet = False,
) -> None:
    """Attack a network with a suite, on test data, and check whether the figures can be believed."""
    import torch
    from rich.console import Console

    from art_atmc.data import load
    from art_atmc.evaluation import SUITES
    from art_atmc.evaluation import evaluate as run
    from art_atmc.experiments.folder import subject

    torch.set_num_threads(threads)
    tested = subject(path, load_network(network))
    other = tested.dense if dense is None else subject(dense, load_network(network)).classifier
    data, eps, norm = data or tested.data, eps or tested.eps, norm or tested.norm or "inf"
    if data is None or eps is None:
        raise ValueError(f"{path} does not say what it was trained on; give --data and --eps")
    dataset = load(data, data_dir or tested.data_dir)
    x, y = dataset.x_test[:examples], dataset.y_test[:examples]
    steps = 16 if dataset.name == "mnist" else 7
    result = run(
        tested.classifier,
        x,
        y,
        suite=SUITES[suite.value](eps, float(norm), steps),
        dense=other,
        batch_size=batch_size,
        seed=seed,
        checkpoint=output,
        verbose=not quiet,
    )
    Console().print(result)


def sweep(
    data: Annotated[str, typer.Option(help="digits, mnist, cifar10, or a .npz as for train.")],
    output: Annotated[Path, typer.Option(help="Folder of the networks; several processes may fill one.")],
    data_dir: DataDir = None,
    recipe: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="ND, DA, NAP, AP, AL0, ALR, ATMC-32 or ATMC-b; may be repeated; by default all but ND."),
    ] = None,
    density: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(help="Share of the weights that is kept; may be repeated. By default 0.1, 0.05, 0.02."),
    ] = None,
    bits: Annotated[Optional[list[int]], typer.Option(help="Of ATMC-b; may be repeated. By default 4.")] = None,  # noqa: UP045
    seeds: Annotated[int, typer.Option(help="Train everything this many times.")] = 1,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    search: Annotated[
        int, typer.Option(help="In place of the grid: networks of a search between the least and greatest sizes.")
    ] = 0,
    schedule: Annotated[
        Schedule, typer.Option(help="The same epochs for all, or the stages of the released code.")
    ] = Schedule.matched,
    epochs: Annotated[int, typer.Option(help="Of each network in all (matched), or of each stage (reference).")] = 30,
    network: Annotated[Optional[str], typer.Option(help="As for train.")] = None,  # noqa: UP045
    eps: Annotated[Optional[float], typer.Option(help="Radius of the attack, as for train.")] = None,  # noqa: UP045
    max_iter: Annotated[int, typer.Option(help="Steps of the attack in training.")] = 7,
    test_max_iter: Annotated[Optional[int], typer.Option(help="Steps in the test; by default max-iter.")] = None,  # noqa: UP045
    norm: Annotated[str, typer.Option(help="inf, 2 or 1.")] = "inf",
    clean_share: Annotated[float, typer.Option(help="Share of the clean loss, in [0, 1).")] = 0.0,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start of the cosine.")] = 0.05,
    suite: Annotated[
        str, typer.Option(help="Test with PGD, the paper's attack and Square (test), or quick, standard, thorough.")
    ] = "test",
    threads: Threads = 1,
    quiet: Quiet = False,
) -> None:
    """Train and test recipes at many sizes; goes on where an interrupted sweep stopped."""
    import torch
    from rich.console import Console

    from art_atmc.experiments import recipes, reproduce, study
    from art_atmc.experiments import sweep as points
    from art_atmc.experiments.experiment import Experiment

    torch.set_num_threads(threads)
    settings = {k: v for k, v in locals().items() if k in _SETTINGS}
    conditions = study.Study(Experiment(**settings), output, recipes.Schedule(schedule.value), suite, verbose=not quiet)
    densities, widths = density or [0.1, 0.05, 0.02], bits or [4]
    if search:
        wanted = points.Search(
            (recipe or ["ATMC-b"])[0], (min(densities), max(densities)), (min(widths), max(widths)), search, seed
        )
        found = points.search(conditions, wanted)
    else:
        names = recipe or [name for name in recipes.RECIPES if name != "ND"]
        found = points.sweep(conditions, conditions.grid(names, densities, widths, range(seed, seed + seeds)))
    Console().print(reproduce.table(reproduce.distances(found)))


def report(
    folder: Annotated[Path, typer.Argument(help="The output of sweep or reproduce.", show_default=False)],
    output: Annotated[Optional[Path], typer.Option(help="Folder of the page; by default the same one.")] = None,  # noqa: UP045
) -> None:
    """Write one HTML page, with pictures, about all networks of a folder."""
    from art_atmc.experiments.report import write

    typer.echo(str(write(folder, output)))


def reproduce(
    panel: Annotated[str, typer.Argument(help="mnist or cifar10.", show_default=False)],
    data_dir: Annotated[Path, typer.Option(help="Folder of the data's files.")],
    output: Annotated[Path, typer.Option(help="Folder of the networks; several processes may fill one.")],
    budget: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Epochs of every network in all; by default 50 for mnist, 200 for cifar10."),
    ] = None,
    max_iter: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Steps of the attack in training, to save time; by default the paper's, as in the test."),
    ] = None,
    recipe: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="May be repeated; by default DA and ATMC-b."),
    ] = None,
    density: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(help="May be repeated; by default those of the paper's points."),
    ] = None,
    bits: Annotated[int, typer.Option(help="Of ATMC-b.")] = 8,
    seeds: Annotated[int, typer.Option(help="Train everything this many times.")] = 1,
    schedule: Annotated[Schedule, typer.Option(help="As for sweep.")] = Schedule.matched,
    threads: Threads = 1,
    quiet: Quiet = False,
) -> None:
    """Train a panel of the paper's main figure, and measure the distance to its points."""
    import torch
    from rich.console import Console

    from art_atmc.experiments import recipes, study
    from art_atmc.experiments import reproduce as panels
    from art_atmc.experiments.sweep import sweep as run

    torch.set_num_threads(threads)
    if panel not in panels.PANELS:
        raise ValueError(f"there is no panel {panel!r}; there are {', '.join(panels.PANELS)}")
    wanted = panels.PANELS[panel]
    conditions = study.Study(
        wanted.experiment(data_dir, budget, max_iter), output, recipes.Schedule(schedule.value), verbose=not quiet
    )
    stages = conditions.grid(recipe or ["DA", "ATMC-b"], density or wanted.densities, [bits], range(seeds))
    rows = panels.distances(run(conditions, stages))
    (output / "distances.md").write_text(panels.markdown(rows))
    Console().print(panels.table(rows))


_SETTINGS = (
    "data", "data_dir", "network", "eps", "max_iter", "test_max_iter", "norm", "clean_share", "epochs", "batch_size",
    "lr",
)  # fmt: skip
