"""A dense and a compressed network side by side: trained under the same conditions, and tested once each."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, final

import torch
from pydantic import ConfigDict
from rich.table import Table

from art_atmc.compression.constraints import Sparsity
from art_atmc.compression.paper_size import tensor_sizes
from art_atmc.data import load
from art_atmc.experiments.folder import METRICS, SETTINGS, check_conditions, claim, lock
from art_atmc.experiments.point import Point
from art_atmc.experiments.rehearsal import rehearse
from art_atmc.experiments.settings import Settings
from art_atmc.experiments.train_and_test import (
    EVALUATION,
    HISTORY,
    MODEL,
    POINT,
    finished,
    read_history,
    train_and_test,
)
from art_atmc.files.model import CompressedModel
from art_atmc.files.state_dict import export_state_dict
from art_atmc.networks.by_name import require_fit
from art_atmc.support.atomic import write_file
from art_atmc.support.reading import read_json
from art_atmc.support.terminal import figures
from art_atmc.support.versions import versions

__all__ = ["compare"]

KINDS: Final = ("dense", "compressed")


@final
@dataclasses.dataclass(frozen=True)
class _Earlier:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    machine: dict[str, Any]


def compare(
    settings: Settings, output: Path, *, dense: bool = True, overwrite: bool = False, verbose: bool = True
) -> dict[str, Any]:
    """Train and test the network of ``settings``, and beside it a dense one.

    Each has a folder of its own in ``output``, which :func:`~art_atmc.experiments.train_and_test.train_and_test` fills.
    An interrupted call goes on where it was: a network that is finished is not trained again. At the end ``output``
    holds the compressed network as ``compressed.atmc``, the dense weights as ``dense.safetensors``, the epochs of both
    as ``history.jsonl``, and ``metrics.json``, which says that all are complete.

    :param dense: whether to train the dense network too.
    :param overwrite: begin again, whatever the folder holds.
    :returns: the content of ``metrics.json``.
    :raises ValueError: when the folder holds networks of other settings, listing the differences.
    """
    wanted = {"dense": settings.dense()} if dense else {}
    wanted["compressed"] = settings
    plain = settings.plain()
    conditions = {name: value for name, value in plain.items() if name != "data_dir"}
    if not overwrite:
        _check_folder(output, conditions)
    unfinished = {kind: one for kind, one in wanted.items() if overwrite or not finished(output / kind)}
    if unfinished:
        dataset = load(settings.data, settings.data_dir)
        require_fit(settings.network, dataset.x_train.shape[1:], dataset.nb_classes, dataset.name)
        for kind, one in unfinished.items():
            if overwrite or not (output / kind / MODEL).exists():
                rehearse(one, dataset, output)
        if overwrite:  # not before it is known that something can take the place
            _clear(output)
        claim(output / SETTINGS, conditions, {"data_dir": plain["data_dir"]})
        for kind, one in unfinished.items():
            with lock(output / kind):
                train_and_test(one, output / kind, dataset, verbose=verbose)
    points = {kind: Point.load(output / kind) for kind in wanted}
    metrics: dict[str, Any] = {
        "schema": 1,
        "settings": plain,
        "machine": _machine(output / METRICS),
        "data": _shares(points["compressed"]),
        **{kind: _figures(wanted[kind], point, output / kind) for kind, point in points.items()},
    }
    rows = [{"model": kind, **row} for kind in points for row in read_history(output / kind)]
    write_file(output / HISTORY, "".join(json.dumps(row) + "\n" for row in rows))
    write_file(output / "compressed.atmc", (output / "compressed" / MODEL).read_bytes())
    if dense:
        export_state_dict(CompressedModel.load(output / "dense" / MODEL), output / "dense.safetensors")
        metrics["dense"]["file_bytes"] = (output / "dense.safetensors").stat().st_size
    write_file(output / METRICS, json.dumps(metrics, indent=2) + "\n")
    return metrics


def _check_folder(output: Path, conditions: Mapping[str, Any]) -> None:
    """Refuse a folder of other settings, and one that something else has filled."""
    if (output / METRICS).exists() and not (output / SETTINGS).exists():
        raise FileExistsError(f"{output} holds the results of another run; choose another `output`, or `overwrite`")
    check_conditions(output / SETTINGS, conditions)


def _clear(output: Path) -> None:
    """Take away what :func:`compare` wrote, and nothing else."""
    of_network = (POINT, EVALUATION, MODEL, HISTORY)
    names = METRICS, SETTINGS, HISTORY, "compressed.atmc", "dense.safetensors"
    for name in (*names, *(f"{kind}/{file}" for kind in KINDS for file in of_network)):
        (output / name).unlink(missing_ok=True)


def _figures(settings: Settings, point: Point, folder: Path) -> dict[str, Any]:
    """A network's part of ``metrics.json``."""
    weights = CompressedModel.load(folder / MODEL).weights()
    budgets = [c.budget(weights) for c in settings.constraints if isinstance(c, Sparsity)]
    figures = {
        "clean_accuracy": point.clean.share,
        "clean_interval": _rounded(point.clean.interval),
        "robust_accuracy": point.robust.share,
        "robust_interval": _rounded(point.robust.interval),
        "attack": {"name": "PGD", **dataclasses.asdict(settings.test_attack), "norm": settings.norm},
        "attacks": {name: accuracy.share for name, accuracy in point.attacks.items()},
        "nnz": point.nnz,
        "dense_size": point.dense_size,
        "paper_bits": round(point.paper_ratio * 32 * point.dense_size),
        "seconds": point.seconds,
        "file_bytes": point.file_bytes,
        "doubts": list(point.doubts),
    }
    if not settings.constraints:
        return figures
    return figures | {
        "k": budgets[0] if budgets else point.dense_size,
        "paper_ratio": point.paper_ratio,
        "tensors": [dataclasses.asdict(size) for size in tensor_sizes(weights)],
    }


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(bound, 4) for bound in interval]


