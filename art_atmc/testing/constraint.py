"""The laws of a constraint."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor

from art_atmc.compression.constraints import Constraint
from art_atmc.compression.weights import Weights
from art_atmc.plugins.literals import literal_call
from art_atmc.plugins.registry import API_VERSIONS
from art_atmc.support.randomness import isolated_randomness
from art_atmc.testing.comparison import RARE_SEED, equal, normal, random_state, summary
from art_atmc.testing.rivals import nearer_points, squared_distance, squared_norm

__all__ = ["check_constraint"]

SHAPES: tuple[dict[str, tuple[int, ...]], ...] = (
    {"one": (1, 1)},
    {"w": (3, 2)},
    {"a": (2, 1), "b": (2, 2)},
    {"kernel": (2, 2, 1, 2)},
    {"w": (2, 4)},
    {"conv": (8, 4, 3, 3), "fc": (12, 16)},
)
SMALL = 10  # entries up to which several draws are compared with brute force


@isolated_randomness(RARE_SEED)
def check_constraint(
    constraint: Constraint,
    weights: Weights | None = None,
    *,
    feasible: Callable[[Weights], bool] | None = None,
    distance: Callable[[Weights], float] | None = None,
    rivals: Callable[[Weights, Weights], bool] | None = None,
    tolerance: float = 0.0,
) -> None:
    r"""Try the laws of a constraint with projection P.

    It is a frozen, hashable dataclass that its ``repr`` rebuilds and that pickles. P and ``project_near`` return new,
    finite tensors of the same names, shapes, dtypes and devices under the same dense size, for zeros, ties, single
    entries and any memory layout; they leave their arguments and the global random generators alone and are
    deterministic. P(P(w)) = P(w) bit for bit, P(w) is feasible, no feasible point is nearer, and the violation is zero
    exactly on the set. ``check`` judges shapes, not values, and refuses with a ``ValueError``. The sets of ``relaxed``
    shrink to the constraint itself.

    That no feasible point is nearer is tried by brute force, on points made from the weights: on every support, with
    groups of entries averaged, with entries exchanged, and on projections of other points. From a projection alone
    nobody can tell which set was meant: ``feasible`` and ``distance`` say it.

    :param weights: whose shapes to try in place of the kit's own; best with at most ten entries.
    :param feasible: whether weights lie in the set, written down independently of the projection.
    :param distance: the least squared distance from weights to the set, by brute force.
    :param rivals: which feasible points z are compared with P(w), by (w, z), where P(w) is the nearest of a part of the
        set only. By default all; for a coded set those with the zeros of w, since the support is settled by others.
    :param tolerance: share by which the squared distance of P(w) may exceed the least, where the projection is exact
        up to a stated bound only.
    :raises AssertionError: naming the first law that is broken, with an example.
    :raises TypeError: for anything but a constraint.
    :raises ValueError: when ``check`` refuses all weights that are tried.

    >>> from art_atmc import Sparsity
    >>> check_constraint(Sparsity(density=0.5), feasible=lambda w: 2 * w.nnz() <= w.dense_size)
    """
    if not isinstance(constraint, Constraint):
        raise TypeError(f"`constraint` must be an object such as Sparsity(density=0.05), got {constraint!r}")
    if rivals is None and constraint.coded:
        rivals = _same_zeros
    laws = _Laws(constraint, feasible, distance, rivals, tolerance)
    laws.declared()
    templates = list(laws.accepted(weights))
    if not templates:
        raise ValueError(f"{constraint} refuses all weights that were tried; pass `weights` that it accepts")
    for template in templates:
        generator = torch.Generator().manual_seed(0)
        for values in _values(template, generator):
            laws.projected_well(values)
            laws.relaxed_well(values)
        small = sum(t.numel() for t in template.values()) <= SMALL
        for _ in range(3 if small else 1):
            drawn = normal(template, generator)
            laws.nearest(drawn, generator)
            laws.nearest(drawn.map(_tied), generator)
        laws.alike(normal(template, generator))


def _values(template: Weights, generator: torch.Generator) -> Iterator[Weights]:
    """What weights may look like."""
    drawn = normal(template, generator)
    yield template.map(torch.zeros_like)
    yield template.map(torch.ones_like)
    yield drawn
    yield drawn.map(_tied)
    yield drawn.map(lambda t: -t.abs())
    yield drawn.map(torch.relu)
    yield drawn.map(lambda t: 1e12 * t)
    yield drawn.map(lambda t: 1e-12 * t)


def _same_zeros(weights: Weights, point: Weights) -> bool:
    return all(torch.equal(t == 0, point[name] == 0) for name, t in weights.items())


def _tied(tensor: Tensor) -> Tensor:
    return (2 * tensor).round() + 0.0  # no negative zero


@final
@dataclasses.dataclass(frozen=True)
class _Laws:
    constraint: Constraint
    feasible: Callable[[Weights], bool] | None
    distance: Callable[[Weights], float] | None
    rivals: Callable[[Weights, Weights], bool] | None
    tolerance: float

    def require(self, holds: bool, law: str, example: object = None) -> None:
        if not holds:
            raise AssertionError(
                f"{self.constraint!r}: {law}" + (f"; not so for {summary(example)}" if example else "")
            )

    def declared(self) -> None:
        """The object itself: version, frozen, hashable, rebuilt from its ``repr``, pickled."""
        constraint, kind = self.constraint, type(self.constraint)
        self.require(kind.api_version in API_VERSIONS, f"`api_version` must be one of {API_VERSIONS}")
        self.require(kind.violation is Constraint.violation, "`violation` must not be overridden: P alone defines it")
        self.require("__dataclass_params__" in vars(kind), "the class must be a frozen dataclass of its own")
        self._works("must be hashable: fields that are lists become tuples", lambda: isinstance(hash(constraint), int))
        self._works("its `repr` must rebuild it", lambda: _rebuilt(constraint) == constraint)
        self._works(
            "its numbers must be kept as plain Python numbers, also where numpy's are given: call "
            "super().__post_init__()",
            self._keeps_plain_numbers,
        )
        self._works("must pickle", lambda: pickle.loads(pickle.dumps(constraint)) == constraint)

    def _keeps_plain_numbers(self) -> bool:
        values = {f.name: getattr(self.constraint, f.name) for f in dataclasses.fields(self.constraint) if f.init}
        scalars = {name: np.array(value)[()] for name, value in values.items() if type(value) in (int, float, bool)}
        return repr(dataclasses.replace(self.constraint, **scalars)) == repr(self.constraint)

    def _works(self, law: str, act: Callable[[], bool]) -> None:
        try:
            holds = act()
        except Exception as error:
            raise AssertionError(f"{self.constraint!r}: {law}; it raised {error!r}") from error
        self.require(holds, law)

    def accepted(self, weights: Weights | None) -> Iterator[Weights]:
        """The shapes to try, each under the smallest dense size for which the constraint accepts them."""
        if weights is not None:
            if self.accepts(weights):
                yield weights.clone()
            return
        for shapes in SHAPES:
            tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
            entries = sum(t.numel() for t in tensors.values())
            sizes = (Weights(tensors, factor * entries) for factor in (1, 2, 4, 8, 16, 32, 64))
            yield from [candidate for candidate in sizes if self.accepts(candidate)][:1]

    def accepts(self, weights: Weights) -> bool:
        try:
            self.constraint.check(weights)
        except ValueError:
            return False
        except Exception as error:
            law = f"`check` must refuse with a ValueError, not with {error!r}"
            raise AssertionError(f"{self.constraint!r}: {law}, {summary(weights)}") from error
        return True

    def contains(self, weights: Weights) -> bool:
        if self.feasible is not None:
            return self.feasible(weights)
        return equal(self.constraint.project(weights), weights)

    def projected(self, weights: Weights, near: Weights | None = None) -> Weights:
        """P(w), or its variant near a point, having looked at all that one call can show."""
        method = "`project`" if near is None else "`project_near`"
        given = {"its argument": weights} | ({} if near is None else {"`near`": near})
        before, state = {name: argument.clone() for name, argument in given.items()}, random_state()
        try:
            result = self._call(weights, near)
        except Exception as error:
            law = f"{method} must work on weights that `check` accepts, but raised {error!r}"
            raise AssertionError(f"{self.constraint!r}: {law} for {summary(weights)}") from error
        for name, argument in given.items():
            self.require(equal(argument, before[name]), f"{method} must leave {name} untouched", before[name])
        self.require(isinstance(result, Weights), f"{method} must return Weights, not {type(result).__name__}")
        self.require(list(result) == list(weights), f"{method} must keep the names, in order", weights)
        for name, tensor in weights.items():
            other = result[name]
            self.require(other.shape == tensor.shape, f"{method} must keep the shapes", weights)
            self.require(other.dtype == tensor.dtype, f"{method} must keep the dtype {tensor.dtype}", weights)
            self.require(other.device == tensor.device, f"{method} must keep the device {tensor.device}", weights)
            self.require(_storage(other) != _storage(tensor), f"{method} must return new tensors", weights)
            self.require(bool(other.isfinite().all()), f"{method} must keep finite weights finite", weights)
        self.require(result.dense_size == weights.dense_size, f"{method} must keep the dense size", weights)
        self.require(random_state() == state, f"{method} must leave the global random generators alone", weights)
        self.require(equal(self._call(weights, near), result), f"{method} must be deterministic", weights)
        return result

    def _call(self, weights: Weights, near: Weights | None) -> Weights:
        return self.constraint.project(weights) if near is None else self.constraint.project_near(weights, near)

    def projected_well(self, weights: Weights) -> None:
        """Feasible, idempotent, in agreement with ``violation``, ``check`` and ``project_near``."""
        result = self.projected(weights)
        self.require(equal(self.projected(result), result), "`project` must be idempotent, P(P(w)) = P(w)", weights)
        self.require(self.contains(result), "`project` must return a feasible point", weights)
        zero = self.constraint.violation(weights) == 0
        self.require(zero == self.contains(weights), "`violation` must be zero exactly on the set", weights)
        near = self.projected(weights.map(lambda t: 0.9 * t), result)
        self.require(self.contains(near), "`project_near` must return a feasible point", weights)
        for values in (weights, result):
            before = values.clone()
            self.require(self.accepts(values), "`check` must judge shapes, not values; it refuses these", values)
            self.require(equal(values, before), "`check` must leave its argument untouched", before)

    def relaxed_well(self, weights: Weights) -> None:
        """The sets on the way from no constraint to this one: ever smaller, and this one at the end."""
        constraint = self.constraint
        self.require(constraint.relaxed(1.0) == constraint, "`relaxed(1)` must be the constraint itself")
        tighter = constraint.project(weights)
        for progress in (0.75, 0.5, 0.25, 0.0):
            name, larger = f"`relaxed({progress})`", constraint.relaxed(progress)
            is_kind = isinstance(larger, Constraint) and larger.coded == constraint.coded
            self.require(is_kind, f"{name} must be a Constraint with the same `coded`")
            laws = _Laws(larger, None, None, None, self.tolerance)
            self.require(laws.accepts(weights), f"{name} must accept what the constraint accepts", weights)
            self.require(equal(laws.projected(tighter), tighter), f"{name} must contain the tighter sets", tighter)
            tighter = laws.projected(weights)

    def nearest(self, weights: Weights, generator: torch.Generator) -> None:
        """No feasible point is nearer than P(w), beyond rounding and the tolerance."""
        weights = weights.map(Tensor.double)
        result = self.projected(weights)
        reached, rounding = squared_distance(weights, result), 1e-9 * squared_norm(weights)
        if self.distance is not None:
            least = self.distance(weights)
            law = (
                f"`project` must return the nearest point, {least:.6g} away, squared; it returns one {reached:.6g} away"
            )
            self.require(abs(reached - least) <= self.tolerance * least + rounding, law, weights)
        radius = (reached - rounding) / (1 + self.tolerance)
        for point in nearer_points(weights, result, self.constraint.project, radius, generator):
            if self.contains(point) and (self.rivals is None or self.rivals(weights, point)):
                law = (
                    f"`project` must return the nearest point: {summary(result)} lies {reached:.6g} away, squared, "
                    f"the feasible {summary(point)} only {squared_distance(weights, point):.6g}"
                )
                self.require(False, law, weights)

    def alike(self, weights: Weights) -> None:
        """The same result in other memory layouts and precisions, and on an accelerator where there is one."""
        result = self.projected(weights)
        others: dict[str, Callable[[Tensor], Tensor]] = {
            "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
            "strided": lambda t: torch.stack([t, t], -1)[..., 0],
            "float64": Tensor.double,
        }
        if torch.cuda.is_available():
            others["cuda"] = Tensor.cuda
        for name, moved in others.items():
            other = self.projected(weights.map(moved))
            close = [torch.allclose(other[n].float().cpu(), t, rtol=1e-4, atol=1e-5) for n, t in result.items()]
            self.require(all(close), f"`project` must give the same for {name} tensors", weights)
        coarse = weights.map(Tensor.bfloat16)
        try:
            self.constraint.project(coarse)
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            return  # half precision is optional
        once = self.projected(coarse)
        self.require(equal(self.projected(once), once), "`project` must be idempotent for bfloat16 too", coarse)


def _rebuilt(constraint: Constraint) -> Constraint:
    name, args, kwargs = literal_call(repr(constraint))
    if name != type(constraint).__qualname__:
        raise ValueError(f"it names the class {name} in place of {type(constraint).__qualname__}")
    return type(constraint)(*args, **kwargs)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
