"""Self-checks of what a network answers when nobody attacks it: always the same, by chance, or by its neighbours."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from art_atmc.classifiers.labels import predicted
from art_atmc.classifiers.modes import fixed
from art_atmc.evaluation.checks.bench import ROUNDING, Bench, part, severity
from art_atmc.evaluation.result import Finding, Severity

__all__ = ["batch", "dead_network", "randomness"]

QUESTIONS: Final = 4
ALONE: Final = 8  # examples that are asked one at a time, and random inputs besides
NEIGHBOURS: Final = 1e-3  # relative to the largest logit: other kernels for other batch sizes, in reduced precision


def dead_network(bench: Bench, before: Tensor) -> Finding:
    """A constant is as robust as it is wrong; its gradients are zero because there is nothing to hide."""
    check, n = "dead network", len(bench)
    answers = torch.cat([before, bench.logits(bench.network, _random_inputs(bench))])
    answers = answers - answers.mean(dim=1, keepdim=True)  # what all classes share decides nothing
    empty = _empty_layers(bench.network)
    layers = f"; layers without a weight: {', '.join(empty)}" if empty else ""
    if _relative((answers.amax(dim=0) - answers.amin(dim=0)).max(), answers) <= ROUNDING:
        remedy = "raise the density, or leave these layers dense" if empty else "look for units that never fire"
        return Finding(
            check,
            Severity.FAILED,
            f"every input gets one answer, class {int(predicted(before)[0])}, so that no accuracy means anything"
            f"{layers}; {remedy}, and train again",
        )
    classes = predicted(before).unique()
    if len(classes) == 1 < len(bench.y.unique()):
        found = f"all {n} examples are classified as {int(classes)}{layers}"
        return Finding(check, Severity.WARNING, f"{found}; train for longer, or with constraints that tighten later")
    return Finding(check, Severity.PASSED, f"{n} examples get {len(classes)} different answers{layers}")


def randomness(bench: Bench, before: Tensor) -> Finding:
    """A random network needs attacks on its expectation (Athalye et al. 2018, section 3.1)."""
    n, others = len(bench), torch.stack([bench.logits(bench.network) for _ in range(QUESTIONS - 1)])
    differs = _relative((others - before).abs().max(), before)
    changed = torch.stack([predicted(other) != predicted(before) for other in others])
    labels = int(changed.any(dim=0).sum())
    found = f"asked {QUESTIONS} times, logits differ by {differs:.1e} of the largest, labels on {part(labels, n)}"
    verdict = Severity.PASSED
    if differs > ROUNDING:
        verdict = Severity.FAILED if differs > 100 * ROUNDING or labels else Severity.WARNING
        found += "; one answer is no verdict: fix the random numbers, or attack the mean of many answers"
    return Finding("randomness", verdict, found)


def batch(bench: Bench, before: Tensor) -> Finding:
    """The answer to an input must not depend on its neighbours: an attacker sends one at a time.

    Asked of the same batch in another order, and of single examples. It gives away statistics of the batch, and noise
    that is drawn afresh from one seed at each call.
    """
    check, n, alone = "batch", len(bench), min(ALONE, len(bench))
    order = torch.randperm(n, generator=bench.generator(), device=bench.x.device)
    try:
        reordered = bench.logits(bench.network, bench.x[order])
        single = torch.cat([bench.logits(bench.network, bench.x[i : i + 1]) for i in range(alone)])
    except (RuntimeError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0]
        return Finding(check, Severity.WARNING, f"the network answers batches of {n}, and not of one: {reason}")
    if single.shape != (alone, before.shape[1]):
        shape = tuple(single.shape[1:])
        return Finding(check, Severity.WARNING, f"a single example gets outputs of shape {shape}, one of {n} {shape}")
    answers, expected = torch.cat([reordered, single]), torch.cat([before[order], before[:alone]])
    differs = _relative((answers - expected).abs().max(), before)
    changed = predicted(answers) != predicted(expected)
    among, by_itself = int(changed[:n].sum()), int(changed[n:].sum())
    found = (
        f"logits differ by {differs:.1e} of the largest; labels of {part(among, n)} in another order, of "
        f"{part(by_itself, alone)} alone"
    )
    failed = Severity.FAILED in (severity(among, n), severity(by_itself, alone))
    if differs <= NEIGHBOURS and not failed:
        return Finding(check, Severity.PASSED, f"beside other examples, {found}")
    verdict = Severity.FAILED if differs > 10 * NEIGHBOURS or failed else Severity.WARNING
    remedy = "let it answer each example by itself, without statistics of the batch and noise of one seed"
    return Finding(check, verdict, f"an answer depends on the batch that it is asked in: {found}; {remedy}")


def _random_inputs(bench: Bench) -> Tensor:
    """A few inputs that no data set holds, in the range of the examples."""
    low, high = bench.x.min(), bench.x.max()
    noise = torch.empty_like(bench.x[:1]).expand(ALONE, *bench.x.shape[1:]).clone()
    return low + (high - low) * noise.uniform_(generator=bench.generator())


def _empty_layers(network: nn.Module) -> list[str]:
    """Layers of which every weight is zero, by their names in the user's model."""
    found = []
    with fixed(network), torch.no_grad():
        for name, module in network.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() > 1 and weight.numel() and not weight.any():
                found.append(name.removeprefix("network.").removeprefix("model."))
    return found


def _relative(difference: Tensor, logits: Tensor) -> float:
    return float(difference / logits.abs().max().clamp_min(torch.finfo(logits.dtype).tiny))
