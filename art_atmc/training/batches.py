"""Data on its way into training: arrays, DataLoaders and ART generators, checked before any work is lost."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias, final

import numpy as np
import torch
from art.data_generators import DataGenerator, PyTorchDataGenerator
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from art_atmc.attacks.base import Rows
from art_atmc.classifiers.inputs import arrays, augmented
from art_atmc.support.randomness import draw_seed
from art_atmc.training.devices import World

__all__ = ["ArrayBatches", "Augmentation", "Batch", "Batches", "GeneratedBatches", "Unpack", "number_of_batches"]

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""(inputs, source of randomness) -> inputs of the same shape.

What belongs to the entries of an input can follow an augmentation that has a method ``draw(number, generator)``, which
returns a :class:`~art_atmc.attacks.Motion`."""

Unpack: TypeAlias = Callable[[Any], tuple[Any, Any]]
"""What a loader yields -> (x, y)."""


class Batch(NamedTuple):
    """Examples of one step.

    :param x: inputs, float32.
    :param y: labels as the classifier's loss takes them.
    :param rows: which of the data's examples these are; None where that is not known, as for loaders, or where
        augmentation changed them in a way that can't be followed.
    :param weights: of the examples in the loss; None for equal ones.
    :param share: of the loss in the mean over the processes; 1 where all have as many examples.
    """

    x: Tensor
    y: Tensor
    rows: Rows | None = None
    weights: Tensor | None = None
    share: float = 1.0


class Batches(Protocol):
    """One epoch of batches after the other."""

    @property
    def number(self) -> int | None:
        """Batches an epoch; None where it is not known beforehand."""

    @property
    def fingerprint(self) -> str:
        """Of the data in its order; what is not known of a loader is left out."""

    def sample(self) -> Tensor:
        """A few inputs; what an epoch yields stays the same."""

    def epoch(self, generator: torch.Generator | None) -> Iterator[Batch]:
        """The batches of an epoch, shuffled by ``generator`` where one is given."""


@final
class ArrayBatches:
    """Slices of tensors; much faster than a ``DataLoader``, which indexes and collates sample by sample.

    A last batch of a single example joins the one before it: batch normalisation has no statistics of one example.

    :param augmentation: changes the inputs of shuffled batches at random.
    :param weights: (n,) of the examples in the loss.
    :param world: the processes that share each step; every one gets ``batch_size`` examples of it.
    :raises ValueError: for a batch size below 1, weights that do not fit, and an augmentation that changes shapes.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        augmentation: Augmentation | None = None,
        weights: Tensor | None = None,
        world: World | None = None,
    ) -> None:
        self._world = world or World()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        if weights is not None and not (
            weights.shape == y.shape[:1] and (weights >= 0).all() and weights.isfinite().all() and weights.sum() > 0
        ):
            raise ValueError(
                f"`sample_weight` must hold one finite weight of at least 0 for each of {len(x)} examples, not all 0, "
                f"got shape {tuple(weights.shape)}"
            )
        self._x, self._y, self._weights = x, y, weights
        self._augmentation = augmentation
        self._sizes = _sizes(len(x), batch_size * self._world.size, self._world.size)
        if augmentation is not None:
            _check_augmentation(augmentation, x[:2])

    @property
    def number(self) -> int:
        return len(self._sizes)

    def sample(self) -> Tensor:
        return self._x[:2]

    def epoch(self, generator: torch.Generator | None) -> Iterator[Batch]:
        if generator is None:
            parts = list(zip(self._x.split(self._sizes), self._y.split(self._sizes), strict=True))
            yield from (Batch(x, y) for x, y in parts[self._world.rank :: self._world.size])
            return
        order = torch.randperm(len(self._x), generator=generator)
        # Augmentation draws from a generator of its own: processes draw different numbers of it.
        noise = torch.Generator().manual_seed(draw_seed(generator) + self._world.rank)
        for together in order.split(self._sizes):
            # An example comes to the same process in nearly every epoch: an attack may have kept something about it.
            together = together[(together % self._world.size).argsort(stable=True)]
            index = together.tensor_split(self._world.size)[self._world.rank]
            share = len(index) * self._world.size / len(together)
            x, y, weights = self._x[index], self._y[index], None if self._weights is None else self._weights[index]
            rows = Rows(index, len(self._x), self.fingerprint)
            if self._augmentation is None:
                yield Batch(x, y, rows, weights, share)
            elif (draw := getattr(self._augmentation, "draw", None)) is None:
                yield Batch(self._augmentation(x, noise), y, None, weights, share)
            else:
                motion = draw(len(x), noise)
                yield Batch(motion(x), y, dataclasses.replace(rows, motion=motion), weights, share)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the examples in their order: one sum each, so that it costs one pass over the data."""
        digest = hashlib.blake2b(repr(tuple(self._x.shape)).encode(), digest_size=16)
        digest.update(self._x.flatten(1).sum(dim=1, dtype=torch.float64).cpu().numpy().tobytes())
        digest.update(self._y.cpu().numpy().tobytes())
        return digest.hexdigest()


