"""What an evaluation refuses, and which attacks it leaves out, before any of them is run."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier

from art_atmc.attacks.art import ARTAttack, adversary
from art_atmc.attacks.base import Adversary
from art_atmc.attacks.built import Built, check_importable
from art_atmc.evaluation.certificates import Certificate
from art_atmc.evaluation.judge import Judge
from art_atmc.evaluation.suites import SUITES, Access, Attack, Suite

__all__ = ["check_certificates", "checked", "left_out", "suite_of"]


def suite_of(suite: Any, eps: float | None, norm: float | str | None) -> Suite:
    """The suite that is named or given.

    :param suite: a suite, or a name in :data:`SUITES`.
    :param eps: its radius, with a name.
    :param norm: its norm, with a name; infinity by default.
    :raises TypeError: for anything else, and a radius or norm beside a suite, which has its own.
    :raises ValueError: for a name without a radius.
    """
    if isinstance(suite, Suite):
        if eps is not None or norm is not None:
            raise TypeError("`eps` and `norm` go with the name of a suite; a Suite has its own, make it with those")
        return suite
    if not isinstance(suite, str) or suite not in SUITES:
        raise TypeError(
            f"`suite` must be {', '.join(map(repr, SUITES))} or a Suite, got {suite!r}; give a name with `eps`, or "
            "make one by art_atmc.evaluation, such as quick(eps=0.1)"
        )
    if eps is None:
        raise ValueError(f"`suite`={suite!r} needs a radius; give `eps`, in the units of x")
    return SUITES[suite](eps, math.inf if norm is None else norm, 7)  # type: ignore[arg-type]  # "inf" is read too


def check_certificates(certificates: Sequence[Any], suite: Suite) -> None:
    """
    :raises TypeError: for what is no certificate.
    :raises ValueError: for a name that two lines of the report would have.
    """
    if isinstance(certificates, Certificate) or any(not isinstance(line, Certificate) for line in certificates):
        raise TypeError(
            f"`certificates` must be a list of certificates, such as [Smoothing(0.25)], got {certificates!r}"
        )
    names = Counter([*(attack.name for attack in suite.attacks), *(line.name for line in certificates)])
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise ValueError(f"attacks and certificates share the names {twice}; give each of them once")


def checked(
    classifier: Any, x: Any, y: Any, suite: Suite, dense: PyTorchClassifier | None
) -> tuple[Judge, Judge | None]:
    """The judge, and the network that transferred examples are made for.

    :raises TypeError: for classifiers and labels that are none.
    :raises ValueError: for data and attacks that do not fit the classifier.
    :raises ImportError: for AutoAttack without the package that it needs.
    """
    for name, value in (("classifier", classifier), ("dense", dense)):
        if not isinstance(value, PyTorchClassifier) and not (name == "dense" and value is None):
            raise TypeError(
                f"`{name}` must be an ART PyTorchClassifier, got {type(value).__name__}; wrap the torch module as "
                "PyTorchClassifier(model, loss, input_shape, nb_classes, clip_values=(0, 1))"
            )
    _check_made_for(suite, classifier, dense)
    _check_labels(y)
    judge = Judge(classifier, x, y, "test")
    source = None if dense is None else Judge(dense, x, y, "test (for `dense`)")
    _check_gradients(suite, judge, source)
    return judge, source


def left_out(suite: Suite, judge: Judge, source: Judge | None) -> Mapping[str, str]:
    """The attacks that can't be run, by name, each with the reason.

    Transfer needs a classifier to transfer from. Attacks of ART are rehearsed, one step on one example: many need
    images or three classes, and say so only when they are run.

    :raises ValueError: when no attack is left.
    """
    reasons = {}
    for attack in suite.attacks:
        network = source if attack.access is Access.TRANSFER else judge
        if network is None:
            reasons[attack.name] = "its examples are made for another classifier; give it as `dense`"
        elif (error := _rehearsed(attack, network)) is not None:
            shape, classes = tuple(network.classifier.input_shape), network.classifier.nb_classes
            said = str(error).splitlines()[0] if str(error) else "no reason given"
            reasons[attack.name] = (
                f"it fails on inputs of shape {shape} with {classes} classes ({type(error).__name__}: {said})"
            )
    if len(reasons) == len(suite.attacks):
        named = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"no attack of the suite can be run: {named}")
    return reasons


def _rehearsed(attack: Attack, network: Judge) -> Exception | None:
    """What an attack of ART raises in a first step on one example; our own take every classifier."""
    method = adversary(attack.method, network.classifier)
    if not isinstance(method, ARTAttack | Built):
        return None
    x, y = (part[:1].to(network.device) for part in (network.x, network.labels))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is heard again when the attack is run
            method.rehearse(network.problem(0), x, y)
    except Exception as error:
        return error
    return None


def _check_gradients(suite: Suite, judge: Judge, source: Judge | None) -> None:
    """ART's attacks bring their own estimate of a gradient that is missing; ours need one."""
    hidden = [
        attack.name
        for attack in suite.attacks
        if isinstance(attack.method, Adversary)
        and not isinstance(attack.method, ARTAttack | Built)
        and attack.access is not Access.OUTPUTS
        and (network := source if attack.access is Access.TRANSFER else judge)
        and not network.differentiable()
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
            wanted = dense if attack.access is Access.TRANSFER else classifier
            # Some attacks wrap the model that they are given in a classifier of their own.
            members = [method, *getattr(method, "attacks", ())]  # AutoAttack holds others
            if wanted is not None and any(getattr(m.estimator, "model", None) is not wanted.model for m in members):
                foreign.append(f"{attack.name} (for `{'dense' if wanted is dense else 'classifier'}`)")
    if foreign:
        raise ValueError(
            f"attacks made for another classifier: {', '.join(foreign)}; build them for the one in brackets, or give "
            "Built(class, options), which is built for whatever network it meets"
        )


def _check_labels(y: Any) -> None:
    labels = np.asarray(y)
    if labels.ndim == 0:
        raise ValueError("`y` is a single number; give class indices (n,) or one-hot labels (n, classes)")
    if labels.dtype.kind in "biuf" and labels.ndim == 2 and labels.shape[1] > 1 and not np.isin(labels, (0, 1)).all():
        raise ValueError("one-hot `y` must hold 0 and 1 only, since a soft label names no true class; give indices")
