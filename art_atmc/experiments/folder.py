"""Folders of trained networks: under which conditions they are filled, by whom, and what a path in them names."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, final

from art.estimators.classification import PyTorchClassifier
from filelock import FileLock
from pydantic import ConfigDict
from torch import nn

from art_atmc.experiments.point import Point
from art_atmc.files.model import CompressedModel
from art_atmc.networks.by_name import import_network, is_ours
from art_atmc.support.atomic import write_file
from art_atmc.support.reading import read_json

__all__ = ["Subject", "check_conditions", "claim", "lock", "model_file", "subject"]

STUDY: Final = "study.json"
SETTINGS: Final = "settings.json"
METRICS: Final = "metrics.json"


def lock(folder: Path) -> FileLock:
    """Of a network's folder, which is made; whoever trains in it holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".lock")


def check_conditions(file: Path, conditions: Mapping[str, Any]) -> None:
    """Compare conditions with those that ``file`` says its folder was filled under, where it exists.

    :raises ValueError: listing the differences.
    """
    if not file.exists():
        return
    before = read_json(file, dict[str, Any], "the conditions of a folder of art-atmc", "choose another folder")
    other = [f"{name}={before.get(name)!r}, not {new!r}" for name, new in conditions.items() if before.get(name) != new]
    if other:
        raise ValueError(f"{file.parent} holds networks with {'; '.join(other)}; choose another `output`")


def claim(file: Path, conditions: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Say in ``file`` under which conditions its folder is filled, for as long as it is.

    :param notes: what is written too, but may differ next time.
    :raises ValueError: when it is filled under others, see :func:`check_conditions`.
    """
    with lock(file.parent):
        check_conditions(file, conditions)
        write_file(file, json.dumps({**conditions, **notes}, indent=2) + "\n")


@final
@dataclasses.dataclass(frozen=True)
class Subject:
    """A classifier and what its files say of how it was trained; None where they say nothing.

    :param dense: the dense network that was trained beside it, for transferred examples.
    """

    classifier: PyTorchClassifier
    dense: PyTorchClassifier | None = None
    data: str | None = None
    data_dir: Path | None = None
    eps: float | None = None
    norm: str | None = None


@final
@dataclasses.dataclass(frozen=True)
class _Trained:
    """What is read of a file that ``train`` or ``sweep`` wrote."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    data: str
    network: str
    eps: float
    norm: str
    data_dir: Path | None = None


@final
@dataclasses.dataclass(frozen=True)
class _Metrics:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    settings: _Trained


def model_file(path: Path) -> Path:
    """The compressed model that ``path`` names: the file itself, or that of a folder of ``train``, or of one network of
    ``sweep``.

    :raises ValueError: for a folder of several networks, naming some, and one of none.
    """
    if not path.is_dir():
        return path
    if (path / METRICS).is_file():
        return path / "compressed.atmc"
    if (path / "model.atmc").is_file():
        return path / "model.atmc"
    if several := sorted(found.parent.name for found in path.glob("*/model.atmc")):
        some = ", ".join(several[:3]) + (f" and {len(several) - 3} more" if len(several) > 3 else "")
        raise ValueError(f"{path} holds {len(several)} networks; name one of its folders: {some}")
    if several := sorted(found.parent.name for found in path.glob(f"*/{METRICS}")):
        raise ValueError(f"{path} holds runs of several seeds; name one of its folders: {', '.join(several)}")
    raise FileNotFoundError(f"{path} holds no network; fill it with art-atmc train or sweep, or name an .atmc file")


def subject(path: Path, module: nn.Module | None = None) -> Subject:
    """Read the classifier that ``path`` names, see :func:`model_file`.

    :param module: the network of a file that names none. Where a folder names the user's own, it is imported.
    :raises FileNotFoundError: when there is none.
    :raises ValueError: for files that are damaged or of somebody else, naming them.
    """
    file = model_file(path)
    small = CompressedModel.load(file)
    trained = None if file == path else _trained(path)
    if module is None and trained and small.manifest.network is None and not is_ours(trained.network):
        module = import_network(trained.network)
    plain = copy.deepcopy(module)
    classifier = small.classifier(module)
    if trained is None:
        return Subject(classifier)
    beside = path / "dense" / "model.atmc"
    dense = CompressedModel.load(beside).classifier(plain) if beside.is_file() else None
    return Subject(classifier, dense, trained.data, trained.data_dir, trained.eps, trained.norm)


def _trained(folder: Path) -> _Trained:
    if (folder / METRICS).is_file():
        remedy = "choose a folder that art-atmc train wrote"
        return read_json(folder / METRICS, _Metrics, "the metrics of art-atmc train", remedy).settings
    point = Point.load(folder)
    study = folder.parent / STUDY
    if study.is_file():  # the point has the name of the data, the study what it was loaded by
        return read_json(study, _Trained, "the conditions of a study", "give `data`, `eps` and the file itself")
    return _Trained(point.data, point.network, point.eps, point.norm)
