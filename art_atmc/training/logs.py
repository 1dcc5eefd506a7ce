"""Figures of a fit for files and dashboards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

from art_atmc.support.atomic import write_file
from art_atmc.support.reading import readable, validated
from art_atmc.training.callbacks import Callback
from art_atmc.training.run import Run

__all__ = ["EarlyStopping", "JSONLines", "TensorBoard"]


@final
class JSONLines(Callback):
    """One line of JSON an epoch, written as soon as the epoch ends; a fit that goes on continues its file.

    :param path: of the file; its folder is made where it is missing.
    :param labels: further values of every line, such as the name of the network.

    >>> JSONLines("runs/history.jsonl", model="dense").labels
    {'model': 'dense'}
    """

    main_only: ClassVar[bool] = True

    def __init__(self, path: str | Path, **labels: str | float) -> None:
        self.path, self.labels = Path(path), labels

    def on_train_start(self, run: Run) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The history of the run is the truth: epochs after its checkpoint are trained again, and a process may have
        # been killed between the checkpoint and the line.
        with readable(self.path, "a log of epochs", "delete it or choose another file"):
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
            others = [line for line in lines if not self._ours(validated(dict[str, Any], line))]
        ours = [json.dumps({**self.labels, **row}) for row in run.history]
        write_file(self.path, "".join(f"{line}\n" for line in [*others, *ours]))

    def on_epoch_end(self, run: Run, row: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**self.labels, **row}) + "\n")

    def _ours(self, row: Mapping[str, Any]) -> bool:
        return all(row.get(name) == value for name, value in self.labels.items())


@final
class EarlyStopping(Callback):
    """Ends a fit when the validation robust accuracy has not risen for some epochs.

    :param patience: epochs without a better one before the fit ends, at least 1.
    :param after: share of the run that is always trained: while constraints tighten, accuracies fall by themselves.
    :raises ValueError: for numbers out of range; when the fit starts, without validation data.

    >>> EarlyStopping(patience=5).after
    0.8
    """

    def __init__(self, patience: int, *, after: float = 0.8) -> None:
        if patience < 1 or not 0 <= after < 1:
            raise ValueError(f"`patience` must be at least 1 and `after` in [0, 1), got {patience} and {after}")
        self.patience, self.after = patience, after
        self.best, self.waited = -1.0, 0

    def on_epoch_end(self, run: Run, row: Mapping[str, float]) -> None:
        if "robust_accuracy" not in row:
            raise ValueError("early stopping needs validation data; give `validation_data`, or leave it out")
        if run.epoch <= self.after * run.epochs:
            return
        better = row["robust_accuracy"] > self.best
        self.best, self.waited = max(self.best, row["robust_accuracy"]), 0 if better else self.waited + 1
        if self.waited >= self.patience:
            run.stop(f"no better robust accuracy for {self.patience} epochs")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


@final
class TensorBoard(Callback):
    """Figures of every epoch for TensorBoard: all of the history, images per second, the density of every weight, and a
    histogram of its non-zero values, in which a codebook shows as a few bars.

    :param folder: for the event files.
    :raises ImportError: without the package, naming the extra.
    """

    main_only: ClassVar[bool] = True

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"TensorBoard's files need the package tensorboard ({error}); pip install 'art-atmc[tensorboard]'"
            ) from None
        self.writer: Any = SummaryWriter(str(folder))

    def on_epoch_end(self, run: Run, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, int(row["epoch"]))
        self.writer.add_scalar("images_per_second", float(run.sums[2]) / row["seconds"], int(row["epoch"]))
        for name, parameter in run.model.named_parameters():
            if parameter.dim() > 1:
                values = parameter.detach()
                kept = values[values != 0]
                self.writer.add_scalar(f"density/{name}", kept.numel() / max(values.numel(), 1), int(row["epoch"]))
                if kept.numel():
                    self.writer.add_histogram(f"values/{name}", kept, int(row["epoch"]))

    def close(self) -> None:
        self.writer.flush()
