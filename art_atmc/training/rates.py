r"""Learning rates over a run: a share of the optimizer's own rate at each moment of the run.

.. math:: \eta_t = \eta_0\, r(t / T)

with :math:`\eta_0` the rate that the optimizer was built with, T the optimizer steps of the fit and r the shape. It
adapts to the length of the run, so that a shorter trial is the same recipe, and leaves the optimizer its own rate when
the fit is over, so that a second fit begins as the first one did. Any torch scheduler is taken in its place: once an
epoch, or after each step where it is made for that or wrapped as :class:`PerStep`.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import torch

from art_atmc.support.numbers import Real, check_numbers

__all__ = ["Constant", "Cosine", "Hold", "OneCycle", "PerStep", "Rate", "Scheduler"]


@runtime_checkable
class Scheduler(Protocol):
    """Any torch learning-rate scheduler."""

    def step(self, *args: Any) -> None: ...


class Rate(abc.ABC):
    """The shape r of a learning rate over a run."""

    @abc.abstractmethod
    def share(self, progress: float) -> float:
        """Of the optimizer's own rate, at ``progress`` of the run, in [0, 1)."""


@final
@dataclasses.dataclass(frozen=True)
class Constant(Rate):
    """The optimizer's own rate throughout.

    >>> Constant().share(0.9)
    1.0
    """

    def share(self, progress: float) -> float:
        return 1.0


@final
@dataclasses.dataclass(frozen=True)
class Hold(Rate):
    r"""High until the constraints have settled, then linear to zero; the default.

    .. math:: r(p) = \min\Bigl(\frac{p}{w},\; 1,\; \frac{1 - p}{1 - h}\Bigr)

    While the density falls and the codes settle, weights must still be able to move, and a cosine has taken that away
    by then (decision 0021).

    :param hold: h, share of the run until which the rate stays high, in [0, 1).
    :param warmup: w, share of the run over which it rises from zero, in [0, hold].
    :raises ValueError: for shares out of range.

    >>> rate = Hold(hold=0.8)
    >>> rate.share(0.5), round(rate.share(0.9), 6)
    (1.0, 0.5)
    """

    hold: float = 0.5
    warmup: float = 0.0

    def __post_init__(self) -> None:
        share = Real("[0, 1)", "a rate needs 0 <= warmup <= hold < 1, shares of the run")
        check_numbers(self, warmup=share, hold=share)
        if self.warmup > self.hold:
            raise ValueError(
                f"a rate needs 0 <= warmup <= hold < 1, got warmup={self.warmup}, hold={self.hold}; they are shares of "
                "the run"
            )

    def share(self, progress: float) -> float:
        return min(_warm(progress, self.warmup), (1 - progress) / (1 - self.hold), 1.0)


@final
@dataclasses.dataclass(frozen=True)
class Cosine(Rate):
    r"""Half a cosine from the full rate to zero (Loshchilov and Hutter 2017), :math:`r(p) = (1 + \cos \pi p) / 2`.

    :param warmup: share of the run over which the rate rises from zero, in [0, 1).
    :raises ValueError: for a share out of range.

    >>> round(Cosine().share(0.5), 6)
    0.5
    """

    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, warmup=Real("[0, 1)", "it is a share of the run"))

    def share(self, progress: float) -> float:
        after = max(progress - self.warmup, 0) / (1 - self.warmup)
        return min(_warm(progress, self.warmup), (1 + math.cos(math.pi * after)) / 2)


@final
@dataclasses.dataclass(frozen=True)
class OneCycle(Rate):
    r"""Up to the full rate, then down to zero, both linear (Smith 2018; in the form of Wong et al. 2020).

    .. math:: r(p) = \min\Bigl(\frac{p}{q},\; \frac{1 - p}{1 - q}\Bigr)

    :param peak: q, share of the run at which the full rate is reached, in (0, 1).
    :raises ValueError: for a share out of range.

    >>> OneCycle(peak=0.2).share(0.1), OneCycle(peak=0.2).share(0.6)
    (0.5, 0.5)
    """

    peak: float = 0.2

    def __post_init__(self) -> None:
        check_numbers(self, peak=Real("(0, 1)", "it is a share of the run"))

    def share(self, progress: float) -> float:
        return min(_warm(progress, self.peak), (1 - progress) / (1 - self.peak))


