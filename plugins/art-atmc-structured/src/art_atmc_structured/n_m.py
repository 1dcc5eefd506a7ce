"""N:M sparsity: all but n of every m consecutive weights are zero."""

from __future__ import annotations

import dataclasses
import math
from typing import final

from torch import Tensor
from torch.nn.functional import pad

from art_atmc import Constraint, Weights
from art_atmc.support.numbers import Whole, check_numbers
from art_atmc_structured.groups import Entries, check_ignore, grouped_names

__all__ = ["NMSparsity"]


@final
@dataclasses.dataclass(frozen=True)
class NMSparsity(Constraint):
    r"""N:M sparsity: of m consecutive entries along the input dimension at most n differ from zero.

    For every output i and position y of the kernel, :math:`\|(W_{i,j,y})_{qm \le j < (q+1)m}\|_0 \le n` for
    :math:`q = 0, 1, \dots`; the last of these runs may be shorter and has the same n. The projection keeps the n
    largest magnitudes of each run, among equal ones the earlier.

    :param n: non-zero entries of a run, in 1..m.
    :param m: length of a run, at least 1.
    :param ignore: patterns of weights that stay as they are.
    :raises ValueError: for other numbers; from ``check`` and ``project``, for factored weights and for patterns that
        match nothing.

    >>> import torch
    >>> NMSparsity(n=2, m=4).project(Weights({"a": torch.tensor([[1.0, -3.0, 2.0, 2.0, 5.0]])}))["a"].tolist()
    [[0.0, -3.0, 2.0, 0.0, 5.0]]
    """

    n: int = 2
    m: int = 4
    ignore: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        remedy = "N:M sparsity needs 1 <= n <= m, such as 2 and 4"
        check_numbers(self, m=Whole(1, None, remedy))
        check_numbers(self, n=Whole(1, self.m, remedy))
        check_ignore(self.ignore)

    def check(self, weights: Weights) -> None:
        grouped_names(weights, Entries(), self.ignore)

    def project(self, weights: Weights) -> Weights:
        names = grouped_names(weights, Entries(), self.ignore)
        return weights.like(dict(weights.clone()) | {name: self._projected(weights[name].detach()) for name in names})

    def relaxed(self, progress: float) -> NMSparsity:
        r""":math:`n(p) = n + \lceil (m - n)(1 - p)^3 \rceil`."""
        return dataclasses.replace(self, n=self.n + math.ceil((self.m - self.n) * (1 - progress) ** 3))

    def _projected(self, weight: Tensor) -> Tensor:
        last = weight.movedim(1, -1)
        inputs = last.shape[-1]
        runs = pad(last, (0, -inputs % self.m)).reshape(-1, self.m)
        order = runs.abs().argsort(dim=1, descending=True, stable=True)
        kept = runs.scatter(1, order[:, self.n :], 0).reshape(*last.shape[:-1], -1)[..., :inputs]
        return kept.movedim(-1, 1).contiguous()
