"""Data on its way into training: arrays, DataLoaders and ART generators, checked before any work is lost."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias, final

import numpy as np
import torch
from art.data_generators import DataGenerator, PyTorchDataGenerator
from torch import Tensor
from torch.utils.data import DataLoader

from art_atmc.attacks.base import Rows
from art_atmc.classifiers.inputs import arrays

__all__ = ["ArrayBatches", "Augmentation", "Batch", "Batches", "GeneratedBatches"]

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""(inputs, source of randomness) -> inputs of the same shape.

What belongs to the entries of an input can follow an augmentation that has a method ``draw(number, generator)``, which
returns a :class:`~art_atmc.attacks.Motion`."""


class Batch(NamedTuple):
    """Examples that are trained on together.

    :param x: float32 inputs (N, ...).
    :param y: labels as the classifier's loss takes them.
    :param rows: which of the data's examples these are; None where that is not known, or where augmentation changed
        them in a way that can't be followed.
    """

    x: Tensor
    y: Tensor
    rows: Rows | None = None


class Batches(Protocol):
    """One epoch after the other of batches."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def sample(self) -> Tensor:
        """A few inputs."""

    def epoch(self, generator: torch.Generator | None) -> Iterator[Batch]:
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

    def epoch(self, generator: torch.Generator | None) -> Iterator[Batch]:
        if generator is None:
            yield from map(Batch, self._x.split(self._size), self._y.split(self._size))
            return
        for index in torch.randperm(len(self._x), generator=generator).split(self._size):
            x, y = self._x[index], self._y[index]
            rows = Rows(index, len(self._x), self._fingerprint)
            if self._augmentation is None:
                yield Batch(x, y, rows)
            elif (draw := getattr(self._augmentation, "draw", None)) is None:
                yield Batch(self._augmentation(x, generator), y)
            else:
                motion = draw(len(x), generator)
                yield Batch(motion(x), y, dataclasses.replace(rows, motion=motion))

    @functools.cached_property
    def _fingerprint(self) -> str:
        """Of the examples in their order: one sum each, so that it costs one pass over the data."""
        sums = self._x.flatten(1).sum(dim=1, dtype=torch.float64).cpu().numpy().tobytes()
        return hashlib.blake2b(repr(tuple(self._x.shape)).encode() + sums, digest_size=16).hexdigest()


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
        return next(self.epoch(None)).x[:2]

    def epoch(self, generator: torch.Generator | None) -> Iterator[Batch]:
        batches = (
            self._generator
            if isinstance(self._generator, DataLoader)
            else (self._generator.get_batch() for _ in range(len(self)))
        )
        for x, y in batches:
            yield Batch(*arrays(self._classifier, np.asarray(x), np.asarray(y), "generated"))
