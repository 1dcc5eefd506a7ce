"""The network that decides whether an example is misclassified, with the data that it is asked about."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_atmc.attacks.ball import Box, box
from art_atmc.attacks.base import Problem
from art_atmc.classifiers.inputs import arrays
from art_atmc.classifiers.labels import misclassified, true_class
from art_atmc.classifiers.modes import fixed
from art_atmc.classifiers.network import Network

__all__ = ["Judge"]


@final
class Judge:
    """The network of a classifier, preprocessing included, in evaluation mode, with inputs and labels as tensors.

    :param classifier: an ART ``PyTorchClassifier``.
    :param x: inputs, within its clip values.
    :param y: class indices or one-hot rows.
    :param role: what the data is, for error messages.
    :raises TypeError: for a model that returns anything else than one tensor.
    :raises ValueError: for data that does not fit the classifier, and outputs that are no logits.
    """

    def __init__(self, classifier: PyTorchClassifier, x: Any, y: Any, role: str) -> None:
        self.classifier, self.device = classifier, classifier.device
        self.x, self.labels = arrays(classifier, x, y, role)
        self.y = true_class(torch.from_numpy(np.asarray(y).astype(np.float64)))
        self.limits: Box = box(classifier.clip_values, self.x)
        low, high = self.limits
        if outside := int(((self.x < low - 1e-6) | (self.x > high + 1e-6)).flatten(1).any(dim=1).sum()):
            raise ValueError(
                f"{outside} of {len(self.x)} examples leave the classifier's clip values; rescale the data or set "
                "`clip_values`"
            )
        sample = self.x[:2].to(self.device)
        self.network = Network(classifier, sample)
        _check_outputs(classifier, self.network.evaluate(sample), len(sample))

    def problem(self, seed: int, judge: Judge | None = None) -> Problem:
        """What an attack is handed.

        :param seed: of its random numbers.
        :param judge: whose clip values hold, where it is another one.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        clip_values = (judge or self).classifier.clip_values
        return Problem(self.network, self.classifier.loss, clip_values, generator, self.classifier)

    def differentiable(self) -> bool:
        """Whether outputs have any graph to the inputs; the gradient may be zero."""
        with fixed(self.network), torch.enable_grad():
            probe = self.x[:1].to(self.device).requires_grad_()
            logits = self.network(probe)
            return logits.requires_grad and torch.autograd.grad(logits.sum(), probe, allow_unused=True)[0] is not None

    def correct(self, batch_size: int) -> np.ndarray:
        """(n,) examples that are classified correctly.

        :raises FloatingPointError: when outputs are not finite.
        """
        outcomes = []
        for rows in torch.arange(len(self.x)).split(batch_size):
            logits = self.network.evaluate(self.x[rows].to(self.device))
            if not logits.isfinite().all():
                raise FloatingPointError("the network's outputs on clean examples are not finite; see its weights")
            outcomes.append(~misclassified(logits, self.y[rows]).cpu())
        return np.asarray(torch.cat(outcomes).numpy())

    def fooled(self, points: Tensor, rows: Tensor) -> Tensor:
        """Which of the points, made of these examples, are misclassified; bool, on the CPU."""
        with fixed(self.network), torch.no_grad():
            return misclassified(self.network(points.to(self.device)), self.y[rows]).cpu()


def _check_outputs(classifier: PyTorchClassifier, outputs: Tensor, n: int) -> None:
    classes = classifier.nb_classes
    single = classes == 2 and tuple(outputs.shape) == (n, 1)
    if tuple(outputs.shape) != (n, classes) and not single:
        raise ValueError(
            f"the network's output for {n} examples has shape {tuple(outputs.shape)}, but the classifier has "
            f"nb_classes={classes}; build it with the number of outputs of its model"
            + ", two for a single logit of shape (N, 1)"
            * (outputs.shape[1:] in ((), (1,)))
        )
    if isinstance(classifier.loss, nn.BCELoss):
        raise ValueError(
            "the loss BCELoss takes probabilities, and outputs are judged as logits; leave the sigmoid out of the "
            "model and give BCEWithLogitsLoss()"
        )
    if single and isinstance(classifier.loss, nn.CrossEntropyLoss):
        raise ValueError(
            "CrossEntropyLoss of a single output is always 0, so that attacks find nothing; give BCEWithLogitsLoss()"
        )
