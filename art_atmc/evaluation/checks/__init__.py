"""Whether to believe a robust accuracy: what gives hidden gradients, weak attacks and odd networks away.

The signs are those of Athalye et al. 2018 (https://arxiv.org/abs/1802.00420, section 3.1) and Carlini et al. 2019
(https://arxiv.org/abs/1902.06705, section 5). None proves a figure right; each that shows proves it doubtful.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from art_atmc.attacks.base import ClipValues
from art_atmc.classifiers.labels import ClassLogits
from art_atmc.evaluation.checks.answers import batch, dead_network, randomness
from art_atmc.evaluation.checks.bench import STEPS, Bench
from art_atmc.evaluation.checks.gradients import gradients, huge_eps, steps, twin_gradients
from art_atmc.evaluation.checks.outcomes import black_box, robust_above_clean, weak_suite
from art_atmc.evaluation.result import AttackResult, Finding, Severity

__all__ = ["self_checks"]


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
    r"""The signs of hidden gradients, of weak attacks and of networks that are no function of one input, one finding
    each:

    ``dead network``
        every input gets the same answer; where it does, nothing else is asked.
    ``gradients``
        missing, not finite, zero, or zero by a saturated softmax, on examples that withstand the suite.
    ``black box``
        examples that are misclassified under attacks without gradients, and under no attack that has them.
    ``robust above clean``
        more examples correct under an attack than without one.
    ``weak suite``
        examples that withstand the suite, and not the PGD of these checks.
    ``steps``
        PGD with more steps leaves more examples correct, or does not raise the loss.
    ``huge eps``
        PGD in the whole range of the inputs leaves more examples correct than guessing.
    ``randomness``
        the same input is answered differently.
    ``batch``
        an input is answered differently beside other inputs; asked where the same batch is answered alike.
    ``twin``
        only where one is given: gradients of the twin fool more than the network's own, or its labels differ.

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
    :param clean: (N,) examples that are classified correctly.
    :param attacks: outcomes of the suite.
    :param twin: differentiable module that computes what the network does; on the same device.
    :param generator: of the random starts.
    :param limit: examples to spend gradients on.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> x = torch.linspace(-1, 1, 50)[:, None]
    >>> findings = self_checks(
    ...     network, x, (x[:, 0] < 0).long(), eps=0.1, norm=float("inf"), clip_values=(-1, 1), attacks=(), twin=None,
    ...     clean=np.ones(50, dtype=bool), generator=torch.Generator().manual_seed(0))
    >>> {finding.check: finding.severity.value for finding in findings}  # doctest: +NORMALIZE_WHITESPACE
    {'dead network': 'passed', 'gradients': 'passed', 'black box': 'warning', 'robust above clean': 'passed',
     'weak suite': 'failed', 'steps': 'passed', 'huge eps': 'passed', 'randomness': 'passed', 'batch': 'passed'}
    """
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    bench = Bench(ClassLogits(network), x[:limit], y[:limit], eps, norm, clip_values, seed)
    before = bench.logits(bench.network)
    dead = dead_network(bench, before)
    if dead.severity is Severity.FAILED:
        return (dead,)
    worst = reduce(np.logical_and, (a.correct for a in attacks if a.bounded), clean)
    standing = torch.from_numpy(worst[:limit]).to(x.device)
    after = {n: logits for n in STEPS if (logits := bench.attacked(bench.network, bench.converging(n))) is not None}
    findings = [
        dead,
        gradients(bench, standing, twin is not None),
        black_box(clean, attacks),
        robust_above_clean(bench, before, after, clean, attacks),
        weak_suite(bench, after, standing),
        steps(bench, before, after),
        huge_eps(bench),
        random := randomness(bench, before),
    ]
    if random.severity is Severity.PASSED:
        findings.append(batch(bench, before))
    if twin is not None:
        findings.append(twin_gradients(bench, before, after, ClassLogits(twin)))
    return tuple(findings)
