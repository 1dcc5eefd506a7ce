"""Averaged weights: a second candidate beside those of the last step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor

from art_atmc.support.numbers import Real
from art_atmc.training.callbacks import Callback

if TYPE_CHECKING:
    from art_atmc.training.run import Run

__all__ = ["AveragedWeights"]


@final
class AveragedWeights(Callback):
    r"""The moving average of the weights, validated after the weights themselves and kept where it is better.

    .. math:: a_t = d\, a_{t-1} + (1 - d)\, w_t

    from ``start`` on (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407; under attack Gowal et al. 2020,
    https://arxiv.org/abs/2010.03593, section 4.3). Weights that must obey constraints are averaged as they are and then
    put on the constraints: what is validated, and shipped, is compressed. Running statistics of normalisation are
    averaged alike.

    Each epoch's ``history`` has ``averaged_clean_accuracy`` and ``averaged_robust_accuracy`` too; an epoch's averaged
    weights come after its own ones in the choice of :class:`~art_atmc.training.BestEpoch`. After training the network
    has what was chosen: without validation data the averaged weights.

    :param decay: d, in (0, 1): about 1 / (1 - d) steps are averaged.
    :param start: share of the run after which averaging begins, in [0, 1): while the support of the weights is still
        changing, their average has more non-zeros than any of them.
    :raises ValueError: for numbers out of range.

    >>> AveragedWeights(decay=0.995).start
    0.6
    """

    alternative: ClassVar[str | None] = "averaged"

    def __init__(self, decay: float = 0.999, *, start: float = 0.6) -> None:
        self.decay: float = Real("(0, 1)", "0.999 averages about a thousand steps").plain("decay", decay)
        self.start: float = Real("[0, 1)", "it is a share of the run").plain("start", start)
        self.average: dict[str, Tensor] = {}

    def on_train_start(self, run: Run) -> None:
        if not run.step:  # a second fit averages its own weights; one that is taken up again goes on
            self.average = {}

    @torch.no_grad()
    def on_batch_end(self, run: Run) -> None:
        if run.accumulating or run.pace.progress(run.step, run.epoch) < self.start:
            return
        now = _floating(run.model)
        if not self.average:
            self.average = {name: tensor.clone() for name, tensor in now.items()}
        else:
            torch._foreach_lerp_([self.average[name] for name in now], list(now.values()), 1 - self.decay)

    @contextlib.contextmanager
    def substituting(self, run: Run) -> Iterator[bool]:
        if not self.average:
            yield False
            return
        tensors = _floating(run.model)
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        try:
            for name, tensor in tensors.items():
                tensor.copy_(self.average[name])
            yield True
        finally:
            for name, tensor in tensors.items():
                tensor.copy_(before[name])

    def on_train_end(self, run: Run) -> None:
        if self.average and not run.validated:
            for name, tensor in _floating(run.model).items():
                tensor.copy_(self.average[name])

    def conditions(self) -> dict[str, str]:
        return {"averaged weights": f"decay {self.decay:g} from {self.start:g}"}

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average = {name: tensor.clone() for name, tensor in state["average"].items()}


def _floating(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that can be averaged, by name; the tensors themselves."""
    held = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in held if tensor.is_floating_point()}
