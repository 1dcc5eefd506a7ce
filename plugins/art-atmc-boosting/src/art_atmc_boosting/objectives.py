r"""What a stage minimises over its newest member, which stands last in the sum."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from art_atmc import Problem
from art_atmc.attacks import Recycled, adversary, perturb
from art_atmc.classifiers import true_class
from art_atmc.training import Objective, Outcome

__all__ = ["MarginBoosting", "SumWithClean", "WeightedPairs", "margin_cross_entropy"]


def margin_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    r"""The margin cross-entropy of each example (Zhang et al. 2022, MRBoost):

    .. math:: \mathrm{MCE}(z, y) = -\frac{1}{K - 1} \sum_{j \ne y} \log \mathrm{softmax}(-z)_j

    :param logits: z, (N, K).
    :param y: classes (N,), or rows of probabilities (N, K).
    :returns: (N,).

    >>> margin_cross_entropy(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)    # log 2
    tensor([0.6931])
    """
    log_probabilities = (-logits).log_softmax(dim=1)
    at_y = log_probabilities.gather(1, true_class(y)[:, None])[:, 0]
    return (at_y - log_probabilities.sum(dim=1)) / (logits.shape[1] - 1)


@final
@dataclasses.dataclass(frozen=True)
class MarginBoosting(Objective):
    """Of :class:`~art_atmc_boosting.Average`."""

    attack: Any
    mce: float = 0.0

    def __post_init__(self) -> None:
        adversary(self.attack)  # refuses what can't be one
        if isinstance(self.attack, Recycled) and self.attack.free_step:
            # Its free step takes the gradient of the training loss, here that of one member and not of the mean.
            object.__setattr__(self, "attack", dataclasses.replace(self.attack, free_step=False))

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            value = problem.loss(logits, labels)
            return value + self.mce * problem.mean(margin_cross_entropy(logits, labels)) if self.mce else value

        ensemble = problem.classifier.model
        x_adv = perturb(problem.maximising(loss), self.attack, x, y)
        last = len(ensemble) - 1
        with ensemble.using(last):
            own = problem.network(x_adv)
        logits = ensemble.weights[last] * own.detach()
        if last:
            with torch.no_grad(), ensemble.using(slice(last)):
                logits = logits + problem.network(x_adv)
        return Outcome(loss(own, y), logits)


@final
@dataclasses.dataclass(frozen=True)
class SumWithClean(Objective):
    """Of :class:`~art_atmc_boosting.Sum` with a share of the clean loss; the frozen members' clean logits are kept."""

    attack: Any
    clean_share: float
    cache: dict[str, Tensor] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        adversary(self.attack)  # refuses what can't be one

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        ensemble = problem.classifier.model
        logits = problem.network(perturb(problem, self.attack, x, y))
        last = len(ensemble) - 1
        with ensemble.using(slice(last, None)):
            clean = problem.network(x)
        if last:
            clean = self._frozen(problem, x, slice(last)) + clean
        loss = torch.lerp(problem.loss(logits, y), problem.loss(clean, y), self.clean_share)
        return Outcome(loss, logits)

    def _frozen(self, problem: Problem, x: Tensor, members: slice) -> Tensor:
        """The weighted sum of the frozen members on clean inputs, from the cache where it has all of them."""
        rows = problem.rows
        known = self.cache.get("known")
        if rows is not None and rows.motion is None and known is not None:
            index = rows.index.to(known.device)
            if bool(known[index].all()):
                return self.cache["logits"][index]
        with torch.no_grad(), problem.classifier.model.using(members):
            logits: Tensor = problem.network(x)
        if rows is not None and rows.motion is None:
            if known is None:
                self.cache["known"] = torch.zeros(rows.total, dtype=torch.bool, device=x.device)
                self.cache["logits"] = logits.new_zeros(rows.total, logits.shape[1])
            index = rows.index.to(x.device)
            self.cache["known"][index], self.cache["logits"][index] = True, logits
        return logits


@final
@dataclasses.dataclass(frozen=True)
class WeightedPairs(Objective):
    """Of :class:`~art_atmc_boosting.Pairs`."""

    attack: Any
    pairs: Tensor = dataclasses.field(repr=False, compare=False)

    def __post_init__(self) -> None:
        adversary(self.attack)  # refuses what can't be one

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Outcome:
        if problem.rows is None:
            raise ValueError(
                "`Pairs` keeps a weight for every training example and wrong label, and has to know which examples are "
                "in a batch: give arrays"
            )
        # Of mean 1, so that the learning rate means what it means elsewhere.
        pairs = len(self.pairs) * (self.pairs.shape[1] - 1)
        weights = (self.pairs[problem.rows.index.to(self.pairs.device)] * pairs).to(x)
        truth = true_class(y)

        def loss(logits: Tensor, _: Tensor) -> Tensor:
            margins = logits - logits.gather(1, truth[:, None])
            return (weights * softplus(margins)).sum(dim=1).mean() / (logits.shape[1] - 1)

        ensemble = problem.classifier.model
        with ensemble.using(len(ensemble) - 1):
            logits = problem.network(perturb(problem.maximising(loss), self.attack, x, y))
        return Outcome(loss(logits, y), logits)
