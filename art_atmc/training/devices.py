"""The processes that train together: one alone, or those that ``torchrun`` and ``accelerate launch`` start."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

__all__ = ["World", "processes"]

PATIENCE = 60  # seconds that a process waits for the others; one that died ends the job by then


def processes() -> int:
    """How many the launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@final
class World:
    """What one process knows of the others. Alone, every method leaves what it is given as it is.

    Gradients are averaged in one flat bucket after ``backward()``, and not by hooks of ``DistributedDataParallel``: its
    reducer expects one forward pass for one backward pass of all parameters, and an objective makes several, while an
    attack freezes the parameters.

    >>> World().size, World().any(True)
    (1, True)
    """

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        self._accelerator: Any = None

    @classmethod
    def joined(cls, device: torch.device) -> World:
        """The world that the launcher's environment describes.

        :raises ImportError: for several processes without the package accelerate, naming the extra.
        :raises ValueError: for parameters that are spread over processes (FSDP, DeepSpeed).
        """
        world = cls()
        if processes() == 1:
            return world
        try:
            from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs
        except ImportError as error:
            raise ImportError(
                f"training in several processes needs the package accelerate ({error}); pip install "
                "'art-atmc[distributed]'"
            ) from None
        patience = InitProcessGroupKwargs(timeout=datetime.timedelta(seconds=PATIENCE))
        world._accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[patience])
        if (kind := world._accelerator.distributed_type) in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise ValueError(
                f"{kind.value} spreads parameters over processes, but a budget of non-zeros counts all of them "
                "together; launch for plain data parallelism (--multi_gpu), where every process holds the network"
            )
        world.rank, world.size = world._accelerator.process_index, world._accelerator.num_processes
        return world

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Everybody gets the first process's values."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Everybody gets the mean over the processes, in one message for each type."""
        if self.size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for group in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            torch.distributed.all_reduce(flat)
            flat /= self.size
            for tensor, mean in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over the processes; new where there are several."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether any process says yes."""
        if self.size == 1:
            return flag
        return bool(self.summed(torch.tensor([float(flag)], device=self._accelerator.device)) > 0)

    def common(self, numbers: Iterable[int]) -> set[int]:
        """The numbers that every process has."""
        if self.size == 1:
            return set(numbers)
        every: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(every, sorted(numbers))
        return set.intersection(*map(set, every))

    def check_equal(self, tensors: Iterable[Tensor]) -> None:
        """
        :raises RuntimeError: when a process holds other bits than the first one.
        """
        if self.size == 1:
            return
        sums = torch.stack(
            [t.detach().contiguous().reshape(-1).view(torch.uint8).sum(dtype=torch.int64) for t in tensors]
        )
        first = sums.clone()
        torch.distributed.broadcast(first, 0)
        if self.any(not torch.equal(sums, first)):
            raise RuntimeError(
                "the processes hold different weights: their scripts differ, or a callback changes weights in one only"
            )