@final
class GeneratedBatches:
    """The batches of a ``DataLoader`` or an ART ``DataGenerator``, which shuffles by its own means.

    :param unpack: makes the pair (x, y) of what a loader yields; by default it must be that pair.
    :param number: batches that count as an epoch; by default all that there are.
    :param world: the processes that share the batches: each takes its turn, unless the loader has a
        ``DistributedSampler`` and is divided already.
    :raises TypeError: for anything else, and when called for a batch that is no pair.
    """

    def __init__(
        self,
        classifier: Any,
        generator: Any,
        unpack: Unpack | None = None,
        number: int | None = None,
        world: World | None = None,
    ) -> None:
        if isinstance(generator, PyTorchDataGenerator):
            generator = generator.iterator  # stays on tensors; `get_batch` goes through numpy
        if not isinstance(generator, DataLoader | DataGenerator):
            raise TypeError(
                "`generator` must be a torch DataLoader or an ART DataGenerator, got "
                f"{type(generator).__name__}; give arrays to `fit`"
            )
        self._classifier, self._generator, self._unpack = classifier, generator, unpack
        self._peeked: Iterator[Any] | None = None
        divided = isinstance(getattr(generator, "sampler", None), DistributedSampler)
        self._world = World() if world is None or divided else world
        all_of_them = _length(generator) if number is None else number
        self.number = None if all_of_them is None else all_of_them // self._world.size

    @property
    def fingerprint(self) -> str:
        return f"{type(self._generator).__name__} of {self.number} batches"

    def sample(self) -> Tensor:
        own = getattr(self._generator, "generator", None)  # a loader may draw from a generator of its own
        kept = own.clone_state() if isinstance(own, torch.Generator) else None
        stream = self._stream()
        try:
            first = next(stream)
        except StopIteration:
            raise ValueError("the data yielded no batch; give at least one example") from None
        if isinstance(own, torch.Generator) and kept is not None:
            own.set_state(kept.get_state())
        if not _begins_again(self._generator):
            self._peeked = itertools.chain([first], stream)
        return self._batch(first).x[:2]

    def epoch(self, generator: torch.Generator | None) -> Iterator[Batch]:
        stream, self._peeked = self._peeked or self._stream(), None
        turns = itertools.islice(stream, self._world.rank, None, self._world.size)
        for drawn in turns if self.number is None else itertools.islice(turns, self.number):
            batch = self._batch(drawn)
            if generator is not None:  # for training
                batch = Batch(*augmented(self._classifier, batch.x, batch.y))
            yield batch

    def _stream(self) -> Iterator[Any]:
        if isinstance(self._generator, DataLoader):
            return iter(self._generator)
        return (self._generator.get_batch() for _ in range((self.number or 0) * self._world.size))

    def _batch(self, drawn: Any) -> Batch:
        pair = drawn if self._unpack is None else self._unpack(drawn)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            held = f"of {', '.join(map(str, pair))}" if isinstance(pair, dict) else ""
            held = held or (f"of {len(pair)} parts" if isinstance(pair, tuple | list) else "")
            raise TypeError(
                f"a batch must be a pair (x, y), got a {type(pair).__name__} {held}".rstrip()
                + "; say how to take them from it by `unpack`, such as unpack=lambda batch: (batch['image'], "
                "batch['label'])"
            )
        return Batch(*arrays(self._classifier, np.asarray(pair[0]), np.asarray(pair[1]), "generated"))


def number_of_batches(n: int, batch_size: int, processes: int = 1) -> int:
    """Batches an epoch over arrays."""
    return len(_sizes(n, max(batch_size, 1) * processes, processes))


def _sizes(n: int, batch_size: int, processes: int) -> list[int]:
    sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
    if len(sizes) > 1 and sizes[-1] < min(2 * processes, batch_size):
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes


def _length(generator: Any) -> int | None:
    if isinstance(generator, DataLoader):
        try:
            return len(generator)
        except TypeError:  # over an iterable data set
            return None
    return -(-generator.size // generator.batch_size)


def _begins_again(generator: Any) -> bool:
    """Whether what was drawn once is drawn again, as from a data set of known examples."""
    return isinstance(generator, DataLoader) and not isinstance(generator.dataset, IterableDataset)


def _check_augmentation(augmentation: Augmentation, sample: Tensor) -> None:
    """Try it on a few inputs, so that a wrong one is refused before anything is trained."""
    try:
        changed = augmentation(sample.clone(), torch.Generator().manual_seed(0))
    except Exception as error:
        raise ValueError(
            f"`augmentation` must take (inputs, torch.Generator) and return inputs, but {augmentation!r} raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(changed, Tensor) or changed.shape != sample.shape or changed.dtype != sample.dtype:
        found = (changed.dtype, tuple(changed.shape)) if isinstance(changed, Tensor) else type(changed).__name__
        raise ValueError(
            f"`augmentation` must return inputs as it got them, {sample.dtype} of shape {tuple(sample.shape)}, "
            f"got {found}"
        )
