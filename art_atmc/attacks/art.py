"""Attacks of the Adversarial Robustness Toolbox as adversaries: natively where that is the same attack, else by ART."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from art_atmc.attacks.base import Adversary, Problem
from art_atmc.attacks.pgd import PGD
from art_atmc.classifiers.modes import fixed
from art_atmc.classifiers.network import in_own_precision
from art_atmc.support.randomness import draw_seed, isolated_randomness

if TYPE_CHECKING:
    import numpy as np
    from art.attacks.attack import EvasionAttack
    from art.estimators.classification import PyTorchClassifier

__all__ = ["ARTAttack", "adversary", "perturb", "resolved"]

STEPS: Final = ("max_iter", "num_random_init", "nb_random_init", "nb_restarts", "binary_search_steps")
"""What ART's attacks call the numbers that make them long."""


@final
@dataclasses.dataclass(frozen=True)
class ARTAttack(Adversary):
    """Any evasion attack of ART, run by its own ``generate``, on its own estimator and with its own loss.

    The network of a problem is only kept as it is; loss and clip values are those of the attack's estimator.
    While it runs, the attack is silent and its batch is at least the batch given; it comes back as it was. With a
    generator the global random states that ART draws from (numpy, ``random``, torch) are seeded from it, and set
    back.

    :param attack: an untargeted ``art.attacks.EvasionAttack``.
    :raises TypeError: for anything else.
    :raises ValueError: for a targeted attack.

    >>> import numpy as np
    >>> from art.attacks.evasion import DeepFool
    >>> from art.estimators.classification import PyTorchClassifier
    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), (1,), 2)
    >>> x_adv = ARTAttack(DeepFool(classifier))(Problem(network), torch.tensor([[1.0]]), torch.tensor([0]))
    >>> bool(-0.1 < x_adv < 0)  # just across the border
    True
    """

    attack: EvasionAttack

    def __post_init__(self) -> None:
        from art.attacks.attack import EvasionAttack

        if isinstance(self.attack, list | tuple):
            raise TypeError(
                f"expected one attack, got a {type(self.attack).__name__} of {len(self.attack)}; to take them in turns "
                "train with ATMCTrainer(classifier, trainer=AdversarialTrainer(classifier, attacks), ...)"
            )
        if not isinstance(self.attack, EvasionAttack):
            raise TypeError(
                "expected an ART evasion attack or an art_atmc adversary, got "
                f"{type(self.attack).__name__}; for example ProjectedGradientDescent(classifier, eps=0.1)"
            )
        if self.attack.targeted:
            raise ValueError(
                f"{type(self.attack).__name__} is targeted, which makes inputs *more* like a class; "
                "training needs an untargeted attack: build it with targeted=False"
            )

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        parts = _parts(self.attack)
        with _lent(problem, parts, len(x)):
            adv = self.attack.generate(*_arrays(self.attack, x, y))
        return torch.empty_like(x, requires_grad=False).copy_(torch.as_tensor(adv))

    def rehearse(self, problem: Problem, x: Tensor, y: Tensor) -> None:
        """Run the attack, and each of the attacks that it holds, on a few examples for one step.

        What it cannot do with such a classifier, it raises here, before long computations.

        :raises Exception: what ART raises, such as ValueError for vectors where images are needed.
        """
        parts = _parts(self.attack)
        with _lent(problem, parts, len(x)):
            for part in parts:
                for name in STEPS:
                    if isinstance(vars(part).get(name), int):
                        vars(part)[name] = 1
            for part in parts:  # alone, for where the first one fools an example the others are not tried on it
                part.generate(*_arrays(part, x, y))


def _arrays(attack: Any, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """In memory of their own, as some attacks write into their inputs; labels as rows, as some take no indices."""
    labels = y.detach().cpu().numpy().copy()
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        labels = np.eye(attack.estimator.nb_classes, dtype=np.float32)[labels]
    return x.detach().float().cpu().numpy().copy(), labels


def _parts(attack: EvasionAttack) -> list[Any]:
    """The attack and the attacks that it holds: PGD's implementation, the members of AutoAttack."""
    from art.attacks.attack import EvasionAttack

    parts = [attack]
    for part in parts:  # grows as it is walked
        for value in vars(part).values():
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, EvasionAttack) and not any(item is known for known in parts):
                    parts.append(item)
    return parts


@contextmanager
def _lent(problem: Problem, attacks: list[Any], batch_size: int) -> Iterator[None]:
    """Attacks that are silent and take batches of at least this size, on networks as attacks need them, with the
    problem's random numbers; afterwards all of them are as they were."""
    estimators = [module for attack in attacks for module in vars(attack.estimator).values()]
    networks = [problem.network, *(module for module in estimators if isinstance(module, nn.Module))]
    saved = [dict(vars(attack)) for attack in attacks]
    try:
        for attack in attacks:
            if isinstance(vars(attack).get("verbose"), bool):
                attack.verbose = False
            if isinstance(vars(attack).get("batch_size"), int) and not _laid_out(attack):
                attack.batch_size = max(attack.batch_size, batch_size)
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(fixed(*networks))
            stack.enter_context(_gradients_kept(*networks))
            stack.enter_context(_own_precision(attacks))
            if problem.generator is not None:
                stack.enter_context(isolated_randomness(draw_seed(problem.generator)))
            yield
    finally:
        for attack, attributes in zip(attacks, saved, strict=True):
            vars(attack).clear()
            vars(attack).update(attributes)


