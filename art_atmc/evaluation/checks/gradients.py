"""Self-checks of gradients: whether there are any, whether they lead anywhere, and whether a twin's lead farther."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_atmc.attacks.apgd import APGD, DLR
from art_atmc.attacks.ball import box
from art_atmc.attacks.base import Loss
from art_atmc.attacks.pgd import PGD
from art_atmc.attacks.straight_through import StraightThrough
from art_atmc.classifiers.labels import predicted
from art_atmc.classifiers.modes import fixed
from art_atmc.evaluation.checks.bench import (
    ROUNDING,
    STEPS,
    UNBELIEVABLE,
    Bench,
    differentiable,
    log_odds,
    part,
    severity,
    surplus,
)
from art_atmc.evaluation.result import Finding, Severity
from art_atmc.support.statistics import wilson

__all__ = ["gradients", "huge_eps", "steps", "twin_gradients"]


def gradients(bench: Bench, standing: Tensor, has_twin: bool) -> Finding:
    """Gradients of the cross-entropy, and of a loss that no softmax saturates, at x itself."""
    check, n = "gradients", len(bench)
    remedy = (
        "attack StraightThrough(network, twin)"
        if has_twin
        else "give a differentiable `twin` (float weights, rounding passed straight through) and attack "
        "StraightThrough(network, twin)"
    )
    if not differentiable(bench.network, bench.x[:1]):
        sentence = (
            f"the network passes no gradient back to its inputs, so attacks that need one found nothing; {remedy}"
        )
        return Finding(check, Severity.FAILED, sentence)
    entropy = _steepest(bench, F.cross_entropy)
    odds = _steepest(bench, lambda logits, y: log_odds(logits, y).mean())
    if bad := int((~(entropy.isfinite() & odds.isfinite())).sum()):
        sentence = f"the gradient of {part(bad, n)} is not finite; look for NaN in the data and for diverged weights"
        return Finding(check, Severity.FAILED, sentence)
    tiny = torch.finfo(entropy.dtype).tiny  # below it, numbers lose their digits and then vanish
    zero = odds < tiny
    saturated = (entropy < tiny) & ~zero
    median = float(entropy.median())
    found = f"the gradient is zero on {part(int(zero.sum()), n)}, {int((zero & standing).sum())} of which are robust"
    verdict = severity(int((zero & standing).sum()), n)
    if verdict is not Severity.PASSED:
        return Finding(check, verdict, f"{found}: attacks that use it could not move them; {remedy}")
    rows = saturated & standing
    if (verdict := severity(int(rows.sum()), n)) is not Severity.PASSED:
        return _saturated(bench, rows)
    return Finding(
        check,
        verdict,
        f"{found}, and by a saturated softmax on {int(saturated.sum())}; its median largest entry is {median:.1e}",
    )


def _saturated(bench: Bench, rows: Tensor) -> Finding:
    """Whether the examples on which the cross-entropy has no gradient are fooled along a loss that has."""
    n, few = len(bench), dataclasses.replace(bench, x=bench.x[rows], y=bench.y[rows])
    logits = few.attacked(bench.network, APGD(bench.eps, bench.norm, 10, DLR()))
    fooled = 0 if logits is None else int((~few.correct(logits)).sum())
    return Finding(
        "gradients",
        severity(fooled, n, Severity.WARNING),
        f"the softmax is saturated on {part(len(few), n)} that are robust: the cross-entropy has no gradient there, "
        f"while logits have one, along which APGD-DLR fools {fooled} of them; give the suite attacks on differences of "
        "logits",
    )


def steps(bench: Bench, before: Tensor, after: Mapping[int, Tensor]) -> Finding:
    """More steps should do more (Athalye et al. 2018, section 3.1), and raise the loss above that of x."""
    check, n = "steps", len(bench)
    if len(after) < len(STEPS):
        return _not_run(check)
    correct = {steps: bench.correct(logits) for steps, logits in after.items()}
    rise = max(surplus(correct[more], correct[less]) for less, more in itertools.combinations(STEPS, 2))
    least = log_odds(before, bench.y) + ROUNDING * before.abs().amax()
    stuck = int((correct[STEPS[-1]] & (log_odds(after[STEPS[-1]], bench.y) <= least)).sum())
    accuracies = ", ".join(f"{bench.accuracy(logits):.1%} after {steps}" for steps, logits in after.items())
    found = f"accuracy under PGD is {accuracies} steps; {part(stuck, n)} are correct, the loss no higher than at first"
    verdict = severity(max(rise, stuck), n)
    if verdict is not Severity.PASSED:
        remedy = "look for rounding or saturation, and attack through a differentiable twin or by Square"
        found += f"; the gradients lead nowhere: {remedy}"
    return Finding(check, verdict, found)


def huge_eps(bench: Bench) -> Finding:
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
    left, chance = int(bench.correct(logits).sum()), 1 / logits.shape[1]
    found = f"PGD in the whole range of the inputs (maximum norm, eps {radius:.3g}) leaves {part(left, n)} correct"
    least = wilson(left, n)[0]
    verdict = Severity.FAILED if least > chance else Severity.WARNING if least > UNBELIEVABLE else Severity.PASSED
    found += f", guessing {chance:.1%}"
    if verdict is not Severity.PASSED:
        found += "; no network withstands that, so the attack is at fault: look for zero or rounded gradients"
    return Finding(check, verdict, found)


def twin_gradients(bench: Bench, before: Tensor, after: Mapping[int, Tensor], twin: nn.Module) -> Finding:
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
    differing = int((predicted(answers) != predicted(before)).sum())
    found = (
        f"PGD-{steps} leaves {bench.accuracy(own):.1%} correct along the network's own gradients and "
        f"{bench.accuracy(through):.1%} along the twin's; their labels differ on {part(differing, n)}"
    )
    verdict = severity(surplus(bench.correct(own), bench.correct(through)), n)
    if verdict is not Severity.PASSED:
        remedy = "the network hides its gradients: evaluate a classifier of StraightThrough(network, twin)"
        return Finding(check, verdict, f"{found}; {remedy}")
    if severity(differing, n) is not Severity.PASSED:
        return Finding(check, Severity.WARNING, f"{found}; give a twin that computes what the network does")
    return Finding(check, verdict, found)


def _steepest(bench: Bench, loss: Loss) -> Tensor:
    """Largest entry of each sample's own gradient; (N,)."""
    with fixed(bench.network), torch.enable_grad():
        x = bench.x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(len(x) * loss(bench.network(x), bench.y), x)
    return gradient.flatten(1).abs().amax(dim=1)


def _not_run(check: str) -> Finding:
    return Finding(check, Severity.FAILED, "PGD has no finite gradient to follow; see the finding on gradients")
