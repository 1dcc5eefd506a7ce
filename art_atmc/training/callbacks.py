"""What watches a fit, and acts at its seams: progress, log lines, the choice of the epoch, and what users add."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, final

from torch import Tensor
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from art_atmc.training.run import Run

__all__ = ["BestEpoch", "Callback", "LogLines", "ProgressBars"]

logger = logging.getLogger("art_atmc.training")


class Callback:
    """Watches a fit; every method does nothing unless it is overridden.

    The methods are called in this order, those of several callbacks in the order in which they are given::

        on_train_start
            on_epoch_start
                on_gradients                each batch, between backward() and the optimizer's step: clip here
                on_batch_end, on_settled    each batch
            validating(on_validation)       the weights inside are those that would be shipped
            substituting(validating(on_validation))     for each callback with an ``alternative``
            on_epoch_end, on_settled
        on_train_end                        the fit is complete
        close                               always, also after an error

    ``run`` holds all that changes: ``run.model``, ``run.optimizer``, ``run.epoch`` and ``run.batch`` (finished ones),
    ``run.step``, ``run.history``. ``run.stop("reason")`` ends the fit after the batch. A callback with a state of its
    own gives it to checkpoints by :meth:`state_dict`. Where several processes train together each has every callback,
    but for one whose ``main_only`` is set, as of one that writes.

    >>> class Clip(Callback):
    ...     def on_gradients(self, run):
    ...         torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    """

    main_only: ClassVar[bool] = False
    alternative: ClassVar[str | None] = None
    """What other weights are called that the callback offers in place of those of the last step; None for none."""

    def on_train_start(self, run: Run) -> None: ...
    def on_epoch_start(self, run: Run) -> None: ...
    def on_gradients(self, run: Run) -> None: ...
    def on_batch_end(self, run: Run) -> None: ...

    def validating(self, run: Run) -> AbstractContextManager[Mapping[str, float]]:
        """A block in which the weights are those that would be shipped; yields figures for the history."""
        return contextlib.nullcontext({})

    def substituting(self, run: Run) -> AbstractContextManager[bool]:
        """A block in which the network has the callback's alternative weights; yields whether there are any yet."""
        return contextlib.nullcontext(False)

    def on_validation(self, run: Run, row: Mapping[str, float]) -> None: ...
    def on_epoch_end(self, run: Run, row: Mapping[str, float]) -> None: ...
    def on_settled(self, run: Run) -> None:
        """After all callbacks have had their say on a batch or an epoch: a run goes on from what is held now."""

    def on_train_end(self, run: Run) -> None: ...
    def close(self) -> None: ...

    def conditions(self) -> dict[str, str]:
        """What must be the same for a fit to be taken up again, by name, in words; compared by checkpoints."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Whatever a run needs to go on as if nothing had happened: numbers, strings, tensors, and what holds them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@final
class BestEpoch(Callback):
    r"""Ends the fit on the latest epoch that validation cannot tell from the best one.

    .. math:: \max\Bigl\{ e : r_e \ge r^* - \sqrt{r^* (1 - r^*) / n} \Bigr\}

    with :math:`r_e` the robust accuracy of epoch e on the n validation examples and :math:`r^*` the highest (the
    one-standard-error rule of Breiman et al. 1984). The best of many epochs on few examples is chosen by luck, and the
    last one has had the whole schedule; with many examples an overfitted end is seen. Without validation data the last
    epoch stays.
    """

    def __init__(self) -> None:
        self.score: float | None = None
        self.weights: dict[str, Tensor] = {}

    def on_validation(self, run: Run, row: Mapping[str, float]) -> None:
        if "robust_accuracy" not in row:
            return
        score = row["robust_accuracy"]
        self.score = score if self.score is None else max(score, self.score)
        # A new best is within its own error, so what is kept always is.
        if score >= self.score - math.sqrt(self.score * (1 - self.score) / run.validated):
            self.weights = run.weights()

    def on_train_end(self, run: Run) -> None:
        if self.score is not None:
            run.model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.score = state["score"]
        self.weights = dict(state["weights"])


@final
class LogLines(Callback):
    """One line an epoch for Python's logging, as ART's trainers write."""

    main_only: ClassVar[bool] = True

    def on_epoch_end(self, run: Run, row: Mapping[str, float]) -> None:
        logger.info("epoch %s", dict(row))


@final
class ProgressBars(Callback):
    """Bars in a terminal or a notebook; where there is neither, one line an epoch, so that a log file stays short."""

    main_only: ClassVar[bool] = True

    def __init__(self) -> None:
        self.epochs: Any = None
        self.batches: Any = None

    def on_train_start(self, run: Run) -> None:
        if sys.stderr.isatty() or "notebook" in tqdm.__module__:
            self.epochs = tqdm(total=run.epochs, initial=run.epoch, desc="Epochs")

    def on_epoch_start(self, run: Run) -> None:
        if self.epochs is not None:
            self.batches = tqdm(total=run.batches, initial=run.batch, desc="Batches", leave=False)

    def on_batch_end(self, run: Run) -> None:
        if self.batches is not None:
            self.batches.update()

    def on_epoch_end(self, run: Run, row: Mapping[str, float]) -> None:
        names = ("loss", "clean_accuracy", "robust_accuracy", "violation")
        figures = {name: f"{row[name]:.3f}" for name in names if name in row}
        if self.epochs is None:
            shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
            print(f"epoch {run.epoch} of {run.epochs}: {shown}", file=sys.stderr)
        else:
            self.batches.close()
            self.epochs.set_postfix(figures)
            self.epochs.update()

    def close(self) -> None:
        for bar in (self.batches, self.epochs):
            if bar is not None:
                bar.close()