def _shares(point: Point) -> dict[str, Any]:
    n = point.train_examples, point.validation_examples, point.robust.n
    return {"name": point.data, **dict(zip(("train", "validation", "test"), n, strict=True))}


def _machine(file: Path) -> dict[str, Any]:
    """Where the networks were trained: this machine, unless an earlier call that finished them says otherwise."""
    if file.exists():
        remedy = "delete it and start the same command again"
        return read_json(file, _Earlier, "the metrics of art-atmc train", remedy).machine
    return {
        **versions(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def table(metrics: Mapping[str, Any]) -> Table:
    """For a terminal of 80 columns: one row a network, and what speaks against one."""
    kinds = [kind for kind in KINDS if kind in metrics]
    attack, names = metrics[kinds[0]]["attack"], list(metrics[kinds[0]]["attacks"])
    test = "this attack alone; art-atmc evaluate has stronger ones" if len(names) == 1 else ", ".join(names)
    doubts = "".join(f"\n{kind}: {sentence}" for kind in kinds for sentence in metrics[kind]["doubts"])
    made = figures(
        f"{metrics['data']['name']}, {metrics['data']['test']} test images, PGD eps {attack['eps']:.3g}, "
        f"{attack['max_iter']} steps, norm {attack['norm']}",
        f"codes: most non-zero values in a tensor; paper: its count, without positions\nrobust: against {test}{doubts}",
        ("network", "clean", "robust", "non-zeros", "codes", "paper", "file", "seconds"),
    )
    for kind in kinds:
        row = metrics[kind]
        made.add_row(
            kind,
            f"{row['clean_accuracy']:.1%}",
            f"{row['robust_accuracy']:.1%}",
            f"{row['nnz']:,}",
            str(max((t["distinct"] for t in row["tensors"]), default=0)) if "tensors" in row else "",
            f"{row['paper_bits'] / 8000:,.1f} kB",
            f"{row['file_bytes'] / 1000:,.1f} kB",
            f"{row['seconds']:,.0f}",
        )
    return made
