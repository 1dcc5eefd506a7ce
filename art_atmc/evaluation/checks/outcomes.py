"""Self-checks that compare attacks with one another: those of the suite, and the PGD of the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from art_atmc.evaluation.checks.bench import Bench, part, severity
from art_atmc.evaluation.result import AttackResult, Finding, Severity
from art_atmc.evaluation.suites import Access

__all__ = ["black_box", "robust_above_clean", "weak_suite"]


def black_box(clean: NDArray[np.bool_], attacks: Sequence[AttackResult]) -> Finding:
    """Less access should never fool more (Carlini et al. 2019, section 5.3)."""
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
    verdict = severity(count, len(clean))
    found = f"{part(count, len(clean))} withstand every attack with gradients and not {names}"
    if verdict is not Severity.PASSED:
        remedy = "attack with more steps and restarts, or through a differentiable twin"
        found += f", more than chance explains: the gradients mislead; {remedy}"
    return Finding(check, verdict, found)


def robust_above_clean(
    bench: Bench,
    before: Tensor,
    after: Mapping[int, Tensor],
    clean: NDArray[np.bool_],
    attacks: Sequence[AttackResult],
) -> Finding:
    """No attack should help (Carlini et al. 2019, section 5.2). The suite spares what is misclassified without it; PGD
    here does not."""
    check = "robust above clean"
    rows = [(a.name, int(a.correct.sum()), int(clean.sum()), len(clean)) for a in attacks]
    rows += [
        (f"PGD-{steps}", int(bench.correct(logits).sum()), int(bench.correct(before).sum()), len(bench))
        for steps, logits in after.items()
    ]
    if not rows:
        return Finding(check, Severity.WARNING, "no attack ran, so that there is nothing to compare; add PGD")
    name, robust, without, n = max(rows, key=lambda row: (row[1] - row[2]) / row[3])
    found = f"{name} leaves {robust / n:.1%} correct, no attack {without / n:.1%}"
    if robust <= without:
        return Finding(check, Severity.PASSED, f"no attack helps; at most, {found}")
    remedy = "look for a gradient, a loss or labels of the attack that are wrong"
    return Finding(check, severity(robust - without, n, Severity.WARNING), f"the attack helps: {found}; {remedy}")


def weak_suite(bench: Bench, after: Mapping[int, Tensor], standing: Tensor) -> Finding:
    """What withstands the suite should withstand the short PGD of these checks, which lies in the same ball."""
    check = "weak suite"
    if not after:
        return Finding(check, Severity.PASSED, "PGD has no finite gradient to follow; see the finding on gradients")
    fooled = standing & ~reduce(torch.logical_and, (bench.correct(logits) for logits in after.values()))
    count, left = int(fooled.sum()), int((standing & ~fooled).sum())
    verdict = severity(count, len(bench))
    found = f"{part(count, len(bench))} withstand the suite and not PGD of at most {max(after)} steps"
    if verdict is not Severity.PASSED:
        remedy = "give the suite PGD of more steps that together cross the ball, such as the suite `standard`"
        found += f", which leaves {left / len(bench):.1%} robust at most; {remedy}"
    return Finding(check, verdict, found)
