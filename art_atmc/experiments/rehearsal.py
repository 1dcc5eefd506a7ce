"""A dry run on the untrained network, so that what would end a long training ends the first second of it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from art_atmc.data import Dataset
from art_atmc.evaluation.refusals import checked, left_out
from art_atmc.experiments.settings import Settings
from art_atmc.experiments.suite import suite
from art_atmc.experiments.train_and_test import compressed, fit, new_trainer, restored
from art_atmc.files.model import CompressedModel

__all__ = ["rehearse"]

EXAMPLES: Final = 4
FILE: Final = ".rehearsal.atmc"


def rehearse(settings: Settings, dataset: Dataset, folder: Path) -> None:
    """Do once, on few examples, all that a training leads to: train, enforce, encode, write, read, test.

    Takes about as long as a few steps. The file that it writes into ``folder`` is as large as any that follows from a
    dense network, and is taken away again.

    :param folder: where the networks will lie; made where it is missing.
    :raises ValueError: naming the step that fails and why; nothing was trained then.
    :raises OSError: when the file can't be written.
    :raises ImportError: when an attack of the suite needs an extra that is not installed.
    """
    x, y = dataset.x_train[:EXAMPLES], dataset.y_train[:EXAMPLES]
    file = folder / FILE
    with _step(settings, "trained"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so short a run
        trainer = new_trainer(settings, dataset, verbose=False)
        fit(trainer, dataclasses.replace(settings, epochs=1, batch_size=EXAMPLES), (x, y, x, y))
    with _step(settings, "encoded"):
        model = compressed(trainer, settings)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        model.save(file)
        with _step(settings, "restored from its file"):
            classifier = restored(CompressedModel.load(file), settings, dataset)
    finally:
        file.unlink(missing_ok=True)
    with _step(settings, "tested"):
        attacks = suite(settings)
        left_out(attacks, *checked(classifier, dataset.x_test[:2], dataset.y_test[:2], attacks, None))


@contextmanager
def _step(settings: Settings, what: str) -> Iterator[None]:
    """A network may be anybody's code, and raise anything."""
    try:
        yield
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"a dry run shows that {settings.recipe} on the network {settings.network} can't be {what}: {reason}"
        ) from error
