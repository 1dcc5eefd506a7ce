"""Whether to believe a robust accuracy: what gives hidden gradients and weak attacks away.

The signs are those of Athalye et al. 2018 (https://arxiv.org/abs/1802.00420, section 3.1) and Carlini et al. 2019
(https://arxiv.org/abs/1902.06705, section 5). None proves a figure right; each that shows proves it doubtful.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Final, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from art_atmc.attacks.apgd import APGD, DLR
from art_atmc.attacks.ball import box
from art_atmc.attacks.base import Adversary, ClipValues, Loss, Problem
from art_atmc.attacks.pgd import PGD
from art_atmc.attacks.straight_through import StraightThrough
from art_atmc.classifiers.modes import fixed
from art_atmc.evaluation.result import AttackResult, Finding, Severity
from art_atmc.evaluation.suites import Access
from art_atmc.support.statistics import wilson

__all__ = ["self_checks"]

DOUBTFUL: Final = 0.01  # share of examples that may go against expectation, beyond chance, before a check warns
UNBELIEVABLE: Final = 0.03  # and before it fails
STEPS: Final = (1, 5, 20)
QUESTIONS: Final = 4
ROUNDING: Final = 1e-5  # of logits, relative to the largest: what a device may answer differently


def self_checks(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: float,
    clip_values: ClipValues | None,
    clean: NDArray[np.bool_],
    attacks: Sequence[AttackResult],
    twin: nn.Module | None,
    generator: torch.Generator,
    limit: int = 256,
) -> tuple[Finding, ...]:
    r"""The signs of hidden gradients and of weak attacks, one finding each:

    ``gradients``
        missing, not finite, zero, or zero by a saturated softmax, on examples that the suite left standing.
    ``black box``
        examples that fall without gradients, and to no attack that has them.
    ``robust above clean``
        more examples right under an attack than without one.
    ``steps``
        PGD with more steps leaves more examples right, or does not raise the loss.
    ``huge eps``
        PGD in the whole range of the inputs leaves more examples right than guessing.
    ``randomness``
        the same input is answered differently.
    ``twin``
        only where one is given: gradients of the twin fell more than the network's own, or its labels differ.

    Where k of n examples go against expectation, chance is allowed for by the lower end :math:`w(k, n)` of Wilson's
    95 % interval: a warning from :math:`w > 0.01`, a failure from :math:`w > 0.03`. That is 3 and 5 of 64, 6 and 14 of
    256. Beyond the outcomes of the suite, all of it rests on the first ``limit`` examples, in one batch, and takes
    about 40 gradients of each, 60 with a twin.

    Sources: Athalye et al. 2018 (https://arxiv.org/abs/1802.00420, section 3.1), Carlini et al. 2019
    (https://arxiv.org/abs/1902.06705, section 5).

    :param network: maps inputs in the range of ``clip_values`` to logits.
    :param x: inputs (N, ...) on the device of the network.
    :param y: class indices (N,).
    :param eps: radius of the suite's ball, in the units of x.
    :param norm: its p: 1, 2 or infinity.
    :param clean: (N,) examples that are classified rightly.
    :param attacks: outcomes of the suite.
    :param twin: differentiable module that computes what the network does; on the same device.
    :param generator: of the random starts.
    :param limit: examples to spend gradients on.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> x = torch.linspace(-1, 1, 50)[:, None]
    >>> findings = self_checks(
    ...     network, x, (x[:, 0] < 0).long(), eps=0.1, norm=math.inf, clip_values=(-1, 1), attacks=(), twin=None,
    ...     clean=np.ones(50, dtype=bool), generator=torch.Generator().manual_seed(0))
    >>> {finding.check: finding.severity.value for finding in findings}  # doctest: +NORMALIZE_WHITESPACE
    {'gradients': 'passed', 'black box': 'warning', 'robust above clean': 'passed', 'steps': 'passed',
     'huge eps': 'passed', 'randomness': 'passed'}
    """
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    bench = _Bench(network, x[:limit], y[:limit], eps, norm, clip_values, seed)
    standing = reduce(np.logical_and, (a.correct for a in attacks if a.bounded), clean)
    before = bench.logits(network)
    after = {n: logits for n in STEPS if (logits := bench.attacked(network, bench.converging(n))) is not None}
    findings = [
        _gradients(bench, torch.from_numpy(standing[:limit]).to(x.device), twin is not None),
        _black_box(clean, attacks),
        _robust_above_clean(bench, before, after, clean, attacks),
        _steps(bench, before, after),
        _huge_eps(bench),
        _randomness(bench, before),
    ]
    if twin is not None:
        findings.append(_twin(bench, before, after, twin))
    return tuple(findings)


@final
@dataclasses.dataclass(frozen=True)
class _Bench:
    """The network with the examples that gradients are spent on."""

    network: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    norm: float
    clip_values: ClipValues | None
    seed: int

    def __len__(self) -> int:
        return len(self.x)

    def right(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1) == self.y

    def accuracy(self, logits: Tensor) -> float:
        return float(self.right(logits).double().mean())

    def converging(self, steps: int) -> Adversary:
        """PGD whose steps together cross the ball."""
        if self.norm == 1:  # PGD's step is lost where the steepest entry is at its bound
            return APGD(self.eps, 1, steps)
        return PGD(self.eps, 2.5 * self.eps / steps, steps, self.norm)

    def logits(self, network: nn.Module, x: Tensor | None = None) -> Tensor:
        with fixed(network), torch.no_grad():
            return network(self.x if x is None else x)

    def attacked(self, network: nn.Module, attack: Adversary) -> Tensor | None:
        """The network's logits after the attack; None where its gradient is missing or not finite.

        Every attack begins at the same random points, so that a difference between two is theirs.
        """
        if not _differentiable(network, self.x[:1]):
            return None
        generator = torch.Generator(self.x.device).manual_seed(self.seed)
        try:
            points = attack(Problem(network, clip_values=self.clip_values, generator=generator), self.x, self.y)
        except FloatingPointError:
            return None
        return self.logits(network, points)


def _gradients(bench: _Bench, standing: Tensor, has_twin: bool) -> Finding:
    """Gradients of the cross-entropy, and of a loss that no softmax saturates, at x itself."""
    check, n = "gradients", len(bench)
    remedy = (
        "attack StraightThrough(network, twin)"
        if has_twin
        else "give a differentiable `twin` (float weights, rounding passed straight through) and attack "
        "StraightThrough(network, twin)"
    )
    if not _differentiable(bench.network, bench.x[:1]):
        sentence = (
            f"the network passes no gradient back to its inputs, so attacks that need one found nothing; {remedy}"
        )
        return Finding(check, Severity.FAILED, sentence)
    entropy = _steepest(bench, F.cross_entropy)
    odds = _steepest(bench, lambda logits, y: _log_odds(logits, y).mean())
    if bad := int((~(entropy.isfinite() & odds.isfinite())).sum()):
        sentence = f"the gradient of {_of(bad, n)} is not finite; look for NaN in the data and for diverged weights"
        return Finding(check, Severity.FAILED, sentence)
    tiny = torch.finfo(entropy.dtype).tiny  # below it, numbers lose their digits and then vanish
    zero = odds < tiny
    saturated = (entropy < tiny) & ~zero
    median = float(entropy.median())
    found = f"the gradient is zero on {_of(int(zero.sum()), n)}, {int((zero & standing).sum())} of which stand"
    severity = _severity(int((zero & standing).sum()), n)
    if severity is not Severity.PASSED:
        return Finding(check, severity, f"{found}: attacks that use it could not move them; {remedy}")
    rows = saturated & standing
    if (severity := _severity(int(rows.sum()), n)) is not Severity.PASSED:
        return _saturated(bench, rows)
    return Finding(
        check,
        severity,
        f"{found}, and by a saturated softmax on {int(saturated.sum())}; its median largest entry is {median:.1e}",
    )


def _saturated(bench: _Bench, rows: Tensor) -> Finding:
    """Whether the examples on which the cross-entropy has no gradient fall to a loss that has."""
    n, few = len(bench), dataclasses.replace(bench, x=bench.x[rows], y=bench.y[rows])
    logits = few.attacked(bench.network, APGD(bench.eps, bench.norm, 10, DLR()))
    fell = 0 if logits is None else int((~few.right(logits)).sum())
    return Finding(
        "gradients",
        _at_least_doubtful(fell, n),
        f"the softmax is saturated on {_of(len(few), n)} that stand: the cross-entropy has no gradient there, while "
        f"logits have one, along which APGD-DLR fells {fell} of them; give the suite attacks on differences of logits",
    )


def _black_box(clean: NDArray[np.bool_], attacks: Sequence[AttackResult]) -> Finding:
    """Less access should never fell more (Carlini et al. 2019, section 5.3)."""
    check = "black box"
    bounded = [a for a in attacks if a.bounded]
    white = [a for a in bounded if a.access is Access.GRADIENTS]
    black = [a for a in bounded if a.access is not Access.GRADIENTS]
    if not white or not black:
        lacking, remedy = ("with", "PGD") if not white else ("without", "Square, or `dense` for transferred examples")
        sentence = f"no attack {lacking} gradients ran, so that there is nothing to compare; add {remedy}"
        return Finding(check, Severity.WARNING, sentence)
    standing = reduce(np.logical_and, (a.correct for a in white), clean)
    alone = {a.name: int((standing & ~a.correct).sum()) for a in black}
    count = int((standing & ~reduce(np.logical_and, (a.correct for a in black))).sum())
    names = " or ".join(name for name in alone if alone[name] or not count)
    severity = _severity(count, len(clean))
    found = f"{_of(count, len(clean))} withstand every attack with gradients and fall to {names}"
    if severity is not Severity.PASSED:
        remedy = "attack with more steps and restarts, or through a differentiable twin"
        found += f", more than chance explains: the gradients mislead; {remedy}"
    return Finding(check, severity, found)


def _robust_above_clean(
    bench: _Bench,
    before: Tensor,
    after: Mapping[int, Tensor],
    clean: NDArray[np.bool_],
    attacks: Sequence[AttackResult],
) -> Finding:
    """No attack should help (Carlini et al. 2019, section 5.2). The suite spares what is wrong without it; PGD here
    does not."""
    check = "robust above clean"
    rows = [(a.name, int(a.correct.sum()), int(clean.sum()), len(clean)) for a in attacks]
    rows += [
        (f"PGD-{steps}", int(bench.right(logits).sum()), int(bench.right(before).sum()), len(bench))
        for steps, logits in after.items()
    ]
    if not rows:
        return Finding(check, Severity.WARNING, "no attack ran, so that there is nothing to compare; add PGD")
    name, robust, without, n = max(rows, key=lambda row: (row[1] - row[2]) / row[3])
    found = f"{name} leaves {robust / n:.1%} right, no attack {without / n:.1%}"
    if robust <= without:
        return Finding(check, Severity.PASSED, f"no attack helps; at most, {found}")
    remedy = "look for a gradient, a loss or labels of the attack that are wrong"
    return Finding(check, _at_least_doubtful(robust - without, n), f"the attack helps: {found}; {remedy}")


def _steps(bench: _Bench, before: Tensor, after: Mapping[int, Tensor]) -> Finding:
    """More steps should do more (Athalye et al. 2018, section 3.1), and raise the loss above that of x."""
    check, n = "steps", len(bench)
    if len(after) < len(STEPS):
        return _not_run(check)
    right = {steps: bench.right(logits) for steps, logits in after.items()}
    rise = max(_surplus(right[more], right[less]) for less, more in itertools.combinations(STEPS, 2))
    least = _log_odds(before, bench.y) + ROUNDING * before.abs().amax()
    stuck = int((right[STEPS[-1]] & (_log_odds(after[STEPS[-1]], bench.y) <= least)).sum())
    accuracies = ", ".join(f"{bench.accuracy(logits):.1%} after {steps}" for steps, logits in after.items())
    found = f"PGD leaves right {accuracies} steps; {_of(stuck, n)} are right with a loss no higher than at first"
    severity = _severity(max(rise, stuck), n)
    if severity is not Severity.PASSED:
        remedy = "look for rounding or saturation, and attack through a differentiable twin or by Square"
        found += f"; the gradients lead nowhere: {remedy}"
    return Finding(check, severity, found)


def _huge_eps(bench: _Bench) -> Finding:
    """Nothing withstands an attack that may replace the input (Carlini et al. 2019, section 5.2).

    The ball of the maximum norm as wide as the range holds every input. PGD begins at x: a random point of so large a
    ball fools without any gradient.
    """
    check, n = "huge eps", len(bench)
    low, high = box(bench.clip_values, bench.x)
    low, high = low.where(low.isfinite(), bench.x.min()), high.where(high.isfinite(), bench.x.max())
    radius = max(float((high - low).max()), bench.eps)
    logits = bench.attacked(bench.network, PGD(radius, radius / 4, 10, math.inf, random_start=False))
    if logits is None:
        return _not_run(check)
    left, chance = int(bench.right(logits).sum()), 1 / logits.shape[1]
    found = f"PGD in the whole range of the inputs (maximum norm, eps {radius:.3g}) leaves {_of(left, n)} right"
    least = wilson(left, n)[0]
    severity = Severity.FAILED if least > chance else Severity.WARNING if least > UNBELIEVABLE else Severity.PASSED
    found += f", guessing {chance:.1%}"
    if severity is not Severity.PASSED:
        found += "; no network withstands that, so the attack is at fault: look for zero or rounded gradients"
    return Finding(check, severity, found)


def _randomness(bench: _Bench, before: Tensor) -> Finding:
    """A random network needs attacks on its expectation (Athalye et al. 2018, section 3.1)."""
    check = "randomness"
    others = torch.stack([bench.logits(bench.network) for _ in range(QUESTIONS - 1)])
    differs = float((others - before).abs().max() / before.abs().max().clamp_min(torch.finfo(before.dtype).tiny))
    labels = int((others.argmax(dim=2) != before.argmax(dim=1)).any(dim=0).sum())
    found = (
        f"asked {QUESTIONS} times, logits differ by {differs:.1e} of the largest, labels on {_of(labels, len(bench))}"
    )
    severity = Severity.PASSED
    if differs > ROUNDING:
        severity = Severity.FAILED if differs > 100 * ROUNDING or labels else Severity.WARNING
        found += "; one answer is no verdict: fix the random numbers, or attack the mean of many answers"
    return Finding(check, severity, found)


def _twin(bench: _Bench, before: Tensor, after: Mapping[int, Tensor], twin: nn.Module) -> Finding:
    """Values of the network, gradients of the twin (Athalye et al. 2018, section 4.1)."""
    check, n, steps = "twin", len(bench), STEPS[-1]
    answers = bench.logits(twin)
    if answers.shape != before.shape:
        return Finding(
            check,
            Severity.FAILED,
            f"the twin gives outputs of shape {tuple(answers.shape)}, the network {tuple(before.shape)}; give one with "
            "the outputs of the network",
        )
    through = bench.attacked(StraightThrough(bench.network, twin), bench.converging(steps))
    if through is None:
        remedy = "give one of differentiable operations and finite weights"
        return Finding(check, Severity.FAILED, f"the gradient of the twin is missing or not finite; {remedy}")
    own = after.get(steps, before)  # no gradient, no attack
    differing = int((answers.argmax(dim=1) != before.argmax(dim=1)).sum())
    found = (
        f"PGD-{steps} leaves {bench.accuracy(own):.1%} right along the network's own gradients and "
        f"{bench.accuracy(through):.1%} along the twin's; their labels differ on {_of(differing, n)}"
    )
    severity = _severity(_surplus(bench.right(own), bench.right(through)), n)
    if severity is not Severity.PASSED:
        remedy = "the network hides its gradients: evaluate a classifier of StraightThrough(network, twin)"
        return Finding(check, severity, f"{found}; {remedy}")
    if _severity(differing, n) is not Severity.PASSED:
        return Finding(check, Severity.WARNING, f"{found}; give a twin that computes what the network does")
    return Finding(check, severity, found)


def _severity(count: int, n: int) -> Severity:
    """Of ``count`` among n examples that go against expectation, chance allowed for."""
    least = wilson(max(count, 0), n)[0]
    return Severity.FAILED if least > UNBELIEVABLE else Severity.WARNING if least > DOUBTFUL else Severity.PASSED


def _surplus(more: Tensor, fewer: Tensor) -> int:
    """By how many the first outcome has more examples right; 0 where the examples that differ could as well have
    differed the other way, by Wilson's interval of their share."""
    gained, lost = int((more & ~fewer).sum()), int((fewer & ~more).sum())
    return gained - lost if gained and wilson(gained, gained + lost)[0] > 0.5 else 0


def _at_least_doubtful(count: int, n: int) -> Severity:
    return Severity.FAILED if _severity(count, n) is Severity.FAILED else Severity.WARNING


def _log_odds(logits: Tensor, y: Tensor) -> Tensor:
    r"""Log odds of a wrong class, :math:`\log \sum_{i \ne y} e^{z_i} - z_y`; (N,). They rise with the cross-entropy,
    :math:`\log(e^{\ell} - 1)`, and do not saturate."""
    own = logits.gather(1, y[:, None])
    return (logits.scatter(1, y[:, None], -math.inf).logsumexp(dim=1, keepdim=True) - own)[:, 0]


def _differentiable(network: nn.Module, probe: Tensor) -> bool:
    with fixed(network), torch.enable_grad():
        probe = probe.detach().requires_grad_()
        logits = network(probe)
        return logits.requires_grad and torch.autograd.grad(logits.sum(), probe, allow_unused=True)[0] is not None


def _steepest(bench: _Bench, loss: Loss) -> Tensor:
    """Largest entry of each sample's own gradient; (N,)."""
    with fixed(bench.network), torch.enable_grad():
        x = bench.x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(len(x) * loss(bench.network(x), bench.y), x)
    return gradient.flatten(1).abs().amax(dim=1)


def _not_run(check: str) -> Finding:
    return Finding(check, Severity.FAILED, "PGD has no finite gradient to follow; see the finding on gradients")


def _of(count: int, n: int) -> str:
    return f"{count} of {n} examples ({count / n:.1%})"
