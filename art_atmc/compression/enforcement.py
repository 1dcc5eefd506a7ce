"""Enforcement: compress whatever trains, from inside the optimizer's own step hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from art_atmc.compression.constraints import Constraint
from art_atmc.compression.solver import Solver
from art_atmc.compression.solvers import ProjectedGradient
from art_atmc.compression.weights import Weights

__all__ = ["enforced", "finalize", "projected", "rehearse"]


@contextlib.contextmanager
def enforced(optimizer: torch.optim.Optimizer, solvers: Sequence[Solver]) -> Iterator[None]:
    r"""Within the block every ``optimizer.step()`` obeys the solvers; at its end every constraint holds.

    Before each step the gradient of the penalties is added to the gradients; after it each solver steps, in order.
    When the block ends without an error the solvers finalize and all constraints are checked together.

    :param optimizer: any torch optimizer that is called without a closure.
    :param solvers: in the order in which they act; a support before the codebook on it.
    :raises ValueError: when the optimizer does not train the solvers' weights.
    :raises RuntimeError: for a step with a closure, for a block without any step, and when the constraints can't hold
        together.

    >>> from art_atmc import ProjectedGradient, Sparsity, compressible
    >>> model = torch.nn.Linear(10, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with enforced(optimizer, [ProjectedGradient(compressible(model), Sparsity(density=0.25))]):
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(2, 10)).square().sum().backward()
    ...         optimizer.step()
    >>> int(model.weight.count_nonzero())
    10
    """
    _check_trained(optimizer, solvers)
    stepped = False

    def before(_: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("closure") is not None or any(callable(a) for a in args):
            raise RuntimeError(
                "optimizer.step(closure) recomputes the gradients and would lose the constraints' "
                "penalty; call backward() first and then step() without a closure"
            )
        _unscale(optimizer)
        for solver in solvers:
            solver.add_penalty_grad_()
        if not _skipped(optimizer):
            for solver in reversed(solvers):  # the last projection is the first to be undone
                solver.restore()

    def after(*_: Any) -> None:
        nonlocal stepped
        if _skipped(optimizer):
            return
        stepped = True
        for solver in solvers:
            solver.step()

    hooks = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if not stepped and not any(solver.steps for solver in solvers):  # a fit may be taken up again at its end
        raise RuntimeError(
            "the optimizer made no step inside `enforced`, so nothing was compressed; what trains the "
            "model uses another optimizer, or had no batch"
        )
    finalize(solvers)


def finalize(solvers: Sequence[Solver], rounds: int = 10) -> None:
    """Put the weights on all constraints at once, in place: the solvers in order, again until all hold together.

    :raises RuntimeError: naming the constraints that still fail after ``rounds`` rounds.
    """
    for _ in range(rounds):
        for solver in solvers:
            solver.finalize()
        failing = [s.constraint for s in solvers if not s.holds()]
        if not failing:
            return
    raise RuntimeError(f"these constraints do not hold together with the others: {failing}; drop one of them")


def rehearse(constraints: Sequence[Constraint], weights: Weights) -> None:
    """Put weights on all constraints at once before anything is trained, as :func:`finalize` will after it.

    :param weights: a copy of those that will be trained; it is changed.
    :raises ValueError: when the constraints can't hold together, one of them fails, or a weight is not finite.
    """
    if wild := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise ValueError(f"the weights {wild} are infinite or NaN; begin with finite ones")
    try:
        finalize([ProjectedGradient(weights, constraint) for constraint in constraints])
    except RuntimeError as error:
        raise ValueError(f"tried on the untrained network, {error}") from error


@contextlib.contextmanager
def projected(solvers: Sequence[Solver]) -> Iterator[dict[str, float]]:
    r"""Within the block the weights are what would be shipped now; at its end they are as before.

    Yields ``violation``, the share :math:`\|w - P(w)\|^2 / \|w\|^2` that the projection takes away.
    """
    # Solvers share tensors: each is held once.
    tensors = {id(tensor): tensor.detach() for solver in solvers for tensor in solver.weights.values()}
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    try:
        finalize(solvers)
        moved = sum(float((tensor - before[key]).double().square().sum()) for key, tensor in tensors.items())
        length = sum(float(tensor.double().square().sum()) for tensor in before.values())
        yield {"violation": moved / length if length else 0.0}
    finally:
        for key, tensor in tensors.items():
            tensor.copy_(before[key])


def _unscale(optimizer: torch.optim.Optimizer) -> None:
    """Take a ``GradScaler``'s scale out of the gradients, which it leaves to an optimizer that does so in its own step
    (``fused=True``); a penalty that is added before would be scaled away."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.div_(scale.to(p.grad.device))
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def _skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused step moved nothing, because a ``GradScaler`` found infinite gradients."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _check_trained(optimizer: torch.optim.Optimizer, solvers: Sequence[Solver]) -> None:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = sorted({name for s in solvers for name, p in s.weights.items() if id(p) not in trained})
    if missing:
        raise ValueError(
            f"the optimizer does not train {missing}; it was built before the model was decomposed, or "
            "for part of it: build it afterwards, or call decompose(model, optimizer=optimizer)"
        )
