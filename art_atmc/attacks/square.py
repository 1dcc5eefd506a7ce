"""Square: random search that asks for logits only, so that no trick with gradients stops it."""

from __future__ import annotations

import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from art_atmc.attacks.ball import box, length, project
from art_atmc.attacks.base import Adversary, Problem
from art_atmc.classifiers.labels import class_logits, misclassified, true_class
from art_atmc.classifiers.modes import fixed
from art_atmc.support.numbers import Real, Whole, check_numbers

__all__ = ["Square", "margin"]

# The side of the squares shrinks at these shares of all queries (Andriushchenko et al. 2020, section 3.1).
SHRINKS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    r""":math:`\max_{i \ne y} z_i - z_y`, (N,): positive where the sample is misclassified.

    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([1]))
    tensor([2.])
    """
    own = logits.gather(1, y[:, None])
    return (logits.scatter(1, y[:, None], -math.inf).max(dim=1, keepdim=True).values - own)[:, 0]


@final
@dataclasses.dataclass(frozen=True)
class Square(Adversary):
    r"""Square attack (Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049), with a square of its own for each
    sample.

    Begins with vertical stripes. A proposal paints a random square of the perturbation in one random sign a channel,
    and is kept when the margin :math:`\max_{i \ne y} z_i - z_y` rises. For p = infinity the square gets
    :math:`\pm\epsilon`. For p = 1 and 2 a second random square is emptied, and the first one gets evenly what the norm
    then leaves,

    .. math:: \bigl(\epsilon^p - \|\delta_{\text{outside both}}\|_p^p\bigr)^{1/p},

    which is simpler than the paper's bump for p = 2. Samples that are misclassified are left alone from then on. The
    last two axes of an image are its height and width; anything else is a row.

    :param eps: radius, in the units of x; positive.
    :param norm: p: 1, 2 or infinity.
    :param max_iter: queries a sample, at least 1; 5000 is usual, 500 finds most.
    :param share: of the image that the first squares cover, in (0, 1].
    :raises ValueError: at construction, naming every parameter out of range.

    >>> network = torch.nn.Linear(4, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 4))  # class 0 for a positive sum
    >>> x = torch.tensor([[0.1, 0.1, 0.1, 0.1]])
    >>> bool(Square(eps=0.2, max_iter=50)(Problem(network), x, torch.tensor([0])).sum() < 0)
    True
    """

    eps: float
    norm: float = math.inf
    max_iter: int = 1000
    share: float = 0.8

    def __post_init__(self) -> None:
        check_numbers(
            self,
            eps=Real("(0, inf)", "give the radius in the units of x"),
            norm=Real((1, 2, math.inf), "for another norm use an ART attack"),
            max_iter=Whole(1, None, "500 finds most"),
            share=Real("(0, 1]", "0.8 is usual"),
        )

    @torch.no_grad()
    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        y = true_class(y)
        source = torch.default_generator if problem.generator is None else problem.generator
        adv, rows = x.clone(), torch.arange(len(x), device=x.device)
        low, high = (limit.expand_as(x) for limit in box(problem.clip_values, x))
        best = torch.full_like(y, -math.inf, dtype=x.dtype)
        with fixed(problem.network):
            for query in range(self.max_iter):
                delta = self._stripes(x, source) if query == 0 else self._painted(adv[rows] - x, query, source)
                proposal = project(x + delta, x, self.eps, self.norm, (low, high))
                logits = class_logits(problem.network(proposal))
                value, fooled = margin(logits, y), misclassified(logits, y)
                better = fooled | (value > best)
                adv[rows[better]] = proposal[better]
                best = torch.where(better, value, best)
                if fooled.any():
                    x, y, low, high, rows, best = (t[~fooled] for t in (x, y, low, high, rows, best))
                if not len(rows):
                    break
        return adv

    def _stripes(self, x: Tensor, generator: torch.Generator) -> Tensor:
        image = _image(x)
        signs = _signs((len(image), image.shape[1], 1, image.shape[3]), generator).to(x).expand_as(image)
        return (signs * (self.eps / length(signs, self.norm))).reshape(x.shape)

    def _painted(self, delta: Tensor, query: int, generator: torch.Generator) -> Tensor:
        image = _image(delta)
        first = self._squares(image, query, generator)
        signs = _signs((*image.shape[:2], 1, 1), generator).to(image)
        if self.norm == math.inf:
            return torch.where(first, self.eps * signs, image).reshape(delta.shape)
        kept = image * ~(first | self._squares(image, query, generator))
        left = (self.eps**self.norm - length(kept, self.norm) ** self.norm).clamp_(min=0)
        count = image.shape[1] * first.sum(dim=(1, 2, 3), keepdim=True)
        return torch.where(first, signs * (left / count) ** (1 / self.norm), kept).reshape(delta.shape)

    def _squares(self, image: Tensor, query: int, generator: torch.Generator) -> Tensor:
        """One random square for each sample; bool (N, 1, H, W)."""
        number, _, height, width = image.shape
        area = self.share * height * width / 2 ** sum(query / self.max_iter > shrink for shrink in SHRINKS)
        tall = min(max(round(math.sqrt(area)), 1), height)
        wide = min(max(round(area / tall), 1), width) if height == 1 else min(tall, width)
        spans = []
        for size, side in ((height, tall), (width, wide)):
            start = torch.randint(size - side + 1, (number, 1), generator=generator, device=generator.device)
            place = torch.arange(size, device=generator.device)
            spans.append(((place >= start) & (place < start + side)).to(image.device))
        return (spans[0][:, :, None] & spans[1][:, None, :])[:, None]


def _image(batch: Tensor) -> Tensor:
    if batch.dim() == 4:
        return batch
    return batch.flatten(1)[:, None, None, :] if batch.dim() != 3 else batch[:, :, None, :]


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator, device=generator.device) - 1
