"""The min-max attack in ART's idiom: over classifiers, over images, over transformations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, final

import numpy as np
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from art_atmc.attacks import Problem
from art_atmc_minmax.domains import Domains, Images
from art_atmc_minmax.evasion import MinMaxEvasion
from art_atmc_minmax.models import Models
from art_atmc_minmax.transformations import Transformation, Transformations

__all__ = ["MinMaxAttack", "MinMaxTransformations", "MinMaxUniversal"]


@final
class MinMaxAttack(MinMaxEvasion):
    """One perturbation for each input that fools several classifiers at once.

    :param estimators: ART ``PyTorchClassifier``s of one input shape, number of classes, clip values and device. The
        first is ``estimator``.
    :param names: what to call them in ``result``.
    :param parameters: see :class:`MinMaxEvasion`.
    :raises ValueError: for an empty list and classifiers that are unlike, naming them and what differs.
    """

    attack_params: ClassVar[list[str]] = MinMaxEvasion.attack_params

    def __init__(
        self, estimators: Sequence[PyTorchClassifier], *, names: Sequence[str] | None = None, **parameters: Any
    ) -> None:
        if isinstance(estimators, PyTorchClassifier):
            estimators = [estimators]
        if not len(estimators):
            raise ValueError("`estimators` is empty; give at least one PyTorchClassifier")
        super().__init__(estimators[0], **parameters)
        self.estimators = tuple(estimators)
        self._domains = Models(self.estimators, names)
        self._check_params()

    def domains(self, x: np.ndarray) -> Domains:
        return self._domains

    def _problem(self, domains: Domains, sample: Tensor) -> Problem:
        problem = super()._problem(domains, sample)
        return Problem.of(self.estimator, domains.networks(problem)[0], problem.generator)

    def _check_params(self) -> None:
        super()._check_params()
        self.minmax(self._domains)


@final
class MinMaxUniversal(MinMaxEvasion):
    """One perturbation for each group of images (universal).

    :param estimator: an ART ``PyTorchClassifier``.
    :param group_size: K, the consecutive images that share a perturbation; None for all.
    :param clip_each: whether each perturbed image is clipped by itself, see :class:`Images`.
    :param parameters: see :class:`MinMaxEvasion`.
    """

    attack_params: ClassVar[list[str]] = [*MinMaxEvasion.attack_params, "group_size", "clip_each"]

    def __init__(
        self, estimator: PyTorchClassifier, *, group_size: int | None = None, clip_each: bool = True, **parameters: Any
    ) -> None:
        super().__init__(estimator, **parameters)
        self.group_size, self.clip_each = group_size, clip_each
        self._check_params()

    def domains(self, x: np.ndarray) -> Domains:
        return Images(len(x) if self.group_size is None else self.group_size, self.clip_each)

    @property
    def noise(self) -> np.ndarray | None:
        """The perturbations, (G, ...), before any image was clipped."""
        return None if self.result is None else self.result.delta.cpu().numpy()

    @property
    def fooling_rate(self) -> float | None:
        """The share of images that are fooled."""
        return None if self.result is None else float(self.result.fooled.float().mean())

    def _check_params(self) -> None:
        super()._check_params()
        size = 1 if self.group_size is None and self.prior is None else self.group_size
        if size is None:
            raise ValueError("`prior` needs a `group_size`, whose images it has weights for")
        self.minmax(Images(size, self.clip_each))


@final
class MinMaxTransformations(MinMaxEvasion):
    """One perturbation for each input that survives a family of transformations.

    :param estimator: an ART ``PyTorchClassifier``.
    :param transformations: torch callables on batches, or ART's ``EoTPyTorch``, see :class:`Transformations`.
    :param parameters: see :class:`MinMaxEvasion`.
    """

    attack_params: ClassVar[list[str]] = [*MinMaxEvasion.attack_params, "transformations"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        transformations: Sequence[Transformation | Callable[..., Any] | str],
        **parameters: Any,
    ) -> None:
        super().__init__(estimator, **parameters)
        self.transformations = tuple(transformations)
        self._check_params()

    def domains(self, x: np.ndarray) -> Domains:
        return Transformations(self.transformations)

    def _check_params(self) -> None:
        super()._check_params()
        self.minmax(Transformations(self.transformations))
