"""The kit must pass what is right and fail what is wrong, naming the law: each class below breaks one."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar, NoReturn

import numpy as np
import pytest
import torch

from art_atmc import (
    ADMM,
    Constraint,
    FixedSupport,
    ProjectedGradient,
    Quantization,
    Ramp,
    Solver,
    Sparsity,
    StraightThrough,
    Weights,
)
from art_atmc.attacks import Adversary
from art_atmc.support.randomness import isolated_randomness
from art_atmc.testing import check_attack, check_constraint, check_objective, check_solver
from art_atmc.testing.rivals import nearer_points, squared_distance
from art_atmc.training import Objective, Outcome

configured = dataclasses.dataclass(frozen=True)


def flat(weights):
    return torch.cat([t.reshape(-1) for t in weights.values()])


@pytest.mark.parametrize("density", [1, 0.5, 0.29, 0.05])
def test_sparsity_keeps_the_laws(density):
    constraint = Sparsity(density)
    check_constraint(
        constraint,
        feasible=lambda w: w.nnz() <= int(density * w.dense_size + 1e-6),
        distance=lambda w: float(flat(w).square().sort().values[: -constraint.budget(w)].sum()),
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_quantization_keeps_the_laws(bits):
    def feasible(weights):
        return all(t[t != 0].unique().numel() <= 2**bits for t in weights.values())

    check_constraint(Quantization(bits), feasible=feasible)


def test_the_laws_are_tried_on_the_weights_that_are_given():
    shapes = []

    @configured
    class Seen(Constraint):
        def project(self, weights):
            shapes.append([tuple(t.shape) for t in weights.values()])
            return weights.clone()

        def __repr__(self):
            return "Seen()"

    with pytest.raises(AssertionError, match="its `repr` must rebuild it"):  # a local class has no plain name
        check_constraint(Seen())
    check_constraint(Sparsity(0.5), Weights({"w": torch.ones(2, 5)}))
    with pytest.raises(ValueError, match=r"Sparsity\(density=0.01\) refuses all weights that were tried"):
        check_constraint(Sparsity(0.01), Weights({"w": torch.ones(2, 5)}))
    with pytest.raises(TypeError, match="must be an object such as Sparsity"):
        check_constraint(Sparsity)  # type: ignore[arg-type]


# Wrong constraints. `Top` is right and the base of most of them.


def top(weights, k, key=torch.abs):
    values = flat(weights)
    kept = torch.zeros_like(values).index_fill_(0, key(values).argsort(descending=True, stable=True)[:k], 1)
    parts = (values * kept).split([t.numel() for t in weights.values()])
    return weights.like({n: p.reshape(t.shape).clone() for (n, t), p in zip(weights.items(), parts, strict=True)})


@configured
class Top(Constraint):
    """The k entries of the largest magnitude, the slow way."""

    k: int = 2

    def project(self, weights):
        return top(weights, self.k)


@configured
class InPlace(Top):
    def project(self, weights):
        result = top(weights, self.k)
        weights.assign_(result)
        return result


@configured
class Alias(Top):
    def project(self, weights):
        return weights if weights.nnz() <= self.k else top(weights, self.k)


@configured
class Renamed(Top):
    def project(self, weights):
        return weights.like({f"{name}.p": t for name, t in top(weights, self.k).items()})


@configured
class Flattened(Top):
    def project(self, weights):
        return top(weights, self.k).map(lambda t: t.reshape(-1))


@configured
class Single(Top):
    def project(self, weights):
        return top(weights, self.k).map(torch.Tensor.float)


@configured
class Resized(Top):
    def project(self, weights):
        return Weights(dict(top(weights, self.k)), weights.dense_size + 1)


@configured
class Plain(Top):
    def project(self, weights):
        return dict(top(weights, self.k))


@configured
class Shrinks(Top):
    """Soft thresholding is a proximal operator, not a projection."""

    def project(self, weights):
        return weights.map(lambda t: t.sign() * (t.abs() - 0.1).relu())


@configured
class Smallest(Top):
    """A feasible, idempotent map, but the farthest: keeps small entries."""

    def project(self, weights):
        if weights.nnz() <= self.k:
            return weights.clone()
        return top(weights, self.k, key=lambda v: torch.where(v == 0, -1.0, 1 / v.abs()))


@configured
class SmallestCodes(Constraint):
    """One non-zero magnitude for each tensor, at its median in place of its mean."""

    def project(self, weights):
        return weights.map(lambda t: t.sign() * (t.abs()[t != 0].median() if t.any() else 0))


@configured
class Generous(Top):
    """Keeps one entry too many: only an independent definition of the set shows it."""

    def project(self, weights):
        return top(weights, self.k + 1)


@configured
class Sloppy(Top):
    """Within a factor of the least distance."""

    def project(self, weights):
        return weights.clone() if weights.nnz() <= self.k else top(weights, self.k).map(lambda t: 0.999 * t)


@configured
class RandomTies(Top):
    def project(self, weights):
        noise = 1e-3 * torch.rand(sum(t.numel() for t in weights.values()))
        return top(weights, self.k, key=lambda v: v.abs() + noise)


@configured
class NumpySeed(Top):
    def project(self, weights):
        np.random.seed(0)
        return top(weights, self.k)


@configured
class Clocked(Top):
    """Not random, but not the same twice."""

    calls: ClassVar[itertools.count] = itertools.count()

    def project(self, weights):
        order = 1 if next(self.calls) % 2 else -1
        return top(weights, self.k, key=lambda v: v.abs().round() - 1e-3 * order * torch.arange(v.numel()))


@configured
class Divides(Constraint):
    """The unit sphere of each tensor has no nearest point to zero, and this one does not choose."""

    def project(self, weights):
        return weights.map(lambda t: t.clone() if abs(t.norm() - 1) < 1e-6 else t / t.norm())


@configured
class Views(Top):
    def project(self, weights):
        return top(weights.map(lambda t: t.view(-1)), self.k).map(lambda t, like: t.view(like.shape), weights)


@configured
class Storage(Top):
    """Reads memory in the order in which it lies."""

    def project(self, weights):
        return top(weights.map(lambda t: t.as_strided(t.shape, torch.empty(t.shape).stride())), self.k)


@configured
class Listed(Top):
    ks: list = dataclasses.field(default_factory=list)


@configured
class Secret(Top):
    """A parameter that the `repr` does not show."""

    scale: float = dataclasses.field(default=1.0, repr=False)


@configured
class Unpicklable(Top):
    def __reduce__(self) -> NoReturn:
        raise TypeError("not for export")


@configured
class Scalars(Top):
    share: float = 0.5

    def __post_init__(self):
        """Forgets what the base does with numbers."""


class Undeclared(Top):
    """No dataclass of its own: new parameters would not be fields."""


@configured
class Later(Top):
    api_version: ClassVar[int] = 7


@configured
class Violated(Top):
    def violation(self, weights):  # type: ignore[misc]
        return 0.0


@configured
class Forgets(Top):
    def relaxed(self, progress):
        return Forgets(self.k + 1)  # type: ignore[call-arg]


@configured
class Tightens(Top):
    """Falls below the target on the way."""

    def relaxed(self, progress):
        return self if progress == 1 else Top(max(1, self.k - 1))  # type: ignore[call-arg]


@configured
class Picky(Top):
    def check(self, weights):
        if not weights.nnz() == sum(t.numel() for t in weights.values()):
            raise ValueError("has zeros")


@configured
class Asserts(Top):
    def check(self, weights):
        assert weights.dense_size > 4


@configured
class LateRefusal(Top):
    def project(self, weights):
        if len(weights) > 1:
            raise IndexError("one tensor only")
        return top(weights, self.k)


@configured
class NearIsFar(Top):
    def project_near(self, weights, near):
        return weights.clone()


@configured
class NearIsTouched(Top):
    def project_near(self, weights, near):
        near.map(torch.Tensor.neg_)
        return top(weights, self.k)


@configured
class TouchesInCheck(Top):
    def check(self, weights):
        weights.map(torch.Tensor.neg_)


@configured
class RelaxesToNothing(Top):
    def relaxed(self, progress):
        return self if progress == 1 else None


@configured
class RelaxesElsewhere(Top):
    def relaxed(self, progress):
        return self if progress == 1 else Quantization(16)


@configured
class RelaxesTooFar(Top):
    def relaxed(self, progress):
        return self if progress == 1 else Asks(self.k)  # type: ignore[call-arg]


@configured
class Asks(Top):
    def check(self, weights):
        raise ValueError("never")


@configured
class CoarseDrifts(Top):
    """Right in single and double precision only."""

    def project(self, weights):
        return top(weights, self.k).map(lambda t: t * 0.5 if t.dtype == torch.bfloat16 else t)


@configured
class SingleOnly(Top):
    """Refuses half precision, as is allowed."""

    def project(self, weights):
        if any(t.dtype == torch.bfloat16 for t in weights.values()):
            raise NotImplementedError("bfloat16")
        return top(weights, self.k)


@configured
class WrongFilters(Constraint):
    """Keeps half of the rows, and never looks which."""

    def project(self, weights):
        return weights.map(lambda t: t * (torch.arange(len(t)) < (len(t) + 1) // 2).reshape(-1, *[1] * (t.dim() - 1)))


def half_of_the_rows(weights):
    return all(2 * int(t.reshape(len(t), -1).any(1).sum()) <= len(t) + 1 for t in weights.values())


TWO = {"feasible": lambda w: w.nnz() <= 2}
BROKEN = [
    (InPlace(), {}, "`project` must leave its argument untouched"),
    (Alias(), {}, "`project` must return new tensors"),
    (Renamed(), {}, "`project` must keep the names"),
    (Flattened(), {}, "`project` must keep the shapes"),
    (Single(), {}, "`project` must keep the dtype torch.float64"),
    (Resized(), {}, "`project` must keep the dense size"),
    (Plain(), {}, "`project` must return Weights, not dict"),
    (Shrinks(), {}, "`project` must be idempotent"),
    (Smallest(), {}, "`project` must return the nearest point"),
    (Smallest(), TWO, "`project` must return the nearest point"),
    (SmallestCodes(), {}, "`project` must return the nearest point"),
    (Sloppy(), {}, "`project` must return the nearest point"),
    (Top(1), TWO, "`violation` must be zero exactly on the set"),  # type: ignore[call-arg]
    (Generous(), TWO, "`project` must return a feasible point"),
    (
        Top(3),  # type: ignore[call-arg]
        {"distance": lambda w: float(flat(w).square().sort().values[:-2].sum())},
        "`project` must return the nearest point, .* away",
    ),
    (RandomTies(), {}, "`project` must leave the global random generators alone"),
    (NumpySeed(), {}, "`project` must leave the global random generators alone"),
    (Clocked(), {}, "`project` must be deterministic"),
    (Divides(), {}, "`project` must keep finite weights finite"),
    (Views(), {}, "`project` must work on weights that `check` accepts, but raised RuntimeError"),
    (Storage(), {}, "`project` must give the same for transposed tensors"),
    (Listed(), {}, "must be hashable"),
    (Secret(scale=2.0), {}, "its `repr` must rebuild it"),  # type: ignore[call-arg]
    (Scalars(), {}, "its numbers must be kept as plain Python numbers"),
    (Unpicklable(), {}, "must pickle; it raised TypeError"),
    (Undeclared(), {}, "must be a frozen dataclass of its own"),
    (Later(), {}, "`api_version` must be one of"),
    (Violated(), {}, "`violation` must not be overridden"),
    (Forgets(), {}, r"`relaxed\(1\)` must be the constraint itself"),
    (Tightens(), {}, r"`relaxed\(0.75\)` must contain the tighter sets"),
    (Picky(), {}, "`check` must judge shapes, not values"),
    (Asserts(), {}, "`check` must refuse with a ValueError"),
    (LateRefusal(), {}, "`project` must work on weights that `check` accepts, but raised IndexError"),
    (TouchesInCheck(), {}, "`check` must leave its argument untouched"),
    (RelaxesToNothing(), {}, r"`relaxed\(0.75\)` must be a Constraint"),
    (RelaxesElsewhere(), {}, r"`relaxed\(0.75\)` must be a Constraint with the same `coded`"),
    (RelaxesTooFar(), {}, r"`relaxed\(0.75\)` must accept what the constraint accepts"),
    (CoarseDrifts(), {}, "`project` must be idempotent for bfloat16 too"),
    (WrongFilters(), {"feasible": half_of_the_rows}, "`project` must return the nearest point"),
    (NearIsFar(), {}, "`project_near` must return a feasible point"),
    (NearIsTouched(), {}, "`project_near` must leave `near` untouched"),
]


@pytest.mark.parametrize(("constraint", "options", "law"), BROKEN, ids=lambda value: type(value).__name__)
def test_a_broken_law_is_named(constraint, options, law):
    state = torch.get_rng_state()
    with pytest.raises(AssertionError, match=f"{type(constraint).__name__}.*{law}"):
        check_constraint(constraint, **options)
    torch.set_rng_state(state)


def test_seeding_is_seen_even_where_the_generator_was_just_seeded_so():
    with isolated_randomness(0), pytest.raises(AssertionError, match="random generators"):
        check_constraint(NumpySeed())


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_right_base_of_the_wrong_ones_passes(k):
    check_constraint(Top(k), feasible=lambda w: w.nnz() <= k)  # type: ignore[call-arg]


def test_half_precision_may_be_refused():
    check_constraint(SingleOnly())


def test_rivals_are_on_every_support_grouped_and_exchanged():
    """Up to 8 entries all supports, up to 6 all groupings, beyond them exchanges of two entries."""

    def points(values, projected):
        w, z = (Weights({"w": torch.tensor(v, dtype=torch.float64)}) for v in (values, projected))
        generator = torch.Generator().manual_seed(0)
        found = list(nearer_points(w, z, Weights.clone, 1e9, generator))
        assert not list(nearer_points(w, z, Weights.clone, 0.0, generator))
        assert all(squared_distance(w, p) < 2 for p in nearer_points(w, z, Weights.clone, 2.0, generator))
        return {tuple(round(v, 6) for v in p["w"].tolist()) for p in found}

    eight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert (1, 0, 0, 4, 5, 0, 7, 8) in points(eight, [0.0] * 8)
    grouped = points([1.0, -3.0, 5.0, 9.0, 0.5], [0.0] * 5)
    assert {(3, -3, 3, 9, 0), (-1, -1, 7, 7, 0.5), (2, -2, 7, 7, 0.5)} <= grouped  # means, and means of magnitudes
    nine = [*eight, 9.0]
    kept = [0.0] * 5 + nine[5:]
    exchanged = points(nine, kept)
    assert (0, 2, 0, 0, 0, 6, 0, 8, 9) in exchanged  # 2 freed for 7
    assert (0, 7, 0, 0, 0, 6, 0, 8, 9) in exchanged  # swapped
    assert (0, 0, 0, 0, 0, 6, 6, 8, 9) in exchanged  # copied


def test_an_example_is_shown():
    with pytest.raises(
        AssertionError, match=r"lies [\d.]+ away, squared, the feasible \{.*\} .* only [\d.]+; not so for \{"
    ):
        check_constraint(Smallest())


def test_the_tolerance_is_the_share_of_the_least_distance():
    check_constraint(Sloppy(), tolerance=0.5)
    with pytest.raises(AssertionError, match="nearest"):
        check_constraint(Smallest(), tolerance=0.5)


def test_refusing_shapes_is_no_fault():
    @configured
    class Wide(Top):
        def check(self, weights):
            if len(weights) < 2:
                raise ValueError("give two tensors")

    with pytest.raises(AssertionError, match="repr"):
        check_constraint(Wide())
    Wide.__qualname__ = "Wide"
    with pytest.raises(AssertionError, match="must pickle"):
        check_constraint(Wide())
    globals()["Wide"] = Wide
    check_constraint(Wide())


# Solvers

RIGHT = {
    "iterative hard thresholding": lambda w: ProjectedGradient(w, Sparsity(0.5)),
    "tightening": lambda w: ProjectedGradient(w, Sparsity(0.2), every=2, ramp=Ramp(2, 6)),
    "codebook": lambda w: ADMM(w, Quantization(1)),
    "late codebook": lambda w: ADMM(w, Quantization(2), rho=1.0, every=2, ramp=Ramp(3, 3)),
    "pruned once": lambda w: FixedSupport(w, Sparsity(0.5), ramp=Ramp(2, 4)),
    "straight through a support": lambda w: StraightThrough(w, Sparsity(0.5)),
    "straight through a tightening support": lambda w: StraightThrough(w, Sparsity(0.2), ramp=Ramp(2, 6)),
    "straight through a late codebook": lambda w: StraightThrough(w, Quantization(1), ramp=Ramp(3, 3)),
    "support by splitting": lambda w: ADMM(w, Sparsity(0.5), rho=2.0),
}


@pytest.mark.parametrize("factory", RIGHT.values(), ids=RIGHT)
def test_our_solvers_keep_the_laws(factory):
    check_solver(factory)


class Penalised(Solver):
    """Right: a quadratic pull to the projection, with a count of its own."""

    def __init__(self, weights):
        super().__init__(weights, Sparsity(0.5))
        self.pull = 0.0

    def enforce(self, constraint):
        self.pull += 0.1

    def gaps(self):
        return self.weights.map(torch.sub, self.constraint.project(self.weights.detach()))

    def penalty(self):
        return self.pull / 2 * sum(g.square().sum() for g in self.gaps().values())

    def add_penalty_grad_(self):
        for name, gap in self.gaps().detach().items():
            weight = self.weights[name]
            added = self.pull * gap
            weight.grad = added if weight.grad is None else weight.grad + added

    def state_dict(self):
        return super().state_dict() | {"pull": self.pull}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.pull = state["pull"]


class Rebinds(Penalised):
    def enforce(self, constraint):
        self.weights = constraint.project(self.weights)


class Reallocates(Penalised):
    def enforce(self, constraint):
        for name, value in constraint.project(self.weights.detach()).items():
            self.weights[name].data = value


class Copies(Penalised):
    def __init__(self, weights):
        super().__init__(weights.clone())


class WrongGradient(Penalised):
    def penalty(self):
        return 2 * super().penalty()


class Replaces(Penalised):
    def add_penalty_grad_(self):
        for name, gap in self.gaps().detach().items():
            self.weights[name].grad = self.pull * gap


class Decays(Penalised):
    def add_penalty_grad_(self):
        super().add_penalty_grad_()
        self.weights.assign_(self.weights.map(lambda t: 0.9 * t))


class Counts(Penalised):
    def add_penalty_grad_(self):
        super().add_penalty_grad_()
        self.pull += 0.1


class ForgetsState(Penalised):
    def state_dict(self):
        return Solver.state_dict(self)

    def load_state_dict(self, state):
        Solver.load_state_dict(self, state)


class UnsafeState(Penalised):
    def state_dict(self):
        return super().state_dict() | {"constraint": self.constraint}


class Draws(Penalised):
    def enforce(self, constraint):
        torch.rand(1)
        super().enforce(constraint)


class SharesState(Penalised):
    """The state's tensor is updated in place, also by who loaded it."""

    def __init__(self, weights):
        super().__init__(weights)
        self.pull = torch.zeros(())  # type: ignore[assignment]

    def enforce(self, constraint):
        self.pull.add_(0.1)  # type: ignore[attr-defined]


