"""Groups: a partition of every weight, laid out as rows and put back."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from art_atmc_structured import Blocks, Channels, Columns, Entries, Filters, Grouping, Kernels, grouped_names
from hypothesis import given, settings
from hypothesis import strategies as st

from art_atmc import Weights

SHAPES = st.one_of(
    st.tuples(*[st.integers(1, 5)] * 2), st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 3)] * 4)
)
GROUPINGS = st.one_of(
    st.sampled_from([Filters(), Channels(), Columns(), Kernels(), Entries()]),
    st.builds(Blocks, rows=st.integers(1, 4), columns=st.integers(1, 4)),
)


def key(grouping: Grouping, index: tuple[int, ...], shape: tuple[int, ...]) -> object:
    """The group of one entry, from the definitions."""
    i, j, *position = index
    column = int(torch.arange(math.prod(shape[1:])).reshape(shape[1:])[tuple(index[1:])])
    keys = {Filters: i, Channels: j, Columns: (j, *position), Kernels: (i, j), Entries: index}
    if isinstance(grouping, Blocks):
        return i // grouping.rows, column // grouping.columns
    return keys[type(grouping)]


@settings(max_examples=150, deadline=None)
@given(grouping=GROUPINGS, shape=SHAPES)
def test_groups_are_those_of_the_definition(grouping: Grouping, shape: tuple[int, ...]) -> None:
    if not grouping.applies_to(shape):
        return
    weight = torch.arange(1, math.prod(shape) + 1).reshape(shape)  # 0 is what fills up blocks
    expected: dict[object, set[int]] = {}
    for index in itertools.product(*map(range, shape)):
        expected.setdefault(key(grouping, index, shape), set()).add(int(weight[index]))
    rows = [set(row) - {0} for row in grouping.group(weight).tolist()]
    assert rows == [expected[k] for k in sorted(expected)]  # type: ignore[type-var]
    assert grouping.count(shape) == len(rows)


@settings(max_examples=150, deadline=None)
@given(grouping=GROUPINGS, shape=SHAPES)
def test_ungroup_is_the_inverse_also_for_gradients(grouping: Grouping, shape: tuple[int, ...]) -> None:
    if not grouping.applies_to(shape):
        return
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for laid in (weight, weight.transpose(0, 1).contiguous().transpose(0, 1)):
        back = grouping.ungroup(grouping.group(laid), shape)
        assert torch.equal(back, weight)
        (gradient,) = torch.autograd.grad(back.square().sum() / 2, weight)
        assert torch.equal(gradient, weight)


@settings(max_examples=100, deadline=None)
@given(grouping=GROUPINGS, shape=SHAPES)
def test_norms_and_spread_agree_with_the_rows(grouping: Grouping, shape: tuple[int, ...]) -> None:
    if not grouping.applies_to(shape):
        return
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    norms = grouping.norms(weight)
    assert norms.tolist() == pytest.approx(
        [math.sqrt(sum(v * v for v in row)) for row in grouping.group(weight).tolist()]
    )
    numbers = grouping.spread(torch.arange(len(norms)), shape)
    for index in itertools.product(*map(range, shape)):
        assert weight[index].item() in grouping.group(weight)[numbers[index]].tolist()


def test_norms_neither_vanish_nor_overflow_and_equal_groups_are_equally_long() -> None:
    assert Filters().norms(torch.tensor([[1e-30, 0], [3e30, 4e30]])).tolist() == pytest.approx([1e-30, 5e30])
    rows = torch.randn(1, 37, generator=torch.Generator().manual_seed(0)).repeat(1001, 1)
    for grouping, weight in ((Filters(), rows), (Channels(), rows.T.contiguous()), (Columns(), rows.T.contiguous())):
        assert len(grouping.norms(weight).unique()) == 1


def test_matrices_have_no_kernels() -> None:
    assert not Kernels().applies_to((3, 4))
    assert Kernels().applies_to((3, 4, 1))
    assert Filters().applies_to((3, 4))
    assert not Filters().applies_to((3,))


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (1, -1), (1.5, 1), (True, 1), ("2", 2)])
def test_blocks_without_size_are_refused(rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match=r"an integer of at least 1, got .*; a block needs a height and a width"):
        Blocks(rows, columns)


def network() -> Weights:
    return Weights(
        {
            "stem.conv.weight": torch.ones(4, 3, 3, 3),
            "body.fc.weight": torch.ones(5, 4),
            "head.weight": torch.ones(2, 5),
        }
    )


def test_the_interface_is_spared_unless_ignore_says_otherwise() -> None:
    stem, body, head = network()
    assert grouped_names(network(), Filters()) == [stem, body]
    assert grouped_names(network(), Channels()) == [body, head]
    assert grouped_names(network(), Columns()) == [stem, body, head]
    assert grouped_names(network(), Kernels()) == [stem]
    assert grouped_names(network(), Filters(), ()) == [stem, body, head]
    assert grouped_names(network(), Filters(), ["stem", "b*"]) == [head]
    assert grouped_names(network(), Filters(), ["stem.conv.weight"]) == [body, head]


def test_patterns_without_match_and_networks_without_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['fc7', 'x'\] match none of the weights"):
        grouped_names(network(), Filters(), ["fc7", "stem", "x"])
    with pytest.raises(ValueError, match="has no weight to act on"):
        grouped_names(Weights({"fc": torch.ones(2, 2)}), Filters())
    with pytest.raises(ValueError, match="has no weight to act on"):
        grouped_names(Weights({"fc": torch.ones(2, 2)}), Kernels())


def test_factors_are_refused_but_names_like_theirs_are_not() -> None:
    factors = {f"fc.weight.{name}": torch.ones(2, 2) for name in "UVC"}
    with pytest.raises(ValueError, match=r"\['fc.weight'\] are factored.*factored=False"):
        grouped_names(Weights(factors), Filters(), ())
    assert grouped_names(Weights({"layer.U": torch.ones(2, 2)}), Filters(), ()) == ["layer.U"]
