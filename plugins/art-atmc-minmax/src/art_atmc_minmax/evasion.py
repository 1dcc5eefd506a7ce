"""What min-max attacks in ART's idiom share."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from art.utils import check_and_transform_label_format
from torch import Tensor
from tqdm.auto import tqdm

from art_atmc.attacks import Problem
from art_atmc.classifiers import Network, arrays
from art_atmc_minmax.domains import Domains, Images
from art_atmc_minmax.minmax import MinMax
from art_atmc_minmax.result import MinMaxResult

__all__ = ["MinMaxEvasion"]


class MinMaxEvasion(EvasionAttack, abc.ABC):  # type: ignore[misc]
    r"""What the three attacks share: their parameters are those of :class:`MinMax`, in ART's names.

    :param norm: p: infinity (also as ``"inf"``), 2, 1 or 0.
    :param eps: radius; for p = 0 how many entries may change.
    :param eps_step: first step; None for what suits the norm, see :class:`MinMax`.
    :param max_iter: steps.
    :param gamma: 0 for the plain worst case, infinity for the average of the domains.
    :param weight_step: of the ascent on the weights; infinity answers the losses at once.
    :param prior: weights of the domains that gamma draws to; None for equal ones.
    :param targeted: whether the labels given are those to be answered.
    :param random_start: begin at a random point of the ball.
    :param batch_size: inputs at a time.
    :param seed: of the random starts; None for torch's global generator.
    :param verbose: show a progress bar.

    After ``generate``, ``result`` has the perturbations, what each fools, and the weights of the domains.
    """

    attack_params: ClassVar[list[str]] = [
        *EvasionAttack.attack_params,
        *("norm", "eps", "eps_step", "max_iter", "gamma", "weight_step", "prior", "targeted", "random_start"),
        *("batch_size", "seed", "verbose"),
    ]
    _estimator_requirements: ClassVar[tuple[type, ...]] = (PyTorchClassifier,)

    def __init__(
        self,
        estimator: PyTorchClassifier,
        *,
        norm: float | str = math.inf,
        eps: float = 0.3,
        eps_step: float | None = None,
        max_iter: int = 50,
        gamma: float = 1.0,
        weight_step: float = 0.1,
        prior: Sequence[float] | None = None,
        targeted: bool = False,
        random_start: bool = True,
        batch_size: int = 128,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(estimator=estimator)
        self.norm, self.eps, self.eps_step, self.max_iter = norm, eps, eps_step, max_iter
        self.gamma, self.weight_step, self.prior = gamma, weight_step, prior
        self._targeted, self.random_start = targeted, random_start
        self.batch_size, self.seed, self.verbose = batch_size, seed, verbose
        self.result: MinMaxResult | None = None

    @abc.abstractmethod
    def domains(self, x: np.ndarray) -> Domains:
        """What has to be fooled together, for these inputs."""

    def minmax(self, domains: Domains) -> MinMax:
        """The attack on tensors that this one runs."""
        return MinMax(
            self.eps,
            domains,
            norm=self.norm,  # type: ignore[arg-type]  # "inf" is read too
            max_iter=self.max_iter,
            eps_step=self.eps_step,
            gamma=self.gamma,
            weight_step=self.weight_step,
            prior=None if self.prior is None else tuple(self.prior),
            targeted=self.targeted,
            random_start=self.random_start,
        )

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        """Adversarial examples.

        :param x: inputs, (N, ...).
        :param y: labels, indices or one-hot; targets where the attack is targeted. By default the first classifier's
            own answers.
        :param mask: array that broadcasts with ``x``; entries where it is 0 are not changed.
        :return: of the shape and type of ``x``.
        """
        mask = _mask(x, kwargs.pop("mask", None))
        if kwargs:
            raise TypeError(f"generate() got the unknown arguments {sorted(kwargs)}; it takes `mask`")
        inputs, _ = arrays(self.estimator, x, self._labels(x, y), "attacked")
        labels = torch.as_tensor(self._labels(x, y))
        domains = self.domains(x)
        attack, device = self.minmax(domains), self.estimator.device
        problem = self._problem(domains, inputs[:2].to(device))
        domains.check(problem, inputs.to(device))
        size = max(1, self.batch_size // _together(domains)) * _together(domains)
        results = []
        for rows in tqdm(torch.arange(len(x)).split(size), desc="Min-max", leave=False, disable=not self.verbose):
            part = None if mask is None else torch.as_tensor(mask[rows.numpy()])
            results.append(attack.solve(problem, inputs[rows].to(device), labels[rows].to(device), part))
        self.result = MinMaxResult.joined(results)
        return self.result.adv.cpu().numpy().astype(x.dtype, copy=False)

    def _problem(self, domains: Domains, sample: Tensor) -> Problem:
        generator = None if self.seed is None else torch.Generator(sample.device).manual_seed(self.seed)
        return Problem.of(self.estimator, Network(self.estimator, sample), generator)

    def _labels(self, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
        """Class indices."""
        if y is None:
            if self.targeted:
                raise ValueError("a targeted attack needs its targets; give them as `y`")
            return np.asarray(self.estimator.predict(x, batch_size=self.batch_size).argmax(axis=1))
        return np.asarray(check_and_transform_label_format(y, self.estimator.nb_classes).argmax(axis=1))

    def _check_params(self) -> None:
        for name, least in (("batch_size", 1), ("seed", None)):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not (whole and (least is None or value >= least)) and not (name == "seed" and value is None):
                raise ValueError(
                    f"`{name}` must be an integer{' of at least 1' if least else ' or None'}, got {value!r}"
                )
        if not isinstance(self.verbose, bool):
            raise ValueError(f"`verbose` must be True or False, got {self.verbose!r}")


def _together(domains: Domains) -> int:
    return domains.size if isinstance(domains, Images) else 1


def _mask(x: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
    """As ART's gradient attacks take it, for all of x."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    fits = np.issubdtype(mask.dtype, np.floating) or mask.dtype == bool
    if not fits or (mask.dtype != bool and mask.min() < 0):
        raise ValueError(f"`mask` must be bool, or floating point of at least 0, got {mask.dtype}")
    try:
        return np.broadcast_to(mask, x.shape)
    except ValueError:
        raise ValueError(f"`mask` must broadcast with x, {x.shape}, got the shape {mask.shape}") from None