class NeverFeasible(Penalised):
    def __init__(self, weights):
        super().__init__(weights)
        self.constraint = Shrinks()


class Uncounted(Penalised):
    def step(self):  # type: ignore[misc]
        self.enforce(self.constraint)


class Explodes(Penalised):
    def enforce(self, constraint):
        self.weights.assign_(self.weights.map(lambda t: t / 0))


def test_a_right_solver_of_another_kind_passes():
    check_solver(Penalised)
    check_solver(Penalised, Weights({"w": torch.arange(6.0).reshape(2, 3)}))


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Rebinds, "`step` must move the weights in place"),
        (Reallocates, "`step` must move the weights in place"),
        (Copies, "`weights` must stay the parameters"),
        (WrongGradient, "`add_penalty_grad_` must add the derivative of `penalty`"),
        (Replaces, "`add_penalty_grad_` must add to the gradients"),
        (Decays, "`add_penalty_grad_` must leave the weights untouched"),
        (Counts, "`add_penalty_grad_` must leave the state untouched"),
        (ForgetsState, "`state_dict` must suffice to continue"),
        (UnsafeState, "`state_dict` must hold tensors and plain values only"),
        (SharesState, "`load_state_dict` must copy, not share"),
        (Draws, "leave the global random generators alone"),
        (NeverFeasible, "`finalize` must put the weights on the constraint's set"),
        (Uncounted, "`steps` must count the optimizer's steps"),
        (Explodes, "must train any finite weights, but raised FloatingPointError"),
    ],
)
def test_a_broken_law_of_a_solver_is_named(kind, law):
    with pytest.raises(AssertionError, match=f"{kind.__name__}: .*{law}"):
        check_solver(kind)