@final
@dataclasses.dataclass(frozen=True)
class PerStep:
    """A torch scheduler that is stepped after each optimizer step in place of once an epoch.

    :param scheduler: any torch scheduler. ``OneCycleLR`` and ``CyclicLR`` need no wrapping: they are made for it.
    """

    scheduler: Scheduler


def _warm(progress: float, warmup: float) -> float:
    # Never exactly zero: the first step of a run would be lost.
    return max(progress / warmup, 1e-3) if progress < warmup else 1.0


AnyRate: TypeAlias = Rate | PerStep | Scheduler


@final
class Pace:
    """A rate as the loop drives it, of whichever kind, with its state.

    :param steps: optimizer steps of the whole fit; None where a loader has no length: then shapes move by epochs.
    :raises TypeError: for what is no rate.
    :raises ValueError: for a torch scheduler that was built for another number of steps.
    """

    def __init__(self, rate: AnyRate | None, optimizer: torch.optim.Optimizer, epochs: int, steps: int | None) -> None:
        if rate is not None and not isinstance(rate, Rate | PerStep | Scheduler):
            raise TypeError(
                f"`scheduler` must be a rate such as Hold(0.8) or Cosine(), a torch scheduler, which has a method "
                f"step(), or None for a constant rate, got {type(rate).__name__}"
            )
        self.optimizer, self.epochs, self.steps = optimizer, epochs, steps
        self.shape = rate if isinstance(rate, Rate) else None
        self.scheduler = rate.scheduler if isinstance(rate, PerStep) else None if isinstance(rate, Rate) else rate
        by_step = (torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR)
        self.per_step = isinstance(rate, PerStep) or isinstance(self.scheduler, by_step)
        self.described = repr(rate) if rate is None or self.shape is not None else type(self.scheduler).__name__
        self.own = [float(group["lr"]) for group in optimizer.param_groups]
        total = getattr(self.scheduler, "total_steps", None)
        if self.per_step and total is not None and steps is not None and total < steps:
            raise ValueError(
                f"{type(self.scheduler).__name__} was built for {total} steps, but this fit makes {steps}; build it "
                f"with total_steps={steps}, or give OneCycle(), which adapts to the run"
            )

    def progress(self, step: int, epoch: int) -> float:
        """Share of the run that is done after these optimizer steps and whole epochs."""
        return min(epoch / self.epochs if self.steps is None else step / self.steps, 1.0)

    def before_step(self, step: int, epoch: int) -> None:
        if self.shape is not None:
            for group, own in zip(self.optimizer.param_groups, self.own, strict=True):
                group["lr"] = own * self.shape.share(self.progress(step, epoch))

    def after_step(self) -> None:
        if self.per_step and self.scheduler is not None:
            self.scheduler.step()

    def after_epoch(self, row: Mapping[str, float]) -> None:
        if self.per_step or self.scheduler is None:
            return
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            # It watches for a minimum unless told otherwise, so it gets the loss; in mode "max" the accuracy.
            lowest = self.scheduler.mode == "min"
            self.scheduler.step(row["loss"] if lowest else row.get("robust_accuracy", -row["loss"]))
        else:
            self.scheduler.step()

    def finish(self) -> None:
        """Give the optimizer its own rate back, where a shape has changed it."""
        if self.shape is not None:
            for group, own in zip(self.optimizer.param_groups, self.own, strict=True):
                group["lr"] = own

    def state_dict(self) -> dict[str, Any]:
        scheduler: Any = self.scheduler
        return {"own": list(self.own), "scheduler": scheduler.state_dict() if hasattr(scheduler, "state_dict") else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.own = list(state["own"])
        if state["scheduler"]:
            scheduler: Any = self.scheduler
            scheduler.load_state_dict(state["scheduler"])
