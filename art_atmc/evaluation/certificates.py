r"""Certificates: balls in which an answer is known to stay as it is, whatever attack is run."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import torch
from art.estimators.certification.randomized_smoothing.randomized_smoothing import RandomizedSmoothingMixin
from numpy.typing import NDArray
from pydantic import JsonValue
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.stats import beta, norm
from torch import Tensor

from art_atmc.attacks.base import Problem
from art_atmc.classifiers.labels import class_logits
from art_atmc.evaluation.outcomes import Distances, Outcomes, share
from art_atmc.support.numbers import Real, Whole, check_numbers
from art_atmc.support.randomness import draw_seed, isolated_randomness
from art_atmc.support.terminal import plain_text

__all__ = ["Certificate", "CertificateResult", "Certified", "Smoothing", "certified_table"]


class Certified(NamedTuple):
    """What a certificate says of each example.

    :param classes: (N,) that are answered; -1 where it abstains.
    :param radii: (N,) of the balls throughout which they are answered, in the units of x; 0 where it abstains.
    """

    classes: NDArray[np.int64]
    radii: NDArray[np.float64]


class Certificate(abc.ABC):
    """A lower bound on robustness, where an attack gives an upper one.

    :param norm: of its balls: 1, 2 or infinity.
    """

    norm: ClassVar[float]

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What to call it in a report; no attack of the suite has it."""

    @property
    @abc.abstractmethod
    def shown(self) -> tuple[float, ...]:
        """Radii at which a report shows the certified accuracy."""

    @abc.abstractmethod
    def __call__(self, problem: Problem, x: Tensor, batch_size: int) -> Certified:
        """Certify a batch.

        :param problem: the network, and the random numbers.
        :param x: inputs (N, ...).
        :param batch_size: inputs that the network may be asked at a time.
        """


@final
@dataclasses.dataclass(frozen=True)
class Smoothing(Certificate):
    r"""Randomised smoothing (Cohen et al. 2019, https://arxiv.org/abs/1902.02918), by ART's implementation.

    .. math:: g(x) = \arg\max_c\; P_{\delta \sim N(0, \sigma^2 I)}\bigl[f(x + \delta) = c\bigr]
              \quad\text{is constant on}\quad B_2\bigl(x,\; \sigma\, \Phi^{-1}(\underline{p})\bigr)

    with :math:`\underline{p} > 1/2` a lower confidence bound (Clopper and Pearson's) of the probability of the class,
    and :math:`\Phi` the normal distribution function. What is certified is the smoothed classifier g, not the network f
    that attacks meet. f should be trained on inputs with that noise, as by ``augmentation=`` of a trainer's ``fit``.

    :param scale: :math:`\sigma`, in the units of x; positive.
    :param draws: of the noise for the bound, at least 1; an example costs ``draws + sample_size`` answers. No radius
        exceeds :math:`\sigma\, \Phi^{-1}(\alpha^{1 / \text{draws}})`, 2.46 times the scale by default.
    :param sample_size: draws of the noise by which the class is chosen before, at least 1.
    :param alpha: probability, in (0, 1), that the certificate of an example is wrong.
    :param radii: at which a report shows the certified accuracy, in the units of x; by default 0, a half, one and one
        and a half times the scale.
    :raises ValueError: at construction, naming all that is out of range, radii that no example can reach among them.

    >>> Smoothing(0.25).shown
    (0.0, 0.125, 0.25, 0.375)
    """

    scale: float
    draws: int = 1000
    sample_size: int = 100
    alpha: float = 0.001
    radii: tuple[float, ...] | None = None
    norm: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        check_numbers(
            self,
            scale=Real("(0, inf)", "it is the noise's standard deviation, in the units of x"),
            draws=Whole(1, None, "1000 is usual"),
            sample_size=Whole(1, None, "100 is usual"),
            alpha=Real("(0, 1)", "0.001 is usual"),
        )
        if self.radii is None:
            return
        object.__setattr__(self, "radii", tuple(float(radius) for radius in self.radii))
        if unreachable := [radius for radius in self.radii if not 0 <= radius <= self.reach]:
            raise ValueError(
                f"`radii` must be from 0 to {self.reach:.4g}, the largest that {self.draws} draws can certify, got "
                f"{unreachable}; take more draws or a larger scale"
            )

    @property
    def reach(self) -> float:
        """The radius of an example whose class was never missed, in the units of x; no other one is larger."""
        return max(0.0, self.scale * float(norm.ppf(self.alpha ** (1 / self.draws))))

    @property
    def name(self) -> str:
        return f"{type(self).__name__} {self.scale:g}"

    @property
    def shown(self) -> tuple[float, ...]:
        usual = tuple(times * self.scale for times in (0, 0.5, 1, 1.5))
        return tuple(radius for radius in usual if radius <= self.reach) if self.radii is None else self.radii

    def __call__(self, problem: Problem, x: Tensor, batch_size: int) -> Certified:
        smoothed = _Smoothed(self, problem, x)
        seed = draw_seed(problem.generator or torch.default_generator)
        with isolated_randomness(seed):  # ART draws the noise from numpy's global generator
            classes, radii = smoothed.certify(x.detach().cpu().numpy(), self.draws, batch_size)
        return Certified(np.asarray(classes, np.int64), np.asarray(radii, np.float64))


