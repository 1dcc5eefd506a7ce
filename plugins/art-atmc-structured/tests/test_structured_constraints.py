"""Structured sparsity: exact projections on sets of groups, by the conformance kit and by brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from art_atmc_structured import (
    BlockSparsity,
    ChannelSparsity,
    ColumnSparsity,
    FilterSparsity,
    GroupSparsity,
    KernelSparsity,
    NMSparsity,
    coupled_filters,
)

from art_atmc import Weights, compressible, plugins
from art_atmc.networks import lenet, resnet18
from art_atmc.testing import check_constraint

KINDS: dict[type[GroupSparsity], Callable[..., object]] = {  # the group of an entry, from the definitions
    FilterSparsity: lambda i, j, *at: i,
    ChannelSparsity: lambda i, j, *at: j,
    ColumnSparsity: lambda i, j, *at: (j, *at),
    KernelSparsity: lambda i, j, *at: (i, j),
}
SMALL = (
    Weights({"a": torch.zeros(3, 2), "b": torch.zeros(2, 2)}),
    Weights({"a": torch.zeros(2, 2, 1, 2), "b": torch.zeros(1, 2)}),
    Weights({"a": torch.zeros(2, 2, 2), "b": torch.zeros(2, 1, 2)}),
)


def squares(weights: Weights, names: Sequence[str], group: Callable[..., object]) -> list[list[float]]:
    """Sum of squares of every group, layer by layer, by a loop over the entries."""
    layers = []
    for name in names:
        sums: dict[object, float] = {}
        for index in itertools.product(*map(range, weights[name].shape)):
            key = group(*index)
            sums[key] = sums.get(key, 0.0) + float(weights[name][index]) ** 2
        layers.append([sums[key] for key in sorted(sums)])  # type: ignore[type-var]
    return layers


def choices(counts: Sequence[int], k: int) -> Iterator[set[tuple[int, int]]]:
    """Every choice of k groups with at least one of each layer."""
    groups = [(layer, g) for layer, count in enumerate(counts) for g in range(count)]
    for chosen in itertools.combinations(groups, k):
        if {layer for layer, _ in chosen} == set(range(len(counts))):
            yield set(chosen)


def least_distance(layers: list[list[float]], budgets: list[int]) -> float:
    """By trying every choice of groups; one budget for all layers or one for each."""
    if len(budgets) > 1:
        return sum(least_distance([layer], [k]) for layer, k in zip(layers, budgets, strict=True))
    total = sum(map(sum, layers))
    counts = [len(layer) for layer in layers]
    return min(total - sum(layers[i][g] for i, g in chosen) for chosen in choices(counts, budgets[0]))


def budgets(constraint: GroupSparsity, layers: list[list[float]]) -> list[int]:
    share = constraint.density + 1e-9
    if constraint.per_layer:
        return [max(1, math.floor(share * len(layer))) for layer in layers]
    return [math.floor(share * sum(map(len, layers)))]


def is_feasible(layers: list[list[float]], budgets: list[int]) -> bool:
    charges = [max(1, sum(square > 0 for square in layer)) for layer in layers]
    if len(budgets) == 1:
        return sum(charges) <= budgets[0]
    return all(charge <= k for charge, k in zip(charges, budgets, strict=True))


@pytest.mark.parametrize(("density", "per_layer"), [(0.7, False), (0.7, True), (1.0, False)])
@pytest.mark.parametrize("kind", KINDS)
def test_group_sparsity_keeps_the_laws_and_is_nearest(
    kind: type[GroupSparsity], density: float, per_layer: bool
) -> None:
    constraint = kind(density, per_layer=per_layer, ignore=())
    for weights in SMALL:
        names = [n for n, t in weights.items() if kind is not KernelSparsity or t.dim() > 2]
        if not names:
            continue

        def layers(w: Weights, names: list[str] = names) -> list[list[float]]:
            return squares(w, names, KINDS[kind])

        check_constraint(
            constraint,
            weights,
            feasible=lambda w: is_feasible(layers(w), budgets(constraint, layers(w))),
            distance=lambda w: least_distance(layers(w), budgets(constraint, layers(w))),
        )


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("columns", [1, 2])
def test_block_sparsity_keeps_the_laws_and_is_nearest(rows: int, columns: int) -> None:
    constraint = BlockSparsity(0.5, rows=rows, columns=columns)
    weights = Weights({"a": torch.zeros(3, 3), "b": torch.zeros(2, 1, 2)})

    def layers(w: Weights) -> list[list[float]]:
        flat = w.map(lambda t: t.flatten(1))
        return squares(flat, list(w), lambda i, j: (i // rows, j // columns))

    if budgets(constraint, layers(weights))[0] < 2:
        with pytest.raises(ValueError, match="fewer than there are layers"):
            constraint.check(weights)
        constraint = BlockSparsity(0.8, rows=rows, columns=columns)
    check_constraint(
        constraint,
        weights,
        feasible=lambda w: is_feasible(layers(w), budgets(constraint, layers(w))),
        distance=lambda w: least_distance(layers(w), budgets(constraint, layers(w))),
    )


@pytest.mark.parametrize(
    "constraint",
    [
        FilterSparsity(0.6),
        ChannelSparsity(0.6, per_layer=True),
        KernelSparsity(0.5),
        NMSparsity(),
    ],
)
def test_the_kit_accepts_the_defaults_on_its_own_shapes(constraint: GroupSparsity) -> None:
    check_constraint(constraint)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 3), (2, 4), (3, 4)])
def test_n_m_sparsity_keeps_the_laws_and_is_nearest(n: int, m: int) -> None:
    def runs(w: Weights) -> Iterator[list[float]]:
        for tensor in w.values():
            rows = tensor.movedim(1, -1).reshape(-1, tensor.shape[1]).tolist()
            yield from (row[q : q + m] for row in rows for q in range(0, len(row), m))

    def distance(w: Weights) -> float:
        return sum(sum(sorted(v * v for v in run)[: max(0, len(run) - n)]) for run in runs(w))

    def feasible(w: Weights) -> bool:
        return all(sum(v != 0 for v in run) <= n for run in runs(w))

    for shapes in ({"a": (1, 7)}, {"a": (1, 5, 2)}, {"a": (2, 4), "b": (1, 1)}, {"conv": (3, 6, 2, 2)}):
        weights = Weights({name: torch.zeros(shape) for name, shape in shapes.items()})
        check_constraint(NMSparsity(n, m), weights, feasible=feasible, distance=distance)


def test_ties_go_to_the_earlier_group() -> None:
    ones = Weights({"a": torch.ones(3, 2), "b": torch.ones(2, 2)})
    kept = FilterSparsity(0.6, ignore=()).project(ones)
    assert [int(t.any(1).sum()) for t in kept.values()] == [2, 1]
    assert kept["a"][:2].all()
    assert kept["b"][0].all()
    many = FilterSparsity(0.3, ignore=()).project(Weights({"a": torch.ones(1000, 2)}))["a"]
    assert many[:300].all()
    assert not many[300:].any()
    assert NMSparsity(2, 3).project(Weights({"a": torch.ones(1, 5)}))["a"].tolist() == [[1, 1, 0, 1, 1]]


def test_no_layer_is_cut_off_however_small_its_weights() -> None:
    weights = Weights({"large": torch.full((4, 2), 9.0), "small": torch.tensor([[1e-9, 0], [1e-8, 0]])})
    kept = FilterSparsity(0.5, ignore=()).project(weights)
    assert [int(t.any(1).sum()) for t in kept.values()] == [2, 1]
    assert kept["small"][1, 0] == weights["small"][1, 0]


def test_a_zero_layer_is_charged_for_one_group() -> None:
    weights = Weights({"a": torch.ones(3, 1), "zero": torch.zeros(2, 1)})
    assert FilterSparsity(0.6, ignore=()).project(weights).nnz() == 2  # k is 3, one of them is of `zero`


def test_weights_beyond_the_range_of_squares_are_counted() -> None:
    tiny = Weights({"a": torch.full((4, 2), 1e-30)})
    kept = FilterSparsity(0.5, ignore=()).project(tiny)
    assert kept.nnz() == 4
    assert torch.equal(FilterSparsity(0.5, ignore=()).project(kept)["a"], kept["a"])
    huge = Weights({"a": torch.tensor([[1e30], [3e30], [2e30], [0]])})
    assert FilterSparsity(0.5, ignore=()).project(huge)["a"].nonzero()[:, 0].tolist() == [1, 2]


def test_the_density_is_the_number_the_user_meant() -> None:
    weights = Weights({"a": torch.ones(100, 1)})
    assert FilterSparsity(0.29, ignore=()).project(weights).nnz() == 29


@pytest.mark.parametrize("make", [FilterSparsity, lambda density: BlockSparsity(density, rows=1, columns=4)])
def test_relaxed_follows_the_cubic_and_keeps_the_other_fields(make: Callable[..., GroupSparsity]) -> None:
    constraint = make(0.2)
    assert [constraint.relaxed(p).density for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.3, 0.2])
    assert repr(constraint.relaxed(0.0)) == repr(make(1.0))
    assert [NMSparsity(1, 4).relaxed(p).n for p in (0.0, 0.3, 0.5, 0.99, 1.0)] == [4, 3, 2, 2, 1]


def test_coupled_filters_go_together() -> None:
    weights = Weights({"a": torch.tensor([[3.0], [0.0], [1.0]]), "b": torch.tensor([[0.0], [3.5], [1.0]])})
    weights = weights.like({**weights, "head": torch.ones(2, 3)})
    free = FilterSparsity(0.5).project(weights)
    coupled = FilterSparsity(0.7, coupled=(("a", "b"),)).project(weights)  # 2 of 3 groups
    assert [t.flatten().nonzero().flatten().tolist() for t in (free["a"], free["b"])] == [[0, 2], [1]]
    assert torch.equal(coupled["a"], torch.tensor([[3.0], [0.0], [0.0]]))
    sums = Weights({"a": torch.tensor([[3.0], [2.5]]), "b": torch.tensor([[0.0], [2.5]])})
    assert FilterSparsity(0.5, ignore=(), coupled=(("a", "b"),)).project(sums)["b"].tolist() == [[0.0], [2.5]]
    assert torch.equal(coupled["b"], torch.tensor([[0.0], [3.5], [0.0]]))


def test_coupled_filters_keep_the_laws_and_are_nearest() -> None:
    constraint = FilterSparsity(0.5, ignore=(), coupled=(("a", "b"),))

    def layers(w: Weights) -> list[list[float]]:
        a, b, c = squares(w, list(w), KINDS[FilterSparsity])
        return [[x + y for x, y in zip(a, b, strict=True)], c]

    check_constraint(
        constraint,
        Weights({"a": torch.zeros(3, 1), "b": torch.zeros(3, 1, 1), "c": torch.zeros(2, 1)}),
        feasible=lambda w: is_feasible(layers(w), [2]),
        distance=lambda w: least_distance(layers(w), [2]),
    )


def test_coupling_of_a_residual_network_is_accepted() -> None:
    model = resnet18()
    coupled = coupled_filters(model, torch.rand(1, 3, 32, 32))
    assert [len(bundle) for bundle in coupled] == [3, 3, 3, 3]
    constraint = FilterSparsity(0.5, coupled=coupled)
    constraint.check(compressible(model))
    assert plugins.from_repr(repr(constraint)) == constraint


@pytest.mark.parametrize(
    ("coupled", "message"),
    [
        ((("a", "x"),), r"names \['x'\]"),
        ((("a", "head"),), r"names \['head'\]"),
        ((("a", "c"),), r"as many filters, got \{'a': 3, 'c': 2\}"),
    ],
)
def test_coupling_that_does_not_fit_the_weights_is_refused(coupled: tuple[tuple[str, ...], ...], message: str) -> None:
    weights = Weights({"a": torch.ones(3, 1), "c": torch.ones(2, 3), "head": torch.ones(3, 2)})
    with pytest.raises(ValueError, match=message):
        FilterSparsity(0.8, coupled=coupled).check(weights)
    FilterSparsity(0.8, coupled=(("a", "head"),), ignore=()).check(weights)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FilterSparsity(0), "`density` must be in"),
        (lambda: FilterSparsity(1.1), "`density` must be in"),
        (lambda: FilterSparsity(True), "`density` must be in"),
        (lambda: FilterSparsity(float("nan")), "`density` must be in"),
        (lambda: FilterSparsity("0.5"), "`density` must be in"),  # type: ignore[arg-type]
        (lambda: FilterSparsity(0.5, ignore="head"), "`ignore` must be a tuple"),  # type: ignore[arg-type]
        (lambda: NMSparsity(ignore=["head"]), "`ignore` must be a tuple"),  # type: ignore[arg-type]
        (lambda: FilterSparsity(0.5, coupled=("a", "b")), "`coupled` must hold tuples"),  # type: ignore[arg-type]
        (lambda: FilterSparsity(0.5, coupled=(("a", "b"), ("b", "c"))), r"\['b'\] more than once"),
        (lambda: BlockSparsity(0.5, rows=0, columns=2), "`rows` must be .* a block needs"),
        (lambda: BlockSparsity(0, rows=1, columns=2), "`density` must be in"),
        (lambda: NMSparsity(3, 2), "1 <= n <= m"),
        (lambda: NMSparsity(0, 2), "1 <= n <= m"),
        (lambda: NMSparsity(1.0, 2), "1 <= n <= m"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("constraint", [FilterSparsity(0.5, ignore=()), NMSparsity()])
def test_factors_are_refused_with_the_remedy(constraint: GroupSparsity) -> None:
    factors = Weights({f"fc.weight.{name}": torch.ones(2, 2) for name in "UVC"}, dense_size=4)
    for act in (constraint.check, constraint.project):
        with pytest.raises(ValueError, match="factored=False"):
            act(factors)
    constraint.check(Weights({"fc.weight": torch.ones(2, 2)}))


def test_budgets_below_one_group_a_layer_are_refused_with_the_least_density() -> None:
    weights = compressible(lenet())
    with pytest.raises(ValueError, match=r"keeps 1 of 570 groups, fewer than there are layers, 3.*at least 0.0053"):
        FilterSparsity(0.002).check(weights)
    FilterSparsity(0.0053).check(weights)
    kept = FilterSparsity(0.002, per_layer=True).project(weights)
    assert [int(t.flatten(1).any(1).sum()) for t in kept.values()] == [1, 1, 1, 10]


def test_they_are_found_by_name() -> None:
    assert plugins.parse("filter-sparsity:density=0.25") == FilterSparsity(0.25)
    assert plugins.parse("filter-sparsity:density=0.25,ignore=(),per_layer=true") == FilterSparsity(
        0.25, ignore=(), per_layer=True
    )
    assert plugins.parse("channel-sparsity:density=0.25,ignore=(head,stem)").ignore == ("head", "stem")  # type: ignore[attr-defined]
    assert plugins.parse("block-sparsity:density=0.5,rows=4,columns=1") == BlockSparsity(0.5, rows=4, columns=1)
    assert plugins.parse("n-m-sparsity") == NMSparsity(2, 4)
    assert {plugins.load(name) for name in ("column-sparsity", "kernel-sparsity")} == {ColumnSparsity, KernelSparsity}
