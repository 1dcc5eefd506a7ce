"""What a path on the command line names: a compressed model, a run of ``train`` or a network of a study."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any, final

from art.estimators.classification import PyTorchClassifier
from safetensors.torch import load_file
from torch import nn

from art_atmc.files.model import CompressedModel

__all__ = ["Subject", "subject"]


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


def subject(path: Path, module: nn.Module | None = None) -> Subject:
    """Read the classifier that ``path`` names.

    :param path: an ``.atmc`` file, the output folder of ``train``, or a network's folder in that of ``sweep``.
    :param module: the network of a file that names none.
    :raises FileNotFoundError: when it is none of them.
    """
    if path.is_file():
        return Subject(CompressedModel.load(path).classifier(module))
    if (path / "metrics.json").is_file():
        settings = json.loads((path / "metrics.json").read_text())["settings"]
        small = CompressedModel.load(path / "compressed.atmc")
        plain = None if small.manifest.network else copy.deepcopy(module)
        return Subject(
            small.classifier(module),
            _dense(path / "dense.safetensors", small, plain),
            settings["data"],
            Path(settings["data_dir"]) if settings["data_dir"] else None,
            settings["eps"],
            settings["norm"],
        )
    if (path / "point.json").is_file():
        point: dict[str, Any] = json.loads((path / "point.json").read_text())
        classifier = CompressedModel.load(path / "model.atmc").classifier(module)
        data = point["data"].partition("-")[0]
        return Subject(classifier, None, data, None, point["eps"], point["norm"])
    raise FileNotFoundError(
        f"{path} is no .atmc file, and no folder with metrics.json (of train) or point.json (of sweep)"
    )


def _dense(path: Path, small: CompressedModel, module: nn.Module | None) -> PyTorchClassifier | None:
    if not path.is_file():
        return None
    model = module or small.built()
    model.load_state_dict(load_file(path))
    limits = small.manifest.clip_values
    shape = small.input_shape()
    return PyTorchClassifier(
        model.eval(), nn.CrossEntropyLoss(), shape, small.manifest.nb_classes, clip_values=limits, preprocessing=None
    )
