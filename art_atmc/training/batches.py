"""Data on its way into training: arrays, DataLoaders and ART generators, checked before any work is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias, final

import numpy as np
import torch
from art.data_generators import DataGenerator, PyTorchDataGenerator
from torch import Tensor
from torch.utils.data import DataLoader

from art_atmc.classifiers.inputs import arrays

__all__ = ["ArrayBatches", "Augmentation", "Batches", "GeneratedBatches"]

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""(inputs, source of randomness) -> inputs of the same shape."""


class Batches(Protocol):
    """One epoch after the other of pairs (x, y): float32 inputs, and labels as the classifier's loss takes them."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def sample(self) -> Tensor:
        """A few inputs."""

    def epoch(self, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, shuffled by ``generator`` where one is given."""


@final
class ArrayBatches:
    """Slices of tensors; much faster than a ``DataLoader``, which indexes and collates sample by sample.

    :param augmentation: changes the inputs of shuffled batches at random.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, augmentation: Augmentation | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        self._x, self._y, self._size = x, y, batch_size
        self._augmentation = augmentation

    def __len__(self) -> int:
        return -(-len(self._x) // self._size)

    def sample(self) -> Tensor:
        return self._x[:2]

    def epoch(self, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
        if generator is None:
            yield from zip(self._x.split(self._size), self._y.split(self._size), strict=True)
            return
        for chosen in torch.randperm(len(self._x), generator=generator).split(self._size):
            x = self._x[chosen]
            yield x if self._augmentation is None else self._augmentation(x, generator), self._y[chosen]


@final
class GeneratedBatches:
    """The batches of a ``DataLoader`` or an ART ``DataGenerator``, which shuffles by its own means.

    :raises TypeError: for anything else.
    """

    def __init__(self, classifier: Any, generator: Any) -> None:
        if isinstance(generator, PyTorchDataGenerator):
            generator = generator.iterator  # stays on tensors; `get_batch` goes through numpy
        if not isinstance(generator, DataLoader | DataGenerator):
            raise TypeError(
                "`generator` must be a torch DataLoader or an ART DataGenerator, got "
                f"{type(generator).__name__}; give arrays to `fit`"
            )
        self._classifier, self._generator = classifier, generator

    def __len__(self) -> int:
        if isinstance(self._generator, DataLoader):
            return len(self._generator)
        return -(-self._generator.size // self._generator.batch_size)

    def sample(self) -> Tensor:
        # From the data set itself where there is one: drawing a batch would move the loader's random state.
        if isinstance(self._generator, DataLoader) and hasattr(self._generator.dataset, "__getitem__"):
            return torch.as_tensor(np.asarray(self._generator.dataset[0][0]), dtype=torch.float32)[None]
        return next(self.epoch(None))[0][:2]

    def epoch(self, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
        batches = (
            self._generator
            if isinstance(self._generator, DataLoader)
            else (self._generator.get_batch() for _ in range(len(self)))
        )
        for x, y in batches:
            yield arrays(self._classifier, np.asarray(x), np.asarray(y), "generated")
