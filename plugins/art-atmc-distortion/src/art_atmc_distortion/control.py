r"""Controllers: callbacks of a training run that move its density until a target is met.

Each measures the weights as they would be shipped, once an epoch, on validation data, and keeps what it will end on.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, final

import torch
from torch import Tensor

from art_atmc import Sparsity, Weights
from art_atmc.attacks import Problem, perturb
from art_atmc.classifiers import Network, misclassified
from art_atmc.training import Callback, Run
from art_atmc_distortion.knob import Knob
from art_atmc_distortion.targets import Fits, InfeasibleError, Smallest

__all__ = ["Controller", "FitsController", "SmallestController", "measured"]

GAIN: Final = (4.5, 18.0)  # of ln density over a run at the pace of its end, and what is added at its start
SHARPNESS: Final = 3.0
SLACK, TRIMS = 0.03, 10  # of a bound that may be left unused, and how often it is tried to use it
SETTLED: Final = 0.6  # share of the run after which the density of a file no longer falls by plan


def measured(classifier: Any, network: Network, x: Tensor, y: Tensor, attack: Any) -> dict[str, float]:
    """Losses and accuracies without and under an attack, by the names of :class:`~art_atmc_distortion.Smallest`.

    :param attack: None for none; its random starts are the same at every call.
    """
    device = classifier.device
    problem = Problem.of(classifier, network, torch.Generator(device).manual_seed(0))
    sums = torch.zeros(4, dtype=torch.float64)
    for inputs, labels in zip(x.split(256), y.split(256), strict=True):
        inputs, labels = inputs.to(device), labels.to(device)
        attacked = inputs if attack is None else perturb(problem, attack, inputs, labels)
        for place, seen in ((0, inputs), (2, attacked)):
            logits = problem.answers(seen)
            sums[place] += float(problem.loss(logits, labels)) * len(inputs)
            sums[place + 1] += float((~misclassified(logits, labels)).sum())
    means = (sums / len(x)).tolist()
    return dict(zip(("clean_loss", "clean_accuracy", "robust_loss", "robust_accuracy"), means, strict=True))


class Controller(Callback, abc.ABC):
    """Moves a knob once an epoch.

    :param knob: the density that acts.
    :param validation: inputs and labels as tensors.
    :param attack: under which it is measured.
    :param compressed: the weights that are compressed, as they are now.
    """

    def __init__(
        self, knob: Knob, validation: tuple[Tensor, Tensor], attack: Any, compressed: Callable[[], Weights]
    ) -> None:
        self.knob, self.attack, self.compressed = knob, attack, compressed
        self._x, self._y = validation
        self._network: Network | None = None
        self.weights: dict[str, Tensor] = {}
        self.row: dict[str, float] = {}

    @abc.abstractmethod
    def decide(self, run: Run) -> None:
        """Keep the present weights or not, and move the knob; ``row`` holds what was measured."""

    def on_train_start(self, run: Run) -> None:
        self._network = Network(run.classifier, self._x[:2].to(run.classifier.device))

    def on_validation(self, run: Run, row: Mapping[str, float]) -> None:
        self.row = self.measured(run)
        self.decide(run)

    def measured(self, run: Run) -> dict[str, float]:
        """The figures of the present weights on the validation data."""
        assert self._network is not None
        weights = self.compressed()
        figures = measured(run.classifier, self._network, self._x, self._y, self.attack)
        return {**figures, "density": weights.nnz() / weights.dense_size}

    def on_epoch_end(self, run: Run, row: Mapping[str, float]) -> None:
        run.history[-1] |= self.row

    def on_train_end(self, run: Run) -> None:
        run.model.load_state_dict(self.weights)
        self.turn(self.compressed().nnz() / self.compressed().dense_size)

    def turn(self, density: float) -> None:
        """Set the knob to a density of whole weights."""
        self.knob.set_(density, self.compressed().dense_size)

    def state_dict(self) -> dict[str, Any]:
        return {"density": self.knob.density, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.knob.density, self.weights = state["density"], dict(state["weights"])


@final
class SmallestController(Controller):
    r"""Lets the density sit where the worst violation is zero.

    .. math:: \ln d \leftarrow \mathrm{clip}\bigl(\ln d + \eta_e\, \mathrm{clip}(3 v, -1, 1),\; \ln d_{\min},\; 0\bigr),
              \quad \eta_e = \bigl(18\,(1 - e/E) + 4.5\bigr) / E

    :param target: what is asked for.

    Before the dense network is good enough nothing is pruned; when it is not by the end of the warm-up, the run ends.
    The learning rate falls to the end of a run and networks become better with it, faster than the density follows: the
    slack that is left is used by pruning the kept network a little further, without training.
    """

    def __init__(self, target: Smallest, *controlled: Any) -> None:
        super().__init__(*controlled)
        self.target = target
        self.fewest: int | None = None
        self.started = False
        self.nearest: tuple[float, dict[str, float], float] = (math.inf, {}, 1.0)

    def decide(self, run: Run) -> None:
        found = self.target.violations(self.row)
        violation = max(found.values())
        self.row["violation_of_target"] = violation
        self.nearest = min(self.nearest, (violation, self.row, self.row["density"]), key=lambda item: item[0])
        count = self.compressed().nnz()
        # Among equals the later epoch has had more training.
        if violation <= 0 and (self.fewest is None or count <= self.fewest):
            self.fewest, self.weights = count, run.weights()
        self.started = self.started or violation <= 0
        share = (run.epoch + 1) / run.epochs
        if not self.started:
            if share >= self.target.warmup:
                raise InfeasibleError(
                    f"after {run.epoch + 1} of {run.epochs} epochs the dense network reaches {self._seen()}, and "
                    f"{self._asked()} was asked for: choose less, or train longer or a larger network"
                )
            return
        gain = (GAIN[1] * (1 - run.epoch / run.epochs) + GAIN[0]) / run.epochs
        move = gain * min(max(-SHARPNESS * violation, -1.0), 1.0)
        self.turn(min(max(self.knob.density * math.exp(-move), self.target.least_density), 1.0))

    def on_train_end(self, run: Run) -> None:
        if self.fewest is None:
            raise InfeasibleError(
                f"no epoch met {self._asked()}; the nearest reached {self._seen()} at density {self.nearest[2]:.3g}: "
                "choose less, or train longer"
            )
        run.model.load_state_dict(self.weights)
        self._trim(run)
        weights = self.compressed()
        self.turn(weights.nnz() / weights.dense_size)

    def _trim(self, run: Run) -> None:
        """Take what slack is left: the fewest of the largest weights that still meet the target, by bisection.

        Weights that training has settled on can spare few, so that steps begin small and double.
        """
        weights = self.compressed()
        before = weights.clone()
        low = max(1, math.ceil(self.target.least_density * weights.dense_size)) - 1
        high, step = weights.nnz(), max(1, weights.nnz() // 50)
        violation = max(self.target.violations(self.measured(run)).values())
        for _ in range(TRIMS):
            if violation > -SLACK or high - low <= max(1, high // 200):
                break
            k = max((low + high) // 2, high - step)
            weights.assign_(Sparsity(k / weights.dense_size).project(before))
            found = max(self.target.violations(self.measured(run)).values())
            low, high, violation = (low, k, found) if found <= 0 else (k, high, violation)
            step *= 2
        weights.assign_(Sparsity(high / weights.dense_size).project(before))

    def _asked(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {bound:g}" for name, bound in self.target.bounds.items())

    def _seen(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {self.nearest[1][name]:.3g}" for name in self.target.bounds)

    def state_dict(self) -> dict[str, Any]:
        kept = {"fewest": self.fewest, "started": self.started, "nearest": list(self.nearest)}
        return super().state_dict() | kept

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.fewest, self.started = state["fewest"], state["started"]
        self.nearest = tuple(state["nearest"])


@final
class FitsController(Controller):
    r"""Lets the density fall to where the file has its size, which is measured once an epoch.

    .. math:: d_e = d^* + (1 - d^*)(1 - p_e)^3, \qquad \ln d^* \leftarrow \ln d^* + \s \ln (B / \mathrm{bytes})

    with p the share of the way, and bytes without what is no weight; s = 1.1 far from the target, since positions get
    dearer as weights get fewer, and 1 near it.

    :param target: what is asked for.
    :param size: the bytes of the file that the present weights would make.
    :param weights: the bytes that the weights take of them.
    """

    def __init__(self, target: Fits, size: Callable[[], int], weights: Callable[[], int], *controlled: Any) -> None:
        super().__init__(*controlled)
        self.target, self.size, self.weight_bytes = target, size, weights
        self.best = -1.0
        self.aim = 1.0

    def decide(self, run: Run) -> None:
        size = self.size()
        self.row["file_bytes"] = float(size)
        budget, others = self.target.file_bytes, size - self.weight_bytes()
        if others >= budget:
            raise InfeasibleError(f"a file of {budget} bytes was asked for, and all but the weights takes {others}")
        if 0.99 * budget < size <= budget:
            accuracy = self.row["robust_accuracy"]
            self.best = max(self.best, accuracy)
            if accuracy >= self.best - math.sqrt(self.best * (1 - self.best) / len(self._x)):
                self.weights = run.weights()
        middle = 0.995 * budget - others
        ratio = middle / (size - others)
        weights = self.compressed()
        self.aim = min(1.0, weights.nnz() / weights.dense_size * ratio ** (1.0 if 0.8 < ratio < 1.25 else 1.1))
        progress = min(1.0, (run.epoch + 1) / run.epochs / SETTLED)
        self.turn(self.aim + (1 - self.aim) * (1 - progress) ** 3)

    def on_train_end(self, run: Run) -> None:
        if self.weights:
            super().on_train_end(run)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best": self.best, "aim": self.aim}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.best, self.aim = state["best"], state["aim"]
