"""Randomised smoothing: what the smoothed ensemble is certified to withstand, by ART's classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from art.estimators.classification import PyTorchClassifier
from scipy.stats import beta

from art_atmc_boosting.attacked import classes
from art_atmc_boosting.classifier import settings

__all__ = ["Certificate", "SmoothedClassifier", "certify", "smoothed"]


@final
class SmoothedClassifier(PyTorchRandomizedSmoothing):  # type: ignore[misc]
    """ART's ``PyTorchRandomizedSmoothing`` without its need of statsmodels."""

    def _lower_confidence_bound(self, n_class_samples: int, n_total_samples: int) -> float:
        """Clopper and Pearson's bound, which statsmodels takes from the same quantile."""
        if n_class_samples == 0:
            return 0.0
        return float(beta.ppf(self.alpha, n_class_samples, n_total_samples - n_class_samples + 1))


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """What is certified of each example.

    :param classes: (n,) of the smoothed classifier; -1 where it abstains.
    :param radii: (n,) within which, in the 2-norm, the class is certain but for the error probability alpha.
    :param correct: (n,) whether the class is the true one.
    """

    classes: np.ndarray
    radii: np.ndarray
    correct: np.ndarray

    def accuracy(self, radius: float) -> float:
        """Certified accuracy: the share of examples that are right throughout the ball of this radius."""
        return float((self.correct & (self.radii >= radius)).mean())

    @property
    def average_radius(self) -> float:
        """Average certified radius, 0 for examples that are wrong."""
        return float((self.correct * self.radii).mean())

    def table(self, radii: Sequence[float]) -> dict[float, float]:
        """Certified accuracy at each radius."""
        return {radius: self.accuracy(radius) for radius in radii}


def smoothed(
    classifier: PyTorchClassifier, scale: float, *, sample_size: int = 100, alpha: float = 0.001
) -> SmoothedClassifier:
    r"""The smoothed classifier of Cohen et al. 2019, https://arxiv.org/abs/1902.02918:

    .. math:: g(x) = \arg\max_c\; P_{\delta \sim N(0, \sigma^2 I)}\bigl[f(x + \delta) = c\bigr]

    :param classifier: f, an ensemble or any other; its model is shared. Train it on inputs with that noise.
    :param scale: :math:`\sigma`, in the units of x; positive.
    :param sample_size: draws by which the class is chosen.
    :param alpha: probability, in (0, 1), that a certificate is wrong.
    """
    if not (np.isfinite(scale) and scale > 0 and 0 < alpha < 1):
        raise ValueError(f"`scale` must be above 0 and `alpha` in (0, 1), got {scale} and {alpha}")
    arguments, options = settings(classifier)
    options |= {"scale": scale, "sample_size": sample_size, "alpha": alpha}
    return SmoothedClassifier(classifier.model, *arguments, **options)


def certify(
    smoothed_classifier: PyTorchRandomizedSmoothing,
    x: np.ndarray,
    y: np.ndarray,
    *,
    draws: int = 1000,
    batch_size: int = 512,
    seed: int = 0,
) -> Certificate:
    r"""The radius :math:`\sigma\, \Phi^{-1}(\underline{p})` of each example, with :math:`\underline{p}` the lower
    confidence bound of the probability of its class.

    :param draws: by which the bound is found; with 1000 and alpha 0.001 no radius exceeds :math:`2.46\, \sigma`.
    :param seed: of the noise, which ART draws from numpy's global generator; it comes back as it was.
    """
    before: Any = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            found, radii = smoothed_classifier.certify(x.astype(np.float32), n=draws, batch_size=batch_size)
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return Certificate(found, radii, found == classes(y).numpy())
