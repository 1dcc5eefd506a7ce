"""The laws of a solver."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from art_atmc.compression.solver import Solver
from art_atmc.compression.weights import Weights
from art_atmc.support.randomness import isolated_randomness
from art_atmc.testing.comparison import RARE_SEED, equal, normal, random_state, same

__all__ = ["check_solver"]


@isolated_randomness(RARE_SEED)
def check_solver(factory: Callable[[Weights], Solver], weights: Weights | None = None) -> None:
    """Try the laws of a solver.

    It holds the parameters themselves and moves them in place; ``add_penalty_grad_`` adds to the gradients and touches
    neither weights nor state, and where the solver has a ``penalty()`` it adds exactly its derivative; ``finalize``
    lands in the constraint's set; a state that went through a file continues bit for bit and shares no tensors; the
    global random generators stay alone.

    :param factory: builds the solver over the weights it is given, such as ``lambda w: ADMM(w, Quantization(bits=1))``,
        with a ramp that ends within eight steps.
    :param weights: whose values to start from, where the constraint refuses the kit's own.
    :raises AssertionError: naming the first law that is broken.

    >>> from art_atmc import ProjectedGradient, Sparsity
    >>> check_solver(lambda weights: ProjectedGradient(weights, Sparsity(density=0.5)))
    """
    template = Weights({"a": torch.empty(4, 3), "b": torch.empty(2, 4)})
    start = normal(template, torch.Generator().manual_seed(0)) if weights is None else weights.clone()
    laws = _Laws(factory, _parameters(start))
    try:
        laws.resumes()  # before the first step too
        laws.steps()
        laws.resumes()
        laws.ends()
    except AssertionError:
        raise
    except Exception as error:
        laws.require(False, f"must train any finite weights, but raised {error!r}")


@final
class _Laws:
    def __init__(self, factory: Callable[[Weights], Solver], parameters: Weights) -> None:
        self.factory = factory
        self.parameters = parameters
        self.random_state = random_state()
        self.solver = factory(parameters)
        held = all(self.solver.weights[name] is p for name, p in parameters.items())
        self.require(held, "`weights` must stay the parameters that the solver is given")

    def require(self, holds: bool, law: str) -> None:
        if not holds:
            raise AssertionError(f"{type(self.solver).__name__}: {law}")

    def steps(self) -> None:
        places = {name: p.data_ptr() for name, p in self.parameters.items()}
        for step in range(1, 9):
            _advance(self.solver, self.parameters)
            self.require(self.solver.steps == step, "`steps` must count the optimizer's steps")
            held = [self.solver.weights[n] is p and p.data_ptr() == places[n] for n, p in self.parameters.items()]
            self.require(all(held), "`step` must move the weights in place")
            self.penalty()

    def penalty(self) -> None:
        before, state = self.parameters.clone(), copy.deepcopy(self.solver.state_dict())
        added = self._added(None)
        on_ones = self._added(torch.ones_like)
        self.require(equal(before, self.parameters.detach()), "`add_penalty_grad_` must leave the weights untouched")
        self.require(same(state, self.solver.state_dict()), "`add_penalty_grad_` must leave the state untouched")
        law = "`add_penalty_grad_` must add to the gradients that are there, and work where there are none"
        self.require(_close(on_ones, {name: gradient + 1 for name, gradient in added.items()}), law)
        penalty = getattr(self.solver, "penalty", None)  # not every method has one that can be written down
        if penalty is not None and (value := penalty()).requires_grad:
            gradients = torch.autograd.grad(value, list(self.parameters.values()), materialize_grads=True)
            derivative = dict(zip(self.parameters, gradients, strict=True))
            self.require(_close(added, derivative), "`add_penalty_grad_` must add the derivative of `penalty`")

    def _added(self, start: Callable[[Tensor], Tensor] | None) -> dict[str, Tensor]:
        for p in self.parameters.values():
            p.grad = None if start is None else start(p.detach())
        self.solver.add_penalty_grad_()
        return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in self.parameters.items()}

    def resumes(self) -> None:
        """What loads the state goes on as the original would, and neither reaches the other's tensors."""
        state = self.solver.state_dict()
        before = copy.deepcopy(state)
        runs = [self._resumed(self._through_file(state)), self._resumed(state)]
        self.require(same(before, self.solver.state_dict()), "`load_state_dict` must copy, not share, tensors")
        # A copy of the original shows what it holds beyond its state.
        twin, weights = copy.deepcopy((self.solver, self.solver.weights))
        original = _run(twin, weights)
        for run in runs:
            self.require(same(run, original), "`state_dict` must suffice to continue bit for bit")

    def _through_file(self, state: dict[str, Any]) -> Any:
        file = io.BytesIO()
        try:
            torch.save(state, file)
            file.seek(0)
            return torch.load(file, weights_only=True)
        except Exception as error:
            law = "`state_dict` must hold tensors and plain values only, so that torch.load can read it safely"
            raise AssertionError(f"{type(self.solver).__name__}: {law}; {error!r}") from error

    def _resumed(self, state: Any) -> dict[str, Any]:
        weights = _parameters(self.parameters)
        solver = self.factory(weights)
        solver.load_state_dict(state)
        return _run(solver, weights)

    def ends(self) -> None:
        self.solver.finalize()
        violation = self.solver.constraint.violation(self.parameters)
        self.require(violation == 0, "`finalize` must put the weights on the constraint's set")
        self.require(random_state() == self.random_state, "it must leave the global random generators alone")


def _run(solver: Solver, weights: Weights) -> dict[str, Any]:
    for _ in range(4):
        _advance(solver, weights)
    return {"weights": weights.clone(), "state": copy.deepcopy(solver.state_dict())}


def _advance(solver: Solver, weights: Weights) -> None:
    """One gradient step towards a fixed point, as under enforcement."""
    for p in weights.values():
        target = torch.linspace(-1, 2, p.numel(), dtype=p.dtype, device=p.device).reshape(p.shape)
        p.grad = p.detach() - target
    solver.add_penalty_grad_()
    solver.restore()
    with torch.no_grad():
        for p in weights.values():
            p.sub_(0.1 * p.grad)  # type: ignore[operator]
    solver.step()


def _parameters(weights: Weights) -> Weights:
    return weights.map(lambda t: nn.Parameter(t.detach().clone()))


def _close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(tensor, b[name], rtol=1e-4, atol=1e-5) for name, tensor in a.items())
