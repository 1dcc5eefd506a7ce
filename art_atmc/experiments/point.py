"""One trained network as a point of the trade-off between size, accuracy and robustness, and its files."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import ClassVar, Final, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter

from art_atmc.support.atomic import write_file
from art_atmc.support.reading import read_json, readable
from art_atmc.support.statistics import wilson

__all__ = ["Accuracy", "Curve", "Examples", "Point", "places", "points"]

SCHEMA: Final = 1


@final
@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A share of test examples that are correctly classified.

    :param correct: how many.
    :param n: of how many.

    >>> Accuracy(90, 100).share
    0.9
    """

    correct: int
    n: int

    @property
    def share(self) -> float:
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.correct, self.n)


@final
@dataclasses.dataclass(frozen=True)
class Curve:
    """A security curve: accuracies under one attack at rising radii.

    :param eps: the radii, from 0.
    :param correct: examples of ``n`` that withstand each.
    """

    attack: str
    eps: tuple[float, ...]
    correct: tuple[int, ...]
    n: int


@final
@dataclasses.dataclass(frozen=True)
class Point:
    r"""What one recipe reached at one size.

    :param recipe: name in :data:`art_atmc.experiments.RECIPES`.
    :param density: share of the dense weights that the budget allows; 1 for a dense network.
    :param bits: of the codebook; 32 for none.
    :param schedule: ``matched`` or ``reference``.
    :param stages: what was trained one after the other, with its epochs.
    :param epochs: in all, those of the networks it was started from included.
    :param data: name of the data set; numbers of examples follow.
    :param attack: that the network was trained against, as text.
    :param validation: clean and robust accuracy on validation data, on which the best epoch was chosen.
    :param clean: on test data.
    :param robust: on test data, the worst case of the attacks in ``evaluation.json``.
    :param attacks: each of these attacks alone.
    :param nnz: non-zero weights.
    :param dense_size: weights of the dense network.
    :param paper_ratio: size over that of the dense network by the paper's count, which leaves out positions.
    :param file_bytes: of ``model.atmc``.
    :param dense_bytes: of the dense network's tensors in memory, tied ones once.
    :param seconds: of training, this network's own stages only.
    :param curve: security curve on some test examples; None where it was not asked for.
    :param constraints: what the weights obey, where density and bits do not say all of it.
    :param doubts: why this may be no network worth its figures, as a layer without a weight; see
        :func:`art_atmc.experiments.doubts.doubts`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    recipe: str
    density: float
    bits: int
    seed: int
    schedule: str
    stages: tuple[tuple[str, int], ...]
    epochs: int
    data: str
    train_examples: int
    validation_examples: int
    network: str
    eps: float
    norm: str
    attack: str
    validation: tuple[float, float]
    clean: Accuracy
    robust: Accuracy
    attacks: dict[str, Accuracy]
    nnz: int
    dense_size: int
    paper_ratio: float
    file_bytes: int
    dense_bytes: int
    seconds: float
    curve: Curve | None
    versions: dict[str, str]
    constraints: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    schema: Literal[1] = SCHEMA

    @property
    def file_ratio(self) -> float:
        """Bytes of the file over those of the dense parameters: the size ratio with positions and all."""
        return self.file_bytes / self.dense_bytes

    @property
    def series(self) -> str:
        """The curve that the point lies on, by the paper's names: ``ATMC-8`` for ATMC-b with 8 bits."""
        name = self.recipe.replace("-b", f"-{self.bits}")
        return " ".join((name, *self.constraints))

    @property
    def label(self) -> str:
        """Series and density, such as ``ATMC-8 0.05``."""
        return self.series if self.density == 1 or self.constraints else f"{self.series} {self.density:g}"

    def save(self, folder: Path) -> None:
        """Write ``point.json``, whole or not at all; it says that the other files of the folder are complete."""
        write_file(folder / "point.json", TypeAdapter(Point).dump_json(self, indent=2) + b"\n")

    @classmethod
    def load(cls, folder: Path) -> Point:
        """
        :raises ValueError: naming the file, when it is no point of this version.
        """
        return read_json(
            folder / "point.json", cls, f"a point of schema {SCHEMA}", "delete it and start the same command again"
        )


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Test images and what an attack made of them.

    :param x: (n, C, H, W) in [0, 1]; ``x_adv`` likewise.
    :param y: their labels.
    :param predicted: what the network says of ``x``; ``predicted_adv`` of ``x_adv``.
    """

    x: NDArray[np.float32]
    x_adv: NDArray[np.float32]
    y: NDArray[np.int64]
    predicted: NDArray[np.int64]
    predicted_adv: NDArray[np.int64]

    def save(self, folder: Path) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **vars(self))
        write_file(folder / "examples.npz", buffer.getvalue())

    @classmethod
    def load(cls, folder: Path) -> Examples:
        """
        :raises ValueError: naming the file, when it holds no examples.
        """
        path = folder / "examples.npz"
        with (
            path.open("rb") as file,  # numpy leaves a file that it can't read open
            readable(path, "an archive of examples", "delete it and start the same command again"),
            np.load(file, allow_pickle=False) as arrays,
        ):
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})


def places(folder: Path) -> list[Path]:
    """The folders of finished points below ``folder``, which ``sweep`` or ``train`` filled, from many seeds too.

    :raises FileNotFoundError: where there are none.
    """
    found = sorted(path.parent for pattern in ("*", "seed-*/*") for path in folder.glob(f"{pattern}/point.json"))
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no finished points; fill it with: art-atmc sweep --output {folder}, or train"
        )
    return found


def points(folder: Path) -> list[tuple[Path, Point]]:
    """The finished points below ``folder``, each with its own folder, by recipe, size and seed.

    :raises FileNotFoundError: where there are none.
    """
    found = [(place, Point.load(place)) for place in places(folder)]
    return sorted(found, key=lambda item: (item[1].recipe, -item[1].density, -item[1].bits, item[1].seed))
