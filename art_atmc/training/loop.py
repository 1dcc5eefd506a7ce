"""The training loop: epochs of attack, gradient, step and validation over the state of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from typing import Any, final

import torch
from torch import Tensor, nn

from art_atmc.attacks.base import Adversary, Problem
from art_atmc.classifiers.labels import misclassified
from art_atmc.support.randomness import draw_seed, isolated_randomness
from art_atmc.training.accuracy import counted
from art_atmc.training.batches import Batches
from art_atmc.training.run import Run

__all__ = ["Loop"]

CHECKED_EVERY = 50  # batches between two looks at whether the loss is finite: each makes a device wait


@final
@dataclasses.dataclass(frozen=True)
class Loop:
    """Minimises a run's objective, epoch by epoch.

    :param run: all that changes.
    :param problem: the network, its loss and the random starts.
    :param validation: on which the best epoch is chosen; None for none.
    :param accumulate: batches whose gradients make one step.
    :param precision: of autocast in the training steps; None for none.
    :param evaluated: layers that stay in evaluation mode, as their owner has set them.
    """

    run: Run
    problem: Problem
    batches: Batches
    validation: Batches | None
    accumulate: int
    precision: torch.dtype | None
    evaluated: tuple[nn.Module, ...]

    def train(self) -> None:
        """All epochs that are left of the run."""
        run = self.run
        try:
            for callback in run.callbacks:
                callback.on_train_start(run)
            if run.history and not run.step:  # a second fit: what is there already is a candidate
                self._validate()
            while run.epoch < run.epochs and run.stopped is None:
                self._guarded_epoch()
            for callback in run.callbacks:
                callback.on_train_end(run)
            run.pace.finish()
            run.model.eval()
        finally:
            for callback in run.callbacks:
                callback.close()

    def _guarded_epoch(self) -> None:
        """One epoch; where a number is no longer finite, all is put back to what it was before."""
        run = self.run
        safe = run.safe_point()
        started = time.perf_counter()
        try:
            run.begin_epoch()
            # Seeded again each epoch, so that our one generator is all the random state between epochs.
            with isolated_randomness(draw_seed(run.generator)):
                row = self._epoch()
                row |= self._validate()
                row |= self._validate_alternatives()
        except FloatingPointError:
            run.return_to(safe)
            raise
        row |= run.objective.figures()
        row["learning_rate"] = run.optimizer.param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - started
        run.epoch, run.batch = run.epoch + 1, 0
        run.history.append({"epoch": len(run.history) + 1, **row})
        run.pace.after_epoch(row)
        for callback in run.callbacks:
            callback.on_epoch_end(run, run.history[-1])
        self._settle()

    def _epoch(self) -> dict[str, float]:
        run = self.run
        run.starts.manual_seed(draw_seed(run.generator) + run.world.rank)
        stream = self.batches.epoch(run.generator)
        for _ in itertools.islice(stream, run.batch):  # a run that goes on within the epoch
            pass
        run.reach_position()
        for callback in run.callbacks:
            callback.on_epoch_start(run)
        for batch in stream:
            x, y = batch.x.to(run.classifier.device), batch.y.to(run.classifier.device)
            weights = None if batch.weights is None else batch.weights.to(x)
            try:
                progress = run.pace.progress(run.step, run.epoch)
                self._step(self.problem.at(batch.rows, weights, progress), x, y, batch.share)
                if run.batch % CHECKED_EVERY == 0:
                    self._require_finite()
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"epoch {len(run.history) + 1}, batch {run.batch}: {error}. The weights are those from before "
                    "this epoch"
                ) from error
            for callback in run.callbacks:
                callback.on_batch_end(run)
            self._settle()
            if run.stopped is not None:
                break
        if run.accumulating:  # the end of a loader without a length
            self._update()
        if not run.batch:
            raise ValueError("the data yielded no batch; give at least one example")
        try:
            self._require_finite()
            if not all(p.isfinite().all() for p in self.problem.network.parameters()):
                raise FloatingPointError("the last step made the weights infinite or NaN; lower the learning rate")
        except FloatingPointError as error:
            raise FloatingPointError(
                f"epoch {len(run.history) + 1}: {error}. The weights are those from before this epoch"
            ) from error
        run.world.average_(b for b in run.model.buffers() if b.is_floating_point())
        run.world.check_equal(run.model.parameters())
        loss, correct, seen = run.world.summed(run.sums).tolist()
        return {"loss": loss / seen, "train_robust_accuracy": correct / seen}

    def _step(self, problem: Problem, x: Tensor, y: Tensor, share: float) -> None:
        """The gradient of one batch, and a step of the optimizer where it completes one."""
        run = self.run
        first = run.batch - run.batch % self.accumulate
        together = self.accumulate if run.batches is None else min(self.accumulate, run.batches - first)
        if run.batch == first:
            run.pace.before_step(run.step, run.epoch)
        run.batch += 1
        run.accumulating = run.batch - first < together
        problem.network.train()
        for layer in self.evaluated:
            layer.training = False
        torch.clear_autocast_cache()  # under an autocast of the caller's it would still hold the last step's weights
        cast = contextlib.nullcontext() if self.precision is None else torch.autocast(x.device.type, self.precision)
        with cast:
            loss, logits = run.objective(problem, x, y)
        if run.batch - 1 == first:
            run.optimizer.zero_grad()
        (loss if share == together == 1 else loss * (share / together)).backward()
        if not run.accumulating:
            self._update()
        with torch.no_grad():
            correct = (~misclassified(logits, y)).sum()
            run.sums += torch.stack([loss.detach() * len(x), correct, torch.full_like(correct, len(x))]).to(run.sums)

    def _update(self) -> None:
        run, optimizer = self.run, self.run.optimizer
        run.step += 1
        run.accumulating = False
        run.world.average_(p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
        for callback in run.callbacks:
            callback.on_gradients(run)
        optimizer.step()
        run.pace.after_step()

    def _settle(self) -> None:
        for callback in self.run.callbacks:
            callback.on_settled(self.run)

    def _require_finite(self) -> None:
        run = self.run
        if not math.isfinite(value := float(run.world.summed(run.sums)[0])):
            raise FloatingPointError(f"the loss became {value}; lower the learning rate or clip gradients")

    def _validate(self) -> dict[str, float]:
        """Figures of the weights as they would be shipped, the accuracies on validation data where there is some."""
        run = self.run
        row: dict[str, float] = {}
        with contextlib.ExitStack() as shipped:
            for callback in run.callbacks:
                row |= shipped.enter_context(callback.validating(run))
            if self.validation is not None:
                # The same random starts every epoch, so that epochs differ by their weights alone.
                starts = torch.Generator(run.classifier.device).manual_seed(0)
                fixed_starts = Problem.of(run.classifier, self.problem.network, starts)
                attack = _without_memory(run.objective.attack)
                correct, run.validated = counted(fixed_starts, self.validation, None, run.world)
                robust, _ = counted(fixed_starts, self.validation, attack, run.world)
                row |= {"clean_accuracy": correct / run.validated, "robust_accuracy": robust / run.validated}
            for callback in run.callbacks:
                callback.on_validation(run, row)
        return row

    def _validate_alternatives(self) -> dict[str, float]:
        """The same figures of the weights that callbacks offer in place of those of the last step."""
        run = self.run
        row: dict[str, float] = {}
        for callback in run.callbacks:
            if callback.alternative is None:
                continue
            with callback.substituting(run) as offered:
                if offered:
                    found = self._validate()
                    row |= {f"{callback.alternative}_{name}": value for name, value in found.items()}
        return row


def _without_memory(attack: Any) -> Any:
    return attack.without_memory() if isinstance(attack, Adversary) else attack
