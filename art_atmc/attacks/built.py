"""Attack classes of ART that are built for the network they meet."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from art_atmc.attacks.art import ARTAttack
from art_atmc.attacks.base import Adversary, Problem
from art_atmc.classifiers.labels import ClassLogits, true_class
from art_atmc.classifiers.modes import fixed

if TYPE_CHECKING:
    from art.attacks.attack import EvasionAttack

__all__ = ["Built", "check_importable"]


@final
@dataclasses.dataclass(frozen=True)
class Built(Adversary):
    """An attack class of ART as an adversary that needs no classifier beforehand: it is built for the network it meets.

    :param attack: a class of ``art.attacks.evasion``.
    :param options: its arguments beyond the estimator; ``eps`` and ``norm`` are not filled in.
    :raises TypeError: for anything else than an evasion attack's class.
    :raises ImportError: when called, for AutoAttack without ``multiprocess``.

    >>> from art.attacks.evasion import DeepFool
    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> x_adv = Built(DeepFool)(Problem(network), torch.tensor([[1.0]]), torch.tensor([0]))
    >>> bool(-0.1 < x_adv < 0)  # just across the border
    True
    """

    attack: type[EvasionAttack]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        from art.attacks.attack import EvasionAttack

        if not (isinstance(self.attack, type) and issubclass(self.attack, EvasionAttack)):
            raise TypeError(
                f"`attack` must be a class of art.attacks.evasion, got {self.attack!r}; give a built attack as it is"
            )

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        return self._built(problem, x)(problem, x, true_class(y))

    def rehearse(self, problem: Problem, x: Tensor, y: Tensor) -> None:
        """Build the attack and run it for one step, see :meth:`ARTAttack.rehearse`."""
        self._built(problem, x).rehearse(problem, x, true_class(y))

    def _built(self, problem: Problem, x: Tensor) -> ARTAttack:
        from art.estimators.classification import PyTorchClassifier

        check_importable(self.attack)
        network, clip_values = ClassLogits(problem.network), problem.clip_values
        with fixed(network), torch.no_grad():
            nb_classes = network(x[:1]).shape[1]
        classifier = PyTorchClassifier(
            network,
            nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            nb_classes,
            clip_values=None if clip_values is None else tuple(clip_values),
            preprocessing=None,
            device_type="cpu" if x.device.type == "cpu" else "gpu",
        )
        return ARTAttack(self.attack(classifier, **self.options))


def check_importable(attack: type) -> None:
    """ART's AutoAttack imports a package that ART does not declare.

    :raises ImportError: where it is missing, naming the extra that brings it.
    """
    if attack.__name__ == "AutoAttack" and importlib.util.find_spec("multiprocess") is None:
        raise ImportError(
            "ART's AutoAttack needs the package multiprocess, which is not installed; "
            "pip install 'art-atmc[evaluation]', or choose a suite without AutoAttack"
        )