def _adversary(run):
    return type("Made", (Adversary,), {"__call__": lambda self, problem, x, y: run(problem, x, y)})()


def _touched(problem, x, y):
    problem.network.train()
    problem.network(x)  # moves the statistics of batch normalisation
    return x


@pytest.mark.parametrize(
    ("attack", "law"),
    [
        (_adversary(lambda problem, x, y: x[:1]), "shape and type"),
        (_adversary(lambda problem, x, y: x.double()), "shape and type"),
        (_adversary(lambda problem, x, y: x.clone().requires_grad_()), "no graph"),
        (_adversary(lambda problem, x, y: x + 2), "clip values"),
        (_adversary(lambda problem, x, y: x.mul_(0.5)), "stay as they are"),
        (_adversary(lambda problem, x, y: torch.rand_like(x)), "same generator"),
        (_adversary(_touched), "modes, buffers"),
    ],
)
def test_a_broken_law_of_an_attack_is_named(attack, law):
    with pytest.raises(AssertionError, match=law):
        check_attack(attack)


@pytest.mark.parametrize(
    ("outcome", "law"),
    [
        (lambda logits: (logits.sum(dim=1), logits), "one finite number"),
        (lambda logits: (logits.sum() * float("nan"), logits), "one finite number"),
        (lambda logits: (logits.sum(), logits[:1]), "logits of each input"),
        (lambda logits: ((logits * 0).sum(), logits), "gradient to the weights"),
    ],
)
def test_a_broken_law_of_an_objective_is_named(outcome, law):
    class Made(Objective):
        attack = None

        def __call__(self, problem, x, y):
            return Outcome(*outcome(problem.network(x)))

    with pytest.raises(AssertionError, match=law):
        check_objective(Made())
