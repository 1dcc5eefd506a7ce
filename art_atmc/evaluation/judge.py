"""What an evaluation is run on: a classifier and its data as tensors, after every check that needs no attack."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from art_atmc.attacks.art import ARTAttack
from art_atmc.attacks.ball import Box, box
from art_atmc.attacks.base import Adversary
from art_atmc.attacks.built import Built, check_importable
from art_atmc.classifiers.inputs import arrays
from art_atmc.classifiers.modes import fixed
from art_atmc.classifiers.network import Network
from art_atmc.evaluation.suites import SUITES, Access, Suite

__all__ = ["Target", "checked"]


@final
class Target:
    """A classifier with the data: as tensors, with labels as its own loss takes them."""

    def __init__(self, classifier: PyTorchClassifier, x: Any, y: Any, role: str) -> None:
        self.classifier, self.device = classifier, classifier.device
        self.x, self.labels = arrays(classifier, x, y, role)
        rows = np.asarray(y).reshape(len(self.x), -1)
        self.y = torch.from_numpy((rows.argmax(axis=1) if rows.shape[1] > 1 else rows[:, 0]).astype(np.int64))
        self.limits: Box = box(classifier.clip_values, self.x)
        low, high = self.limits
        if outside := int(((self.x < low - 1e-6) | (self.x > high + 1e-6)).flatten(1).any(dim=1).sum()):
            raise ValueError(
                f"{outside} of {len(self.x)} examples leave the classifier's clip values; rescale the data or set "
                "`clip_values`"
            )
        self.network = Network(classifier, self.x[:2].to(self.device))
        logits = self.network.evaluate(self.x[:2].to(self.device))
        if logits.dim() != 2 or logits.shape[1] != classifier.nb_classes:
            raise ValueError(
                f"the network's output for two examples has shape {tuple(logits.shape)}, but the classifier has "
                f"nb_classes={classifier.nb_classes}; build it with the number of outputs of its model"
            )

    def differentiable(self) -> bool:
        """Whether outputs have any graph to the inputs; the gradient may be zero."""
        with fixed(self.network), torch.enable_grad():
            probe = self.x[:1].to(self.device).requires_grad_()
            logits = self.network(probe)
            return logits.requires_grad and torch.autograd.grad(logits.sum(), probe, allow_unused=True)[0] is not None

    def right(self, batch_size: int) -> np.ndarray:
        """(n,) examples classified rightly."""
        outcomes = []
        for rows in torch.arange(len(self.x)).split(batch_size):
            logits = self.network.evaluate(self.x[rows].to(self.device))
            if not logits.isfinite().all():
                raise FloatingPointError("the network's outputs on clean examples are not finite; see its weights")
            outcomes.append(logits.argmax(dim=1).cpu() == self.y[rows])
        return np.asarray(torch.cat(outcomes).numpy())

    def felled(self, points: Tensor, rows: Tensor) -> Tensor:
        """Which of the points are classified wrongly; NaN is no class."""
        with fixed(self.network), torch.no_grad():
            logits = self.network(points.to(self.device)).cpu()
        return (logits.argmax(dim=1) != self.y[rows]) | logits.isnan().any(dim=1)  # type: ignore[no-any-return]


def checked(classifier: Any, x: Any, y: Any, suite: Any, dense: Any, batch_size: Any) -> tuple[Target, Target | None]:
    """All that can be refused before any work."""
    for name, value in (("classifier", classifier), ("dense", dense)):
        if not isinstance(value, PyTorchClassifier) and not (name == "dense" and value is None):
            raise TypeError(
                f"`{name}` must be an ART PyTorchClassifier, got {type(value).__name__}; wrap the torch module as "
                "PyTorchClassifier(model, loss, input_shape, nb_classes, clip_values=(0, 1))"
            )
    if not isinstance(suite, Suite):
        raise TypeError(
            f"`suite` must be a Suite, got {suite!r}; make one by art_atmc.evaluation.{', '.join(SUITES)} of a radius, "
            "such as quick(eps=0.1)"
        )
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be an integer of at least 1, got {batch_size!r}")
    _check_made_for(suite, classifier, dense)
    _check_labels(y)
    target = Target(classifier, x, y, "test")
    source = None if dense is None else Target(dense, x, y, "test (for `dense`)")
    _check_gradients(suite, target, source)
    return target, source


def _check_gradients(suite: Suite, target: Target, source: Target | None) -> None:
    """ART's attacks bring their own estimate of a gradient that is missing; ours need one."""
    hidden = [
        attack.name
        for attack in suite.attacks
        if isinstance(attack.method, Adversary)
        and not isinstance(attack.method, ARTAttack | Built)
        and attack.access is not Access.OUTPUTS
        and (problem := source if attack.access is Access.TRANSFER else target)
        and not problem.differentiable()
    ]
    if hidden:
        raise ValueError(
            f"the network passes no gradient back to its inputs, which {', '.join(hidden)} need; use torch versions of "
            "the preprocessing, give a classifier of StraightThrough(network, differentiable twin), or choose attacks "
            "that need outputs alone"
        )


def _check_made_for(suite: Suite, classifier: PyTorchClassifier, dense: PyTorchClassifier | None) -> None:
    foreign = []
    for attack in suite.attacks:
        method = attack.method.attack if isinstance(attack.method, ARTAttack) else attack.method
        if isinstance(method, Built):
            check_importable(method.attack)
        elif hasattr(method, "estimator"):
            check_importable(type(method))
            meant = dense if attack.access is Access.TRANSFER else classifier
            # Some attacks wrap the model that they are given in a classifier of their own.
            members = [method, *getattr(method, "attacks", ())]  # AutoAttack holds others
            if meant is not None and any(getattr(m.estimator, "model", None) is not meant.model for m in members):
                foreign.append(f"{attack.name} (for `{'dense' if meant is dense else 'classifier'}`)")
    if foreign:
        raise ValueError(
            f"attacks made for another classifier: {', '.join(foreign)}; build them for the one in brackets, or give "
            "Built(class, options), which is built for whatever network it meets"
        )


def _check_labels(y: Any) -> None:
    labels = np.asarray(y)
    if not np.issubdtype(labels.dtype, np.number):
        raise TypeError(f"`y` must hold numbers, got dtype {labels.dtype}; give class indices or one-hot labels")
    if labels.ndim == 0:
        raise ValueError("`y` is a single number; give class indices (n,) or one-hot labels (n, classes)")
    if labels.ndim == 2 and labels.shape[1] > 1 and not np.isin(labels, (0, 1)).all():
        raise ValueError("one-hot `y` must hold 0 and 1 only, since a soft label names no right class; give indices")