def _laid_out(attack: EvasionAttack) -> bool:
    """Whether an attack made arrays for batches of its own size, as ``ZooAttack`` does."""
    arrays = (value for value in vars(attack).values() if isinstance(value, np.ndarray) and value.ndim)
    return any(len(array) == attack.batch_size for array in arrays)  # type: ignore[attr-defined]


@contextmanager
def _own_precision(attacks: list[Any]) -> Iterator[None]:
    """Models that get their inputs in their own precision: with numpy 2 HopSkipJump and Boundary make doubles."""
    models = {id(model): model for a in attacks if isinstance(model := getattr(a.estimator, "_model", None), nn.Module)}
    hooks = [model.register_forward_pre_hook(in_own_precision) for model in models.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _gradients_kept(*modules: nn.Module) -> Iterator[None]:
    """Hides ``.grad`` from code that would zero it."""
    gradients = {parameter: parameter.grad for module in modules for parameter in module.parameters()}
    try:
        for parameter in gradients:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


def adversary(attack: Adversary | EvasionAttack, classifier: PyTorchClassifier | None = None) -> Adversary:
    """The fastest adversary that does what an attack does.

    An :class:`Adversary` is returned as it is. ART's ``ProjectedGradientDescent``, ``BasicIterativeMethod``,
    ``MomentumIterativeMethod`` and ``FastGradientMethod``, with a scalar ``eps`` and on the given classifier, become
    :class:`PGD`. Everything else, subclasses of these four and attacks on another estimator (transfer) among them,
    becomes an :class:`ARTAttack`.

    :param attack: an adversary or an untargeted ART evasion attack.
    :param classifier: the classifier to attack; ``None`` for the attack's own.
    :raises TypeError: for any other object.
    :raises ValueError: for a targeted attack.

    >>> from art.attacks.evasion import FastGradientMethod
    >>> from art.estimators.classification import PyTorchClassifier
    >>> classifier = PyTorchClassifier(nn.Linear(1, 2), nn.CrossEntropyLoss(), (1,), 2)
    >>> adversary(FastGradientMethod(classifier, eps=0.5))
    PGD(eps=0.5, eps_step=0.5, max_iter=1, norm=inf, random_start=False, restarts=1, momentum=0.0)
    """
    if isinstance(attack, Adversary):
        return attack
    return _native(attack, classifier) or ARTAttack(attack)


def resolved(problem: Problem, attack: Adversary | EvasionAttack) -> Adversary:
    """:func:`adversary` of an attack for the problem's classifier, found once for the problem and its copies."""
    # By identity; the attack itself is kept, so that its number is not given to another one.
    if id(attack) not in problem.resolved:
        problem.resolved[id(attack)] = attack, adversary(attack, problem.classifier)
    return problem.resolved[id(attack)][1]


def perturb(problem: Problem, attack: Adversary | EvasionAttack, x: Tensor, y: Tensor) -> Tensor:
    """Adversarial examples for a problem by any attack, ours or ART's.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> attack = PGD(eps=0.5, eps_step=0.5, max_iter=1, random_start=False)
    >>> perturb(Problem(network), attack, torch.tensor([[2.0]]), torch.tensor([0]))
    tensor([[1.5000]])
    """
    return resolved(problem, attack)(problem, x, y)


def _native(attack: EvasionAttack, classifier: PyTorchClassifier | None) -> PGD | None:
    """The PGD that equals an ART attack; None when there is none."""
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    single, iterated = evasion.FastGradientMethod, evasion.ProjectedGradientDescentPyTorch
    known = (single, iterated, evasion.ProjectedGradientDescent, evasion.BasicIterativeMethod,
             evasion.MomentumIterativeMethod)  # fmt: skip
    # ProjectedGradientDescent delegates, with all its parameters, to an implementation for the estimator's framework.
    core: Any = getattr(attack, "_attack", attack)
    if type(attack) not in known or type(core) not in (single, iterated):
        return None
    estimator = core.estimator
    if not isinstance(estimator, PyTorchClassifier) or (classifier is not None and estimator is not classifier):
        return None
    if not estimator.all_framework_preprocessing or estimator.is_rnn or core.summary_writer is not None:
        return None
    if core.targeted or getattr(core, "minimal", False) or getattr(core, "random_eps", False):
        return None
    if not all(isinstance(v, int | float) and v > 0 for v in (core.eps, core.eps_step)):
        return None
    if core.norm not in (1, 2, math.inf, "inf"):
        return None
    once = type(core) is single
    steps = 1 if once else core.max_iter
    # FGM compares whole batches of its restarts, and returns x where none succeeds: that is left to ART.
    if steps < 1 or (once and core.num_random_init > 1):
        return None
    return PGD(
        eps=core.eps,
        eps_step=core.eps if once else core.eps_step,
        max_iter=steps,
        norm=core.norm,
        random_start=core.num_random_init > 0,
        restarts=max(1, core.num_random_init),
        momentum=0.0 if once else core.decay or 0.0,
    )
