r"""Distances between two sets of images, in the features of a network that one trains or has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["frechet_distance", "kernel_distance"]

Features = npt.NDArray[np.floating]


def frechet_distance(a: Features, b: Features) -> float:
    r"""Distance of the Gaussians with the means and covariances of two sets of features.

    .. math:: d = \|\mu_a - \mu_b\|^2 + \operatorname{tr}\Sigma_a + \operatorname{tr}\Sigma_b
              - 2 \operatorname{tr} \bigl(\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2}\bigr)^{1/2}

    It is the FID (Heusel et al. 2017, https://arxiv.org/abs/1706.08500) only for the features of the Inception network;
    of others its size depends on the features, so that distances compare under one network. It is biased upwards, the
    more the fewer samples there are: compare at equal numbers.

    :param a: features, shape (samples, features), with more samples than features.
    :param b: likewise.
    :raises ValueError: for other shapes, values that are not finite, or samples too few for a covariance.

    >>> a = np.array([[0.0], [2.0]])                      # mean 1, variance 2
    >>> frechet_distance(a, a + 3)
    9.0
    """
    a, b = _checked(a, b)
    if (least := min(len(a), len(b))) <= a.shape[1]:
        raise ValueError(
            f"{least} samples of {a.shape[1]} features give no full covariance, and the distance would mostly be bias; "
            "give more samples than features, or use kernel_distance, which needs no covariance"
        )
    root = _root(np.atleast_2d(np.cov(a, rowvar=False)))
    other = np.atleast_2d(np.cov(b, rowvar=False))
    both = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other @ root), 0, None)).sum()
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    return float(max(0.0, shift + np.trace(root @ root) + np.trace(other) - 2 * both))


def kernel_distance(a: Features, b: Features) -> float:
    r"""Unbiased squared maximum mean discrepancy under :math:`k(x, y) = (x^\top y / d + 1)^3` for d features.

    .. math:: \frac{1}{m(m-1)} \sum_{i \ne j} k(a_i, a_j) + \frac{1}{n(n-1)} \sum_{i \ne j} k(b_i, b_j)
              - \frac{2}{mn} \sum_{i, j} k(a_i, b_j)

    Zero on average for two sets of one distribution, whatever their sizes, so that it may be below zero. It is the KID
    for the features of the Inception network (Binkowski et al. 2018, https://arxiv.org/abs/1801.01401).

    :param a: features, shape (m, d), m at least 2.
    :param b: features, shape (n, d), n at least 2.
    :raises ValueError: for other shapes or values that are not finite.

    >>> kernel_distance(np.zeros((2, 1)), np.ones((2, 1)))       # 1 + 8 - 2
    7.0
    """
    a, b = _checked(a, b)

    def kernel(x: Features, y: Features) -> Features:
        return (x @ y.T / x.shape[1] + 1) ** 3  # type: ignore[no-any-return]

    def within(x: Features) -> float:
        own = kernel(x, x)
        return float((own.sum() - np.trace(own)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def _checked(a: Features, b: Features) -> tuple[Features, Features]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features must have shape (samples, features) with two samples and the same features in both sets, got "
            f"{a.shape} and {b.shape}; flatten each sample's features"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features must be finite; a network that gives NaN or infinite ones measures nothing")
    return a, b


def _root(covariance: Features) -> Features:
    """The symmetric square root; eigenvalues below zero are rounding."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T  # type: ignore[no-any-return]
