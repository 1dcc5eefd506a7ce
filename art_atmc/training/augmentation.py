"""Random changes of training images that keep their class."""

from __future__ import annotations

import dataclasses
from typing import Final, final

import torch
from torch import Tensor

from art_atmc.support.numbers import Whole, check_numbers

__all__ = ["CropAndFlip", "ShiftAndMirror", "crop_and_flip"]


@final
@dataclasses.dataclass(frozen=True)
class CropAndFlip:
    """Shift every image by up to ``padding`` pixels, zeros coming in, and mirror every second one, at random.

    What the ATMC paper and most others train CIFAR-10 with.

    :param padding: pixels, at least 0.
    :raises ValueError: for a negative ``padding``.

    >>> x = torch.ones(5, 1, 8, 8)
    >>> CropAndFlip(padding=0)(x).equal(x)
    True
    """

    padding: int = 4

    def __post_init__(self) -> None:
        check_numbers(self, padding=Whole(0, None, "4 pixels are usual for 32x32"))

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (N, C, H, W), moved."""
        return self.draw(len(x), generator)(x)

    def draw(self, number: int, generator: torch.Generator | None = None) -> ShiftAndMirror:
        """One motion for each of ``number`` images; whatever belongs to their pixels can be moved along."""
        top, left = torch.randint(2 * self.padding + 1, (2, number), generator=generator)
        mirrored = torch.randint(2, (number,), generator=generator).bool()
        return ShiftAndMirror(top - self.padding, left - self.padding, mirrored)


crop_and_flip: Final = CropAndFlip()
"""With the usual padding of 4."""


@final
@dataclasses.dataclass(frozen=True)
class ShiftAndMirror:
    r"""A motion of images: :math:`x'_{ij} = x_{i + t,\, j + l}`, or :math:`x_{i + t,\, W - 1 - j + l}` mirrored.

    :param top: t, integers (N,).
    :param left: l, integers (N,).
    :param mirrored: bool (N,).

    >>> x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> motion = ShiftAndMirror(torch.tensor([0]), torch.tensor([1]), torch.tensor([False]))
    >>> motion(x).tolist(), motion.undo(motion(x), onto=x + 10).tolist()     # the 1 went out of view
    ([[[[2.0, 3.0, 0.0]]]], [[[[11.0, 2.0, 3.0]]]])
    """

    top: Tensor
    left: Tensor
    mirrored: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns = self._steps(x)
        columns = torch.where(self.mirrored.to(x.device)[:, None], columns.flip(1), columns)
        return _taken(x, rows + self.top.to(x.device)[:, None], columns + self.left.to(x.device)[:, None], None)

    def undo(self, moved: Tensor, onto: Tensor) -> Tensor:
        """The images back in place; what was out of view is that of ``onto``."""
        rows, columns = self._steps(moved)
        columns = columns - self.left.to(moved.device)[:, None]
        columns = torch.where(self.mirrored.to(moved.device)[:, None], moved.shape[-1] - 1 - columns, columns)
        return _taken(moved, rows - self.top.to(moved.device)[:, None], columns, onto)

    @staticmethod
    def _steps(x: Tensor) -> tuple[Tensor, Tensor]:
        number, _, height, width = x.shape
        return (torch.arange(length, device=x.device).expand(number, length) for length in (height, width))  # type: ignore[return-value]


def _taken(x: Tensor, rows: Tensor, columns: Tensor, otherwise: Tensor | None) -> Tensor:
    """``x`` at the given rows (N, H) and columns (N, W); ``otherwise``, or zero, where they lie outside."""
    number, _, height, width = x.shape
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    chosen = torch.arange(number, device=x.device)[:, None, None]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    values = x.permute(0, 2, 3, 1)[chosen, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where(inside, values, x.new_zeros(()) if otherwise is None else otherwise)
