r"""Rules: what the newest member of a sum is trained on, and what it weighs there."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, ClassVar, final

from torch import Tensor

from art_atmc import Adversarial
from art_atmc.support.numbers import Real, check_numbers
from art_atmc.training import Objective
from art_atmc_boosting.objectives import MarginBoosting, SumWithClean, WeightedPairs

__all__ = ["Average", "Pairs", "Rule", "Sum"]


class Rule(abc.ABC):
    """How a stage trains the newest member, the others being frozen.

    :param alone: whether the edge of a member is measured against attacks on itself, rather than on the sum.
    """

    alone: ClassVar[bool] = False

    @abc.abstractmethod
    def objective(self, attack: Any, pairs: Tensor) -> Objective:
        """The objective of a stage, whose classifier's model is the sum with the newest member last.

        :param attack: the inner maximisation.
        :param pairs: (n, classes) weights of (example, wrong label) over the training data, which sum to 1.
        """

    @abc.abstractmethod
    def weights(self, before: list[float], edge: float | None = None) -> list[float]:
        """The weights of all members with a new one after those of ``before``; ``edge`` once it is trained."""

    def candidates(self) -> tuple[float, ...]:
        """Weights of the newest member to choose from on attacked validation data; none where the rule sets it."""
        return ()


@final
@dataclasses.dataclass(frozen=True)
class Average(Rule):
    r"""Margin boosting: attack the mean, train the newest member alone on what the attack finds.

    .. math:: \min_{f_t} \mathbb{E}\,\bigl[\ell(f_t(x'), y) + \lambda\, \mathrm{MCE}(f_t(x'), y)\bigr], \qquad
              x' = \arg\max_{x' \in B(x, \epsilon)} \ell\Bigl(\tfrac1t \sum_{s \le t} f_s(x'), y\Bigr)

    MRBoost of Zhang et al., *Building Robust Ensembles via Margin Boosting*, ICML 2022.

    :param mce: :math:`\lambda`, weight of the margin cross-entropy (:func:`margin_cross_entropy`), at least 0. The
        attack maximises it too.

    >>> Average().weights([1.0])
    [0.5, 0.5]
    """

    mce: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, mce=Real("[0, inf)", "0 leaves it out"))

    def objective(self, attack: Any, pairs: Tensor) -> Objective:
        return MarginBoosting(attack, self.mce)

    def weights(self, before: list[float], edge: float | None = None) -> list[float]:
        return [1 / (len(before) + 1)] * (len(before) + 1)


@final
@dataclasses.dataclass(frozen=True)
class Sum(Rule):
    r"""Greedy stage-wise boosting: attack the sum, and let the newest member lower the loss of the sum.

    .. math:: \min_{f_t} \mathbb{E} \max_{x' \in B(x, \epsilon)} \ell\bigl(F_{t-1}(x') + \beta f_t(x'), y\bigr), \qquad
              F_t = F_{t-1} + \beta_t f_t

    Abernethy, Awasthi & Kale 2021, https://arxiv.org/abs/2103.01276.

    :param beta: weight of each new member while it is trained, positive.
    :param search: weights to choose :math:`\beta_t` from once it is trained, as multiples of ``beta``: the one with the
        highest robust accuracy on validation data; of equal ones the least attacked loss. Empty for no search.
    :param clean_share: share of the clean loss in [0, 1), as of :class:`art_atmc.Adversarial`. The clean logits of the
        frozen members are computed once for each example and kept.

    >>> Sum(beta=0.5).weights([1.0])
    [1.0, 0.5]
    """

    beta: float = 1.0
    search: tuple[float, ...] = (0.5, 1.0, 2.0)
    clean_share: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "search", tuple(self.search))
        faults = []
        if bad := [b for b in self.search if not (math.isfinite(b) and b > 0)]:
            faults.append(
                f"`search` must hold finite numbers above 0, got {bad}; (0.5, 1, 2) is usual, () is no search"
            )
        check_numbers(
            self,
            faults,
            beta=Real("(0, inf)", "1 adds the member as it is"),
            clean_share=Real("[0, 1)", "with 1 there would be no attack"),
        )

    def objective(self, attack: Any, pairs: Tensor) -> Objective:
        return Adversarial(attack) if not self.clean_share else SumWithClean(attack, self.clean_share)

    def weights(self, before: list[float], edge: float | None = None) -> list[float]:
        return [*before, self.beta if before else 1.0]

    def candidates(self) -> tuple[float, ...]:
        return tuple(self.beta * share for share in self.search)


@final
@dataclasses.dataclass(frozen=True)
class Pairs(Rule):
    r"""The theoretical form: a member must be robust by itself where the former ones fail, pair by pair.

    .. math:: \min_{f_t} \sum_i \max_{x' \in B(x_i, \epsilon)} \sum_{j \ne y_i} w_{ij}
              \log\bigl(1 + e^{f_t(x')_j - f_t(x')_{y_i}}\bigr)

    with multiplicative weights w over (example, wrong label), see :class:`~art_atmc_boosting.PairWeights`. A member
    weighs :math:`\tfrac12 \log\frac{1 + \gamma_t}{1 - \gamma_t}` with :math:`\gamma_t` its edge (Mukherjee & Schapire
    2013; Abernethy et al. 2021). It needs arrays: a batch must say which examples it holds.

    >>> Pairs().weights([0.4], edge=0.0)[-1]
    1.0
    """

    alone: ClassVar[bool] = True

    def objective(self, attack: Any, pairs: Tensor) -> Objective:
        return WeightedPairs(attack, pairs)

    def weights(self, before: list[float], edge: float | None = None) -> list[float]:
        # As it is trained its weight does not matter: it is trained alone.
        return [*before, math.atanh(min(edge, 1 - 1e-6)) if edge is not None and edge > 0 else 1.0]
