r"""Constraints: a constraint is its projection.

A set :math:`S` is given by one method, :meth:`Constraint.project`, the nearest point of the set. Everything else that
compression needs follows: feasibility is :math:`P(w) = w`, the violation is the squared distance :math:`\|w-P(w)\|^2`.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar, final

import torch
from torch import Tensor

from art_atmc.compression.codebook import fit_codebook, nearest_code
from art_atmc.compression.weights import Weights
from art_atmc.support.numbers import Real, Whole, check_numbers, keep_plain

__all__ = ["Constraint", "Quantization", "Sparsity"]


@dataclasses.dataclass(frozen=True)
class Constraint(abc.ABC):
    r"""A closed set :math:`S` of weights, given by its projection :math:`P(w) \in \arg\min_{z \in S} \|z - w\|^2`.

    Subclasses are frozen dataclasses with one method, :meth:`project`. The fields are the set's parameters, so the
    ``repr`` rebuilds the constraint. :meth:`relaxed` and :meth:`project_near` may be refined; the defaults are right
    for every set.
    """

    coded: ClassVar[bool] = False
    """Whether the set restricts which values weights take (a codebook, a grid), rather than which of them are zero.
    Such a set is enforced by ADMM and acts late in the run, on a support that others have settled: its projection need
    only be the nearest of the points with the zeros of w."""

    api_version: ClassVar[int] = 1
    """The version of this interface that the class was written for, see :mod:`art_atmc.plugins`. It stays 1 here, so
    that a class which says nothing was written for the first one; one that needs a later version says so itself."""

    def __post_init__(self) -> None:
        """Numbers become plain Python numbers, whose ``repr`` can be read back; a subclass with its own
        ``__post_init__`` calls this one, or :func:`~art_atmc.support.numbers.check_numbers`."""
        keep_plain(self)

    @abc.abstractmethod
    def project(self, weights: Weights) -> Weights:
        r"""The nearest point of the set, :math:`P(w)`; new tensors of the same shapes, dtypes and devices.

        Must leave ``weights`` untouched, return feasible weights bit for bit, and be deterministic.
        """

    def project_near(self, weights: Weights, near: Weights) -> Weights:
        """A cheaper projection for iterative methods that holds a feasible point close by.

        :param near: an earlier point of the set; may warm-start the search. The result is feasible, but may be a
            locally nearest point only.
        """
        return self.project(weights)

    def check(self, weights: Weights) -> None:
        """Refuse weights that cannot meet the constraint, with a ``ValueError``; called before training starts."""

    def relaxed(self, progress: float) -> Constraint:
        r"""A larger set of the same kind, on the way from no constraint (``progress`` 0) to this one (1)."""
        return self

    @final
    def violation(self, weights: Weights) -> float:
        r"""Squared distance to the set, :math:`\|w - P(w)\|_2^2`; zero exactly on the set."""
        detached = weights.detach()
        projected = self.project(detached)
        return sum(float((t - projected[name]).double().square().sum()) for name, t in detached.items())


@final
@dataclasses.dataclass(frozen=True)
class Sparsity(Constraint):
    r"""One budget of non-zero entries over all weights together (ATMC, Eq. 4).

    .. math:: S = \{ w : \sum_l \|W_l\|_0 \le k \}, \qquad k = \lfloor \text{density} \cdot N \rfloor

    with :math:`N` the number of weights of the *dense* network. The projection keeps the k largest magnitudes; among
    equal magnitudes at the border the earlier entries stay, so exactly k are kept.

    :param density: share of the dense network's weights that may differ from zero, in (0, 1].
    :raises ValueError: when the density is out of range, or so small that no weight would be left.

    >>> weights = Weights({"a": torch.tensor([5.0, -1.0]), "b": torch.tensor([[2.0], [-3.0]])})
    >>> kept = Sparsity(density=0.5).project(weights)
    >>> kept["a"].tolist(), kept["b"].tolist()
    ([5.0, 0.0], [[0.0], [-3.0]])
    """

    density: float

    def __post_init__(self) -> None:
        check_numbers(self, density=Real("(0, 1]", "give the share of weights to keep"))

    def check(self, weights: Weights) -> None:
        self.budget(weights)

    def budget(self, weights: Weights) -> int:
        """The number k of entries that may differ from zero."""
        # The number that the user meant, not its binary neighbour: 0.29 of 100 is 29, though 0.29 * 100 < 29.
        k = math.floor(self.density * weights.dense_size + 1e-6)
        if k < 1:
            raise ValueError(
                f"`density` {self.density} keeps none of {weights.dense_size} weights; "
                f"give at least {1 / weights.dense_size:.2g}"
            )
        return k

    def project(self, weights: Weights) -> Weights:
        k = self.budget(weights)
        magnitudes = torch.cat([t.detach().abs().reshape(-1) for t in weights.values()])
        keep = largest(magnitudes, k)
        if keep is None:
            return weights.clone()
        kept = torch.zeros_like(magnitudes, dtype=torch.bool).index_fill_(0, keep, True)
        parts = kept.split([t.numel() for t in weights.values()])
        return weights.like(
            {
                name: torch.where(part.reshape(t.shape), t.detach(), torch.zeros((), dtype=t.dtype, device=t.device))
                for (name, t), part in zip(weights.items(), parts, strict=True)
            }
        )

    def relaxed(self, progress: float) -> Sparsity:
        r"""Density on the cubic :math:`d(p) = d + (1 - d)(1 - p)^3` (Zhu & Gupta 2017)."""
        return Sparsity(self.density + (1 - self.density) * (1 - progress) ** 3) if progress < 1 else self


@final
@dataclasses.dataclass(frozen=True)
class Quantization(Constraint):
    r"""A codebook for every tensor: at most :math:`2^b` distinct non-zero values each (ATMC, Eq. 5).

    .. math:: S = \{ w : |W_l|_0 \le 2^b \text{ for every } l \}, \qquad
              |M|_0 = \text{number of distinct non-zero values of } M

    Zero is a further, free value. Zeros stay zero and no other entry becomes zero: which entries are, is for a sparsity
    constraint to say, so this is the nearest of the points with the zeros of w, not of all of S. The projection
    replaces the non-zero entries of each tensor by the nearest centre of their one-dimensional k-means codebook:
    optimal up to 4096 distinct values, within 0.3 % of the least error beyond them for 8 bits and 1 % for 10, and 5 to
    45 % off above 10 bits. Tensors that already fit come back bit for bit.

    :param bits: b, an integer in 1..16.
    :raises ValueError: when ``bits`` is out of range.

    >>> weights = Weights({"a": torch.tensor([0.0, 1.0, 1.2, 4.0, 4.4])})
    >>> [round(v, 6) for v in Quantization(bits=1).project(weights)["a"].tolist()]
    [0.0, 1.1, 1.1, 4.2, 4.2]
    """

    bits: int
    coded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers(self, bits=Whole(1, 16, "leave the constraint out to keep 32-bit weights"))

    def project(self, weights: Weights) -> Weights:
        return weights.map(self._coded)

    def project_near(self, weights: Weights, near: Weights) -> Weights:
        """Lloyd steps from the codebook of ``near`` in place of the full search."""
        return weights.map(self._coded, near)

    def _coded(self, tensor: Tensor, near: Tensor | None = None) -> Tensor:
        flat = tensor.detach().reshape(-1)
        support = flat.nonzero().squeeze(1)  # once: each of its uses would look at every entry again
        values = flat[support]
        if values.numel() <= 2**self.bits:  # cannot hold more distinct values than entries
            return tensor.detach().clone(memory_format=torch.contiguous_format)
        start = None if near is None else _codes(near.reshape(-1)[support])
        if start is not None and not 0 < start.numel() <= 2**self.bits:
            start = None
        coded = torch.zeros_like(flat)
        coded[support] = nearest_code(values, fit_codebook(values, 2**self.bits, start=start))
        return coded.reshape(tensor.shape)


def _codes(coded: Tensor) -> Tensor:
    """The distinct non-zero values among coded entries, perhaps without the rarest: sorting every entry costs more than
    the search that starts from them."""
    codes = coded[:: max(1, coded.numel() // 16_384)].unique()
    return codes[codes != 0]


def largest(magnitudes: Tensor, k: int) -> Tensor | None:
    r"""Indices, ascending, of exactly k largest entries; None when at most k differ from zero.

    Ties at the border go to the smaller index. A strided sample bounds the k-th magnitude from below, so that only the
    few entries above the bound are ranked: about three passes over the data in place of a sort.
    """
    candidates = _candidates(magnitudes, k)
    if candidates.numel() <= k:
        return None
    ranked = magnitudes[candidates]
    threshold = ranked.kthvalue(ranked.numel() - k + 1).values
    above = ranked > threshold
    ties = ranked == threshold
    # `candidates` ascends, so a running count of the ties admits the earliest ones.
    admitted = ties & (ties.cumsum(0) <= k - above.sum())
    return candidates[above | admitted]


def _candidates(magnitudes: Tensor, k: int) -> Tensor:
    """Ascending indices of non-zero entries that include the k largest (all non-zero ones when there are at most k)."""
    stride = magnitudes.numel() // 65_536
    if stride > 1:
        sample = magnitudes[::stride]
        expected = sample.numel() * k / magnitudes.numel()
        # Four standard deviations below the expected rank: where the sample misleads, the full ranking is still exact.
        rank = math.ceil(expected + 4 * math.sqrt(expected) + 4)
        if rank < sample.numel():
            bound = sample.kthvalue(sample.numel() - rank + 1).values
            if bound > 0:
                likely = (magnitudes >= bound).nonzero().reshape(-1)
                if likely.numel() > k:
                    return likely
    return magnitudes.nonzero().reshape(-1)
