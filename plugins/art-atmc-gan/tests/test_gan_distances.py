"""Distances of sets against closed forms, scipy, and chance."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from art_atmc_gan import frechet_distance, kernel_distance, psnr, ssim


def test_frechet_distance_of_given_moments_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    whitened = rng.normal(size=(500, 3))
    whitened -= whitened.mean(0)
    whitened = whitened @ np.linalg.inv(np.linalg.cholesky(np.cov(whitened, rowvar=False))).T
    a, b = whitened * [1.0, 2.0, 3.0], whitened * [2.0, 2.0, 1.0] + [1.0, 0.0, -2.0]
    assert frechet_distance(a, b) == pytest.approx((1 + 4) + (1 - 2) ** 2 + (3 - 1) ** 2, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_is_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 64)), rng.normal(size=(200, 64)) @ rng.normal(size=(64, 64)) * 0.2
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    rng = np.random.default_rng(2)
    values = [kernel_distance(*rng.normal(size=(2, 40, 8))) for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert kernel_distance(rng.normal(size=(40, 8)), rng.normal(size=(40, 8)) + 2) > 1


def test_kernel_distance_is_the_double_sum() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(6, 4)), rng.normal(size=(5, 4))

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 4 + 1) ** 3)

    own = sum(k(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j) / 30
    own += sum(k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j) / 20
    assert kernel_distance(a, b) == pytest.approx(own - 2 * sum(k(x, y) for x in a for y in b) / 30)


def test_bad_features_are_refused() -> None:
    few = np.random.default_rng(4).normal(size=(8, 8))
    with pytest.raises(ValueError, match="kernel_distance"):
        frechet_distance(few, few)
    assert np.isfinite(kernel_distance(few, few))
    with pytest.raises(ValueError, match="shape"):
        kernel_distance(few, few[:, :4])
    with pytest.raises(ValueError, match="finite"):
        kernel_distance(few, few * np.nan)


def test_structural_similarity_is_that_of_the_sums() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random((2, 1, 2, 13, 12))
    line = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    weights = np.outer(line, line) / line.sum() ** 2
    values = []
    for c, i, j in np.ndindex(2, 3, 2):
        x, y = a[0, c, i : i + 11, j : j + 11], b[0, c, i : i + 11, j : j + 11]
        mx, my = (weights * x).sum(), (weights * y).sum()
        vx, vy, cov = ((weights * p).sum() for p in ((x - mx) ** 2, (y - my) ** 2, (x - mx) * (y - my)))
        values.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    found = ssim(torch.from_numpy(a), torch.from_numpy(b), data_range=1.0)
    assert found == pytest.approx(np.mean(values), abs=1e-9)


def test_images_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        psnr(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 5), data_range=1.0)
    with pytest.raises(ValueError, match="sides of at least 11"):
        ssim(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4), data_range=1.0)
    with pytest.raises(ValueError, match="data_range"):
        psnr(torch.ones(2), torch.ones(2), data_range=0.0)
    assert psnr(torch.ones(2), torch.ones(2), data_range=1.0) == float("inf")
