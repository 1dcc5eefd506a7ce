"""Options that several commands have, each declared once, and groups of them that a command takes as one object."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, final, get_type_hints

import typer

if TYPE_CHECKING:
    from torch import nn

DataDir: TypeAlias = Annotated[Path | None, typer.Option(help="Folder of the files of mnist or cifar10.")]
Networks: TypeAlias = Annotated[
    Path, typer.Option(help="Folder of the networks; several processes may fill one, and it is gone on with.")
]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of everything random; with --seeds the first one.")]
Seeds: TypeAlias = Annotated[int, typer.Option(help="Repeat with this many seeds, and show the spread.", min=1)]
Threads: TypeAlias = Annotated[int, typer.Option(help="CPU threads; one is fastest for small networks.", min=1)]
Norm: TypeAlias = Literal["inf", "2", "1"]
Test: TypeAlias = Literal["pgd", "test", "quick", "standard", "thorough"]
Schedule: TypeAlias = Literal["matched", "reference"]
Training: TypeAlias = Annotated[
    Literal["paper", "fast"] | None,
    typer.Option(
        help="How weights are trained: SGD against steps from a random start (paper), or Adam against one step from "
        "each example's last perturbation (fast). Options beside it go first. By default fast for mnist, else paper."
    ),
]
Precision: TypeAlias = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(help="bfloat16 takes two thirds of the time where the processor knows it; by default float32."),
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")]
Model: TypeAlias = Annotated[
    Path,
    typer.Argument(
        help="A compressed model, such as compressed.atmc, or the folder of a network of train or sweep.",
        show_default=False,
    ),
]
OwnNetwork: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="The network of the file where it names none: package.module:function, called without arguments."
    ),
]


@final
@dataclasses.dataclass(frozen=True)
class Conditions:
    """Under what ``train`` and ``sweep`` train and test a network; None where the user says nothing.

    The names are those of :meth:`art_atmc.experiments.settings.Settings.resolved`.
    """

    data: Annotated[str, typer.Option(help="digits, mnist, cifar10, or a .npz with x_train, y_train, x_test, y_test.")]
    data_dir: DataDir = None
    training: Training = None
    precision: Precision = None
    network: Annotated[
        str | None,
        typer.Option(
            help="digits-cnn, lenet, lenet-relu, resnet18, resnet34, wrn-16-1, wrn-16-8, or package.module:function "
            "of your own, which returns a module; by default one that suits the data."
        ),
    ] = None
    eps: Annotated[
        float | None,
        typer.Option(help="Radius of the attack; by default 0.1 for digits, 76/255 for mnist, 8/255 else."),
    ] = None
    eps_step: Annotated[
        float | None,
        typer.Option(help="Its step; by default 1.25 eps / max-iter, and 2.5 eps / test-max-iter in the test."),
    ] = None
    max_iter: Annotated[int | None, typer.Option(help="Its steps in training; by default 7, or 1 (fast).")] = None
    test_max_iter: Annotated[int | None, typer.Option(help="Its steps in the test; by default max-iter.")] = None
    norm: Annotated[Norm | None, typer.Option(help="Of the attack; by default inf.")] = None
    clean_share: Annotated[float | None, typer.Option(help="Share of the clean loss, in [0, 1); by default 0.")] = None
    attack: Annotated[
        list[str] | None,
        typer.Option(help="To train against in place of PGD within --eps: name:field=value,...; may be repeated."),
    ] = None
    objective: Annotated[
        str | None,
        typer.Option(help="To train in place of adversarial training, with these attacks: name:field=value,..."),
    ] = None
    constraint: Annotated[
        list[str] | None,
        typer.Option(help="In place of --density and --bits: name:field=value,... of a plug-in; may be repeated."),
    ] = None
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of layers that stay dense and are not counted; may be repeated."),
    ] = None
    batch_size: Annotated[int | None, typer.Option(help="Examples a step; by default 64, or 32 (fast).")] = None
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; by default 0.05, or 0.002 (fast).")] = None
    average: Annotated[
        float | None,
        typer.Option(
            help="Decay of averaged weights, such as 0.998; they are validated beside those of the last step, and the "
            "better ones are kept. By default none."
        ),
    ] = None
    validation: Annotated[
        float | None,
        typer.Option(help="Share of the training data to choose the best epoch on; by default 0.1."),
    ] = None
    augment: Annotated[
        bool | None, typer.Option(help="Shift and mirror training images at random; by default for cifar10.")
    ] = None

    def chosen(self) -> dict[str, Any]:
        """What the user said, by name."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in given.items() if value is not None and value != []}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of a dataclass become one option for each field of it.

    What typer then sees is a function of the fields, in their order; what runs gets the object.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))
            continue
        kinds = get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):  # type: ignore[arg-type]
            default = parameter.empty if field.default is dataclasses.MISSING else field.default
            parameters.append(
                inspect.Parameter(field.name, parameter.KEYWORD_ONLY, annotation=kinds[field.name], default=default)
            )

    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})  # type: ignore[arg-type, operator]
        command(**given)

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def load_network(reference: str | None) -> nn.Module | None:
    """The module of ``--network``, where it is given."""
    from art_atmc.networks.by_name import import_network

    return None if reference is None else import_network(reference)