@final
class _Smoothed(RandomizedSmoothingMixin):  # type: ignore[misc]
    """ART's algorithm on a network, with the bound from scipy: ART takes it from statsmodels, which has the same."""

    def __init__(self, smoothing: Smoothing, problem: Problem, like: Tensor) -> None:
        super().__init__(smoothing.sample_size, scale=smoothing.scale, alpha=smoothing.alpha)
        self.problem, self.like = problem, like

    def _predict_classifier(self, x: NDArray[Any], batch_size: int, training_mode: bool, **kwargs: Any) -> NDArray[Any]:
        batches = torch.from_numpy(x).to(self.like.dtype).split(batch_size)
        logits = torch.cat([self.problem.answers(batch.to(self.like.device)) for batch in batches])
        if not logits.isfinite().all():
            raise FloatingPointError("the network's outputs on noisy examples are not finite; see its weights")
        return np.asarray(class_logits(logits).cpu().numpy())

    def _lower_confidence_bound(self, n_class_samples: int, n_total_samples: int) -> float:
        if n_class_samples == 0:
            return 0.0
        return float(beta.ppf(self.alpha, n_class_samples, n_total_samples - n_class_samples + 1))


@final
@dataclasses.dataclass(frozen=True, eq=False)
class CertificateResult:
    """What was certified of each example.

    :param norm: of the balls: ``"1"``, ``"2"`` or ``"inf"``.
    :param parameters: of the certificate, ``type`` among them.
    :param correct: (n,) examples whose certified class is the true one; not those on which it abstains.
    :param radii: (n,) within which the certified class stays, in the units of x.
    :param shown: radii at which the table has the certified accuracy.
    :param seconds: that it took.
    """

    name: str
    norm: str
    parameters: dict[str, JsonValue]
    correct: Outcomes = dataclasses.field(repr=False)
    radii: Distances = dataclasses.field(repr=False)
    shown: tuple[float, ...]
    seconds: float

    def certified(self, radius: float) -> NDArray[np.bool_]:
        """(n,) examples that are classified correctly throughout the ball of this radius."""
        return np.asarray(self.correct & (self.radii >= radius))

    def accuracy(self, radius: float) -> float:
        """Certified accuracy: the share of such examples."""
        return float(self.certified(radius).mean())

    @property
    def average_radius(self) -> float:
        """Mean of the certified radii, 0 for examples that are misclassified (Zhai et al. 2020)."""
        return float((self.correct * self.radii).mean())


def certified_table(results: Sequence[CertificateResult], eps: float, norm: str) -> Table:
    """One row a certificate and radius; fits 80 columns.

    :param eps: radius of the suite, which is shown too where ``norm``, the suite's, is the certificate's own.
    """
    table = Table(
        caption="certified: correct throughout the ball, whatever the attack\n"
        "no part of the worst case; smoothing certifies what it smooths",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("certificate", "norm", "radius", "certified", "95 % interval", "seconds"):
        named = column == "certificate"
        table.add_column(column, justify="left" if named else "right", no_wrap=not named, overflow="fold")
    for result in results:
        radii = sorted({*result.shown, *([eps] if result.norm == norm else [])})
        for radius in radii:
            seconds = f"{result.seconds:.1f}" if radius == radii[0] else ""
            figures = share(result.certified(radius))
            table.add_row(plain_text(result.name), result.norm, f"{radius:.4g}", *figures, seconds)
    return table
