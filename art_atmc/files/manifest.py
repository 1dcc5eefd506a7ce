"""What a compressed model says of itself: its constraints, and what an ART classifier around it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated, Any, Final, TypeAlias, final

import numpy as np
from art.estimators.classification import PyTorchClassifier
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from rich.table import Table

from art_atmc.classifiers.network import standardisation
from art_atmc.support.terminal import plain_text

__all__ = ["Manifest", "classifier_fields", "classifier_options", "library_versions", "plain_json"]

DEFENCES: Final = ("preprocessing_defences", "postprocessing_defences")  # arbitrary code, which no file of ours holds

MAX_CONSTRAINTS: Final = 100

Limit: TypeAlias = float | list[float]
Size: TypeAlias = Annotated[int, Field(gt=0, lt=2**31)]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")


@final
class Manifest(Record):
    """What a person wants to know of the file, and what an ART classifier is made of where the network is one.

    :param constraints: by their ``repr``.
    :param ignore: the patterns of layers that the constraints left alone.
    :param network: a name in :data:`art_atmc.networks.NETWORKS`; None where the user supplies the module.
    :param members: networks within the network by the names of their modules, such as those of an ensemble, each with
        the constraints that hold for it alone.
    :param input_shape: of one example; None where it is not known.
    :param nb_classes: number of outputs of a classifier; None for any other network, which has no field below but the
        last two.
    :param clip_values: smallest and largest input, numbers or one for each channel.
    :param channels_first: whether inputs are (C, H, W) rather than (H, W, C).
    :param preprocessing: mean and standard deviation that the classifier standardises inputs with.
    :param supplied: arguments of the classifier that a file can't hold, such as defences; the user hands them over.
    :param metrics: figures of the user, such as accuracies.
    :param versions: of the libraries that wrote the file.
    """

    constraints: Annotated[list[str], Field(max_length=MAX_CONSTRAINTS)] = []
    ignore: list[str] = []
    network: str | None = None
    members: dict[str, Manifest] = {}
    input_shape: list[Size] | None = None
    nb_classes: Size | None = None
    clip_values: tuple[Limit, Limit] | None = None
    channels_first: bool = True
    preprocessing: tuple[Limit, Limit] | None = None
    supplied: list[str] = []
    metrics: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}

    @property
    def classifies(self) -> bool:
        """Whether the network is an ART classifier's."""
        return self.nb_classes is not None and self.input_shape is not None

    def table(self) -> Table:
        """For a terminal: a row for each field."""
        table = Table(show_header=False, box=None)
        for name, value in self:
            if name == "members":
                text = ", ".join(f"{key} ({', '.join(one.constraints)})" for key, one in self.members.items())
            elif isinstance(value, dict):
                text = ", ".join(f"{key} {item}" for key, item in value.items())
            elif isinstance(value, list | tuple):
                text = ", ".join(map(str, value))
            else:
                text = "" if value is None else str(value)
            if text:
                table.add_row(name.replace("_", " "), plain_text(text))
        return table


def classifier_fields(classifier: PyTorchClassifier) -> dict[str, Any]:
    """What the manifest says of an ART classifier besides its network."""
    supplied = [name for name in DEFENCES if getattr(classifier, name)]
    clip, standard = _plain_numbers(classifier.clip_values), _plain_numbers(standardisation(classifier.preprocessing))
    supplied += [] if classifier.clip_values is None or clip else ["clip_values"]
    supplied += [] if classifier.preprocessing is None or standard else ["preprocessing"]
    if standard == (0.0, 1.0):  # ART's default, which changes nothing
        standard = None
    return {
        "input_shape": [int(side) for side in classifier.input_shape],
        "nb_classes": int(classifier.nb_classes),
        "clip_values": clip,
        "channels_first": bool(classifier.channels_first),
        "preprocessing": standard,
        "supplied": supplied,
    }


def plain_json(value: Any) -> Any:
    """``value`` with numpy's numbers and arrays as JSON has them, tuples as lists, and keys as texts."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value


def library_versions() -> dict[str, str]:
    """Of the libraries that write the file."""
    packages = ("art-atmc", "adversarial-robustness-toolbox", "torch", "numpy", "constriction", "safetensors")
    return {name: version(name) for name in packages}


def classifier_options(manifest: Manifest, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a ``PyTorchClassifier``, those of the user first.

    :raises ValueError: when a setting that the file can't hold is not among ``options``.
    """
    if not manifest.classifies:
        raise ValueError("the file holds no classifier but another network; put it into a module with restore(module)")
    if missing := [name for name in manifest.supplied if name not in options]:
        raise ValueError(f"the classifier was made with {missing}, which the file can't hold; hand them over again")
    return {
        "channels_first": manifest.channels_first,
        "clip_values": _arrays(manifest.clip_values),
        "preprocessing": _arrays(manifest.preprocessing),
        **options,
    }


def _plain_numbers(pair: Any) -> tuple[Limit, Limit] | None:
    """A pair of numbers or vectors as JSON keeps it; None for anything else."""
    if not isinstance(pair, tuple | list | np.ndarray) or any(np.ndim(part) > 1 for part in pair):
        return None
    low, high = (np.asarray(part, dtype=np.float64).tolist() for part in pair)
    return low, high


def _arrays(pair: tuple[Limit, Limit] | None) -> Any:
    return None if pair is None else tuple(np.asarray(part, dtype=np.float32) for part in pair)
