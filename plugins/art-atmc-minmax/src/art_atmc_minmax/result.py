"""What a min-max attack found, and the weights of its domains as a measure of how hard each one was."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Difficulty", "MinMaxResult"]


class Difficulty(NamedTuple):
    """How hard a domain was.

    ``weight`` is its mean weight over all perturbations at the end, ``heaviest`` the share of perturbations in which no
    other domain weighs more over the iterations, and ``fooled`` the share of perturbations that fool it.
    """

    name: str
    weight: float
    heaviest: float
    fooled: float


@final
@dataclasses.dataclass(frozen=True, eq=False)
class MinMaxResult:
    r"""G perturbations against K domains, over T iterations.

    A domain that resists keeps its loss up and draws weight, so the weights say which domains are hard (Section 5 of
    the paper). ``str()`` is a table, and :meth:`draw` shows the mean weights over the iterations.

    :param names: of the domains.
    :param adv: the adversarial examples, (N, ...).
    :param delta: the perturbations, (G, ...); G = N unless inputs share one.
    :param fooled: (G, K) which domains each perturbation fools.
    :param weights: (T + 1, G, K), the weights in each iteration; the first are the prior.
    :param losses: likewise, the losses of the perturbations that these weights answer.

    >>> flags, weights = torch.tensor([[True, False]]), torch.tensor([[[0.5, 0.5]], [[0.25, 0.75]]])
    >>> empty = torch.zeros(1, 1)
    >>> print(MinMaxResult(("easy", "hard"), empty, empty, flags, weights, weights))
    domain  weight  heaviest  fooled
    easy      0.25       0 %   100 %
    hard      0.75     100 %     0 %
    all at once                  0 %
    """

    names: tuple[str, ...]
    adv: Tensor
    delta: Tensor
    fooled: Tensor
    weights: Tensor
    losses: Tensor

    @property
    def success(self) -> float:
        """The share of perturbations that fool every domain at once."""
        return float(self.fooled.all(dim=1).float().mean())

    @property
    def difficulty(self) -> tuple[Difficulty, ...]:
        """Of each domain, in their order."""
        over_time = self.weights.mean(dim=0)
        heaviest = over_time.argmax(dim=1)
        return tuple(
            Difficulty(
                name,
                float(self.weights[-1, :, k].mean()),
                float((heaviest == k).float().mean()),
                float(self.fooled[:, k].float().mean()),
            )
            for k, name in enumerate(self.names)
        )

    @classmethod
    def joined(cls, results: Sequence[MinMaxResult]) -> MinMaxResult:
        """Those of several batches as one."""
        first = results[0]
        return cls(
            first.names,
            *(torch.cat([getattr(r, name) for r in results]) for name in ("adv", "delta", "fooled")),
            *(torch.cat([getattr(r, name) for r in results], dim=1) for name in ("weights", "losses")),
        )

    def draw(self, axes: Axes | None = None) -> Axes:
        """The mean weight of each domain over the iterations.

        :param axes: of matplotlib, to draw on; new ones by default.
        :raises ImportError: without matplotlib, naming the extra that brings it.
        """
        if axes is None:
            try:
                from matplotlib.figure import Figure
            except ImportError as error:
                raise ImportError(
                    f"the weights are drawn with matplotlib ({error}): pip install 'art-atmc-minmax[plot]'"
                ) from error
            axes = Figure(figsize=(6, 3), layout="constrained").subplots()
        for name, line in zip(self.names, self.weights.mean(dim=1).T.cpu().numpy(), strict=True):
            axes.plot(line, label=name)
        axes.set(xlabel="iteration", ylabel="mean weight", ylim=(0, None))
        axes.legend(frameon=False)
        return axes

    def __str__(self) -> str:
        width = max(6, *map(len, self.names))
        rows = [f"{'domain':{width}}  weight  heaviest  fooled"]
        rows += [
            f"{d.name:{width}}  {d.weight:6.2f}  {100 * d.heaviest:6.0f} %  {100 * d.fooled:4.0f} %"
            for d in self.difficulty
        ]
        return "\n".join([*rows, f"{'all at once':{width + 18}}  {100 * self.success:4.0f} %"])
