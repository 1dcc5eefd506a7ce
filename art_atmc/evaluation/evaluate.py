"""A classifier against a suite of attacks: every example under every attack, interruptible, then the self-checks."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from art_atmc.attacks.art import adversary
from art_atmc.attacks.ball import inside
from art_atmc.evaluation.certificates import Certificate, CertificateResult
from art_atmc.evaluation.checks import self_checks
from art_atmc.evaluation.fingerprints import classifier_hash, data_hash, model_hash, parameters, plain, seed_of
from art_atmc.evaluation.judge import Judge
from art_atmc.evaluation.refusals import check_certificates, checked, left_out, suite_of
from art_atmc.evaluation.result import AttackResult, Evaluation, Finding
from art_atmc.evaluation.suites import Access, Attack, Suite
from art_atmc.support.numbers import Whole
from art_atmc.support.randomness import isolated_randomness
from art_atmc.support.terminal import printable
from art_atmc.support.versions import versions

__all__ = ["evaluate"]

CERTIFIED_AT_ONCE = 16  # examples, each of which may take a thousand answers, between two steps of the progress bar


def evaluate(
    classifier: PyTorchClassifier,
    x: Any,
    y: Any,
    *,
    suite: Suite | str,
    eps: float | None = None,
    norm: float | None = None,
    dense: PyTorchClassifier | None = None,
    twin: nn.Module | None = None,
    certificates: Sequence[Certificate] = (),
    batch_size: int = 256,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> Evaluation:
    r"""Robust accuracy as the worst case over a suite of attacks, each example on its own:

    .. math:: \frac1n \sum_i \min_{a \in \text{suite}} \; \min_{r \le \text{restarts}(a)}
              \bigl[f(x_i^{a,r}) = y_i\bigr], \qquad x_i^{a,r} \in B_p(x_i, \epsilon) \cap [l, h]

    A point outside the ball or the clip values fools nobody, whatever made it. An attack is run on the examples that
    are classified correctly, and again on those that it has not fooled yet. Each run has random numbers of its own,
    drawn from ``seed`` and the attack's name, so that an attack gives the same alone, in another suite, and after an
    interruption. Judge is the classifier's own network, preprocessing included, in evaluation mode. Attacks that it
    can't have are left out, with the reason in ``skipped``: transfer without ``dense``, and attacks of ART that fail in
    a first step on one example, as those for images do on vectors.

    :param classifier: any ART ``PyTorchClassifier``, of several outputs, or of one with ``BCEWithLogitsLoss``; it comes
        back as it was.
    :param x: (n, \*input_shape), within the classifier's clip values.
    :param y: class indices (n,) or one-hot (n, classes).
    :param suite: ``"quick"``, ``"standard"`` or ``"thorough"``, or one of your own.
    :param eps: radius, in the units of x; with the name of a suite.
    :param norm: 1, 2 or infinity, the default; with the name of a suite.
    :param dense: the classifier that transferred examples are made for; such attacks are left out without it.
    :param twin: differentiable module that computes what the network does, for networks whose gradients are hidden; the
        self-checks attack through it. To run the whole suite through it, give a classifier of
        :class:`StraightThrough`.
    :param certificates: lower bounds to show beside the worst case, which they are no part of: the certified accuracy
        at radii, such as of ``Smoothing(scale=0.25)``.
    :param batch_size: examples at a time.
    :param seed: of everything random; the global generators come back as they were.
    :param checkpoint: file of the result so far, written after every attack and certificate. An evaluation that was
        interrupted goes on from there when it is called again with the same arguments.
    :param verbose: show a progress bar, on stderr.
    :raises TypeError: for a classifier, a suite or labels that are none, and a model that returns no tensor.
    :raises ValueError: for data that does not fit the classifier, an attack made for another classifier, a suite of
        which no attack can be run, and a checkpoint of another evaluation, before any attack is run.
    :raises ImportError: before any attack is run, for AutoAttack without the extra ``evaluation``.
    :raises FloatingPointError: when the network's outputs or gradients are not finite.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), (1,), 2, device_type="cpu")
    >>> from art_atmc import PGD
    >>> suite = Suite("one", eps=0.5, norm=float("inf"), attacks=(PGD(0.5, 0.25, 4),))
    >>> x = np.array([[0.4], [0.6], [-0.1]], dtype=np.float32)
    >>> result = evaluate(classifier, x, np.array([0, 0, 0]), suite=suite, verbose=False)
    >>> result.clean.tolist(), result.worst_case.tolist()
    ([True, True, False], [False, True, False])
    """
    suite = suite_of(suite, eps, norm)
    batch_size = Whole(1, None, "256 is usual").plain("batch_size", batch_size)
    seed = Whole(-(2**63), 2**64, "any number will do").plain("seed", seed)
    check_certificates(certificates, suite)
    judge, source = checked(classifier, x, y, suite, dense)
    reasons = left_out(suite, judge, source)
    with isolated_randomness(seed_of(seed, "clean")):
        clean = judge.correct(batch_size)
    state = Evaluation(
        suite=suite.name,
        eps=suite.eps,
        norm=f"{suite.norm:g}",
        seed=seed,
        batch_size=batch_size,
        data=data_hash(judge.x, judge.y),
        model=classifier_hash(classifier),
        others={
            **({} if dense is None else {"dense": classifier_hash(dense)}),
            **({} if twin is None else {"twin": model_hash(twin)}),
        },
        clean=clean,
        attacks=(),
        missing=(*(a.name for a in suite.attacks if a.name not in reasons), *(c.name for c in certificates)),
        skipped=tuple(f"{name}: {reason}" for name, reason in reasons.items()),
        findings=(),
        versions=versions(),
        clip_values=plain(classifier.clip_values),
    )
    if checkpoint is not None:
        state = _resumed(state, suite, certificates, Path(checkpoint))
    with _progress(verbose) as progress:
        for attack in suite.attacks:
            if attack.name in state.missing:
                row = _attacked(judge, source, attack, suite, state, progress)
                state = _with(state, checkpoint, row.name, attacks=(*state.attacks, row))
        for certificate in certificates:
            if certificate.name in state.missing:
                certified = _certified(judge, certificate, state, progress)
                state = _with(state, checkpoint, certified.name, certificates=(*state.certificates, certified))
        if not state.findings:
            checks = progress.add_task("self-checks", total=None)
            state = dataclasses.replace(state, findings=_findings(judge, twin, state, suite))
            progress.update(checks, total=len(state.findings), completed=len(state.findings))
            if checkpoint is not None:
                state.save(checkpoint)
    return state


def _with(state: Evaluation, checkpoint: Any, name: str, **found: Any) -> Evaluation:
    """The evaluation with the result of what was missing by this name."""
    left = tuple(missing for missing in state.missing if missing != name)
    state = dataclasses.replace(state, missing=left, **found)
    if checkpoint is not None:
        state.save(checkpoint)
    return state


def _attacked(
    judge: Judge, source: Judge | None, attack: Attack, suite: Suite, state: Evaluation, progress: Progress
) -> AttackResult:
    """Run an attack until the judge is fooled on every example, or its restarts are spent."""
    started, rejected = time.perf_counter(), 0
    attacked = source if attack.access is Access.TRANSFER and source is not None else judge
    method = adversary(attack.method, attacked.classifier)
    eps, norm = attack.ball or (suite.eps, suite.norm)
    standing = torch.from_numpy(state.clean.copy())
    attempts = int(standing.sum())
    bar = progress.add_task(printable(attack.name), total=attack.restarts * attempts)
    for restart in range(attack.restarts):
        seed = seed_of(state.seed, f"{attack.name} {restart}")
        problem = attacked.problem(seed, judge)
        with isolated_randomness(seed):  # for networks and attacks that draw from the global generators
            for rows in _chunks(standing, state.batch_size):
                x, y = attacked.x[rows], attacked.labels[rows]
                points = method(problem, x.to(attacked.device), y.to(attacked.device)).cpu()
                valid = inside(points, x, eps if attack.bounded else float("inf"), norm, judge.limits)
                standing[rows[valid & judge.fooled(points, rows)]] = False
                rejected += int((~valid).sum())
                progress.advance(bar, len(rows))
        progress.update(bar, completed=(restart + 1) * attempts)
    return AttackResult(
        name=attack.name,
        access=attack.access,
        bounded=attack.bounded,
        restarts=attack.restarts,
        parameters=parameters(attack.method),
        correct=standing.numpy(),
        rejected=rejected,
        seconds=time.perf_counter() - started,
        ball=_ball(attack),
    )


def _certified(judge: Judge, certificate: Certificate, state: Evaluation, progress: Progress) -> CertificateResult:
    started, seed = time.perf_counter(), seed_of(state.seed, certificate.name)
    problem, found = judge.problem(seed), []
    bar = progress.add_task(printable(certificate.name), total=len(judge.x))
    with isolated_randomness(seed):
        for x in judge.x.split(CERTIFIED_AT_ONCE):
            found.append(certificate(problem, x.to(judge.device), state.batch_size))
            progress.advance(bar, len(x))
    classes, radii = (np.concatenate(part) for part in zip(*found, strict=True))
    return CertificateResult(
        name=certificate.name,
        norm=f"{certificate.norm:g}",
        parameters=parameters(certificate),
        correct=classes == judge.y.numpy(),
        radii=radii,
        shown=certificate.shown,
        seconds=time.perf_counter() - started,
    )


def _ball(attack: Attack) -> tuple[float, str] | None:
    """As JSON has it, where infinity is a word."""
    return None if attack.ball is None else (attack.ball[0], f"{attack.ball[1]:g}")


def _chunks(standing: Tensor, size: int) -> Iterator[Tensor]:
    rows = standing.nonzero()[:, 0]
    return iter(rows.split(size) if len(rows) else ())


def _findings(judge: Judge, twin: nn.Module | None, state: Evaluation, suite: Suite) -> tuple[Finding, ...]:
    seed = seed_of(state.seed, "self-checks")
    with isolated_randomness(seed):
        return self_checks(
            judge.network,
            judge.x.to(judge.device),
            judge.y.to(judge.device),
            eps=suite.eps,
            norm=suite.norm,
            clip_values=judge.classifier.clip_values,
            clean=state.clean,
            attacks=state.attacks,
            twin=twin,
            generator=torch.Generator(judge.device).manual_seed(seed),
        )


def _resumed(fresh: Evaluation, suite: Suite, certificates: Sequence[Certificate], path: Path) -> Evaluation:
    """The evaluation in the file, when it is the same as this one; else this one, written to the file."""
    if not path.exists():
        if not path.parent.is_dir():
            raise ValueError(f"the folder of `checkpoint`={path} does not exist; make it first")
        fresh.save(path)
        return fresh
    saved = Evaluation.load(path)
    lines = {attack.name: attack for attack in suite.attacks}
    names = ("suite", "eps", "norm", "seed", "batch_size", "data", "model", "others", "clip_values", "versions")
    differing = [name for name in names if getattr(saved, name) != getattr(fresh, name)]
    if "data" not in differing and "model" not in differing and not np.array_equal(saved.clean, fresh.clean):
        differing.append("clean")  # the same weights in another architecture
    held = {*saved.missing, *(row.name for row in saved.attacks), *(row.name for row in saved.certificates)}
    if held != {*fresh.missing} or saved.skipped != fresh.skipped:
        differing.append("names of the attacks and certificates")
    else:
        differing += [
            f"attack {row.name}"
            for row in saved.attacks
            if (row.parameters, row.restarts, row.access, row.bounded, row.ball)
            != (parameters((line := lines[row.name]).method), line.restarts, line.access, line.bounded, _ball(line))
        ]
        wanted = {certificate.name: parameters(certificate) for certificate in certificates}
        differing += [f"certificate {row.name}" for row in saved.certificates if row.parameters != wanted[row.name]]
    if differing:
        raise ValueError(
            f"`checkpoint`={path} holds another evaluation, which differs in: {', '.join(differing)}; give the "
            "arguments that it was begun with, or another file"
        )
    return saved


def _progress(verbose: bool) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True, quiet=not verbose), disable=not verbose)
