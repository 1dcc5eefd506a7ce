"""The mean of a model over the steps of an epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

__all__ = ["Mean"]


@final
class Mean:
    r"""The mean of all parameters and floating-point buffers since it was cleared.

    .. math:: \bar w \leftarrow \bar w + (w_t - \bar w) / t

    While the learning rate is high the weights of a single step are scattered around it, so that the mean tells better
    what they will come to when the rate has fallen.

    >>> mean, model = Mean(), nn.Linear(1, 1, bias=False)
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     mean.add(model)
    >>> with mean.standing_in(model):
    ...     model.weight.item()
    3.0
    >>> model.weight.item()
    6.0
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin again."""
        self.count, self.tensors = 0, dict[str, Tensor]()

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """One step more."""
        now = _floating(model)
        self.count += 1
        if self.count == 1:
            self.tensors = {name: tensor.clone() for name, tensor in now.items()}
        elif now:
            torch._foreach_lerp_([self.tensors[name] for name in now], list(now.values()), 1 / self.count)

    @contextlib.contextmanager
    def standing_in(self, model: nn.Module) -> Iterator[None]:
        """A block in which the model is the mean, where there is one; at its end it is as before."""
        held = _floating(model)
        before = {name: tensor.clone() for name, tensor in held.items()}
        try:
            for name, tensor in self.tensors.items():
                held[name].copy_(tensor)
            yield
        finally:
            for name, tensor in held.items():
                tensor.copy_(before[name])

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "tensors": self.tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]
        self.tensors = {name: tensor.clone() for name, tensor in state["tensors"].items()}


def _floating(model: nn.Module) -> dict[str, Tensor]:
    """The tensors themselves, by name."""
    held = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in held if tensor.is_floating_point()}
