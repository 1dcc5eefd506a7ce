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

from art_atmc import Weights
from art_atmc.attacks import Problem, perturb
from art_atmc.classifiers import Network, misclassified
from art_atmc.training import Callback, Run
from art_atmc_distortion.knob import Knob
from art_atmc_distortion.mean import Mean
from art_atmc_distortion.targets import Fits, InfeasibleError, Smallest

__all__ = ["Controller", "FitsController", "SmallestController", "measured"]

GAIN: Final = 22.5  # of ln density over a run at the pace of its start; the pace falls to zero at its end
HEALING: Final = 1 / 3  # of the logarithm by which the density fell in an epoch: the loss that the next one takes back
SHARPNESS: Final = 4.0  # a loss falls by about a quarter of the logarithm by which the density rises
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

    .. math:: \ln d \leftarrow \mathrm{clip}\bigl(\ln d + \eta_e\, \mathrm{clip}(4 v + \tfrac43 \Delta_e, -1, 1),\;
              \ln d_{\min},\; 0\bigr), \quad \eta_e = \min\Bigl(1,\; \frac{22.5}{E} (1 - e/E)\Bigr)

    over the first half of the next epoch, where :math:`\Delta_e` is how far ln d moved in this one: just after a fall a
    network is worse than it will be. From the first epoch that meets the bound to the first that exceeds it again
    the density falls at the full pace.

    :param target: what is asked for.
    :param obey: puts the present weights on all constraints.

    What is measured, and kept, is the mean of an epoch's weights, put on the constraints. Networks become better as the
    learning rate falls; the weights of a single step tell of it when little training is left, the mean tells before.

    Before the dense network is good enough nothing is pruned; when it is not by the end of the warm-up, the run ends.
    """

    def __init__(self, target: Smallest, obey: Callable[[], None], *controlled: Any) -> None:
        super().__init__(*controlled)
        self.target, self.obey = target, obey
        self.mean = Mean()
        self.way = 1.0, 1.0
        self.fewest: int | None = None
        self.started = self.settling = False
        self.nearest: tuple[float, dict[str, float], float] = (math.inf, {}, 1.0)

    def on_batch_end(self, run: Run) -> None:
        if run.accumulating:
            return
        share = min(1.0, 2 * run.batch / run.batches) if run.batches else 1.0
        start, end = self.way
        self.turn(start * (end / start) ** share)
        self.mean.add(run.model)

    def on_validation(self, run: Run, row: Mapping[str, float]) -> None:
        with self.mean.standing_in(run.model):
            self.obey()
            super().on_validation(run, row)
        self.mean.clear()

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
        self.settling = self.settling or violation > 0
        healed = violation + HEALING * math.log(self.way[1] / self.way[0])
        wanted = SHARPNESS * healed if self.settling else -1.0
        pace = min(1.0, GAIN * (1 - run.epoch / run.epochs) / run.epochs)
        move = pace * min(max(wanted, -1.0), 1.0)
        self.way = self.way[1], min(max(self.way[1] * math.exp(move), self.target.least_density), 1.0)

    def on_train_end(self, run: Run) -> None:
        if self.fewest is None:
            raise InfeasibleError(
                f"no epoch met {self._asked()}; the nearest reached {self._seen()} at density {self.nearest[2]:.3g}: "
                "choose less, or train longer"
            )
        super().on_train_end(run)

    def _asked(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {bound:g}" for name, bound in self.target.bounds.items())

    def _seen(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {self.nearest[1][name]:.3g}" for name in self.target.bounds)

    def state_dict(self) -> dict[str, Any]:
        kept = {"fewest": self.fewest, "nearest": list(self.nearest), "mean": self.mean.state_dict()}
        return super().state_dict() | kept | {"started": self.started, "settling": self.settling, "way": list(self.way)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.fewest, self.started, self.settling = state["fewest"], state["started"], state["settling"]
        self.nearest = tuple(state["nearest"])
        self.mean.load_state_dict(state["mean"])
        self.way = tuple(state["way"])


@final
class FitsController(Controller):
    r"""Lets the density fall to where the file has its size, which is measured once an epoch.

    .. math:: d_e = d^* + (1 - d^*)(1 - p_e)^3, \qquad \ln d^* \leftarrow \ln d^* + s \ln (B / \mathrm{bytes})

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
