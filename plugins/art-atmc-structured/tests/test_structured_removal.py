"""Removal: a smaller network that computes the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from art_atmc_structured import FilterSparsity, coupled_filters, remove_filters
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from art_atmc import CompressedModel, compressible, decompose
from art_atmc.networks import NETWORKS, lenet, resnet18

torch.set_num_threads(1)


def unsettled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch normalisation as after training, so that channels without filters carry constants."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(generator=generator)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model


@torch.no_grad()
def assert_same(small: nn.Module, model: nn.Module, x: Tensor) -> None:
    expected, training = model.eval()(x), small.training
    torch.testing.assert_close(small.eval()(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not training


def pruned(model: nn.Module, constraint: FilterSparsity) -> nn.Module:
    weights = compressible(model)
    weights.assign_(constraint.project(weights))
    return model


@pytest.mark.parametrize("name", ["lenet", "digits-cnn", pytest.param("wrn-16-8", marks=pytest.mark.slow)])
def test_networks_of_the_paper_get_smaller_and_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = unsettled(NETWORKS[name](10))
    x = torch.rand(2, *model.input_shape)  # type: ignore[misc]
    pruned(model, FilterSparsity(0.5, per_layer=True, coupled=coupled_filters(model, x)))
    before = copy.deepcopy(model.state_dict())
    removal = remove_filters(model, x)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert_same(removal.model, model, torch.rand(2, *model.input_shape))  # type: ignore[misc]
    spare = 2 if name == "wrn-16-8" else 0  # channels that stay for others' constants, where convolutions pad
    assert all(after - before // 2 in range(spare) or after == before // 2 for before, after in removal.widths.values())
    assert removal.parameters[1] < 0.33 * removal.parameters[0]
    assert removal.parameters[1] == sum(p.numel() for p in removal.model.parameters())
    assert removal.difference < 1e-5


def test_residual_networks_lose_whole_streams_where_filters_are_coupled_else_inner_channels() -> None:
    torch.manual_seed(0)
    model = unsettled(resnet18())
    x = torch.rand(1, 3, 32, 32)
    free, coupled = (
        remove_filters(pruned(copy.deepcopy(model), FilterSparsity(0.5, per_layer=True, coupled=bundles)), x)
        for bundles in ((), coupled_filters(model, x))
    )
    assert free.widths["layers.stage2.0.conv1"] == coupled.widths["layers.stage2.0.conv1"] == (128, 65)
    assert coupled.widths["layers.stage2.0.conv2"] == coupled.widths["layers.stage2.0.shortcut.0"] == (128, 65)
    assert coupled.widths["layers.conv"] == (64, 33)  # the readers of the stream share the channel that stays
    assert free.widths["layers.stage2.0.conv2"][1] > 100
    assert coupled.parameters[1] < 0.26 * coupled.parameters[0] < 0.6 * free.parameters[1]


def zeroed(layer: nn.Module, *filters: int) -> nn.Module:
    layer.weight.data[list(filters)] = 0
    return layer


LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "bias and padding": lambda: (
        nn.Sequential(zeroed(nn.Conv2d(2, 6, 3, padding=1), 0, 2, 5), nn.Conv2d(6, 3, 3, padding=1), nn.Flatten()),
        torch.rand(3, 2, 5, 5),
    ),
    "strides, pools, circular padding": lambda: (
        nn.Sequential(
            zeroed(nn.Conv2d(2, 6, 3, stride=2, padding=1), 1, 3),
            nn.GELU(),
            nn.AvgPool2d(3, padding=1),
            nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        torch.rand(2, 2, 9, 9),
    ),
    "depthwise": lambda: (
        unsettled(
            nn.Sequential(
                zeroed(nn.Conv2d(2, 6, 1), 0, 1, 5),
                nn.BatchNorm2d(6),
                zeroed(nn.Conv2d(6, 6, 3, padding=1, groups=6), 0, 1, 4),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Conv2d(6, 3, 1),
                nn.Flatten(),
            )
        ),
        torch.rand(2, 2, 6, 6),
    ),
    "transposed": lambda: (
        nn.Sequential(
            zeroed(nn.Conv2d(2, 6, 3), 1, 2),
            nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1),
            nn.PReLU(5),
            nn.Conv2d(5, 2, 3),
            nn.Flatten(),
        ),
        torch.rand(2, 2, 6, 6),
    ),
    "one dimension": lambda: (
        nn.Sequential(zeroed(nn.Conv1d(2, 4, 3, padding=1), 0), nn.ReLU(), nn.Conv1d(4, 3, 3, padding=1), nn.Flatten()),
        torch.rand(2, 2, 6),
    ),
    "tokens": lambda: (
        nn.Sequential(zeroed(nn.Linear(3, 8), 2, 6), nn.ReLU(), nn.Linear(8, 4), nn.Flatten()),
        torch.rand(2, 5, 3),
    ),
    "instance normalisation": lambda: (
        nn.Sequential(
            zeroed(nn.Conv2d(2, 6, 3, bias=False), 1, 2),
            nn.InstanceNorm2d(6, affine=True),
            nn.Sigmoid(),
            zeroed(nn.Conv2d(6, 5, 3, bias=False), 0),
            nn.InstanceNorm2d(5),
            nn.Conv2d(5, 2, 1),
            nn.Flatten(),
        ),
        torch.rand(2, 2, 7, 7),
    ),
    "batch normalisation of vectors": lambda: (
        unsettled(nn.Sequential(zeroed(nn.Linear(3, 8), 2, 6), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))),
        torch.rand(2, 3),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_kinds_of_layers_lose_filters_and_compute_the_same(name: str) -> None:
    torch.manual_seed(1)
    model, x = LAYERS[name]()
    removal = remove_filters(model, x)
    assert removal.widths
    assert removal.parameters[1] < removal.parameters[0]
    assert_same(removal.model, model, torch.randn(3, *x.shape[1:]))


@st.composite
def networks(draw: st.DrawFn) -> nn.Sequential:
    """Convolutions with any padding, pooling and normalisation, some filters and some channels of which are zero."""
    torch.manual_seed(draw(st.integers(0, 99)))
    layers: list[nn.Module] = []
    channels, size = 2, 7
    for _ in range(draw(st.integers(1, 3))):
        width, padding = draw(st.integers(1, 6)), draw(st.integers(0, 2))
        convolution = nn.Conv2d(channels, width, 3, padding=padding, bias=draw(st.booleans()))
        convolution.weight.data[draw(st.lists(st.integers(0, width - 1), max_size=width))] = 0
        convolution.weight.data[:, draw(st.lists(st.integers(0, channels - 1), max_size=1))] = 0
        layers += [convolution, *draw(st.sampled_from([[], [nn.BatchNorm2d(width)]]))]
        layers.append(draw(st.sampled_from([nn.ReLU(), nn.Identity(), nn.Tanh(), nn.AvgPool2d(3, 1, padding=1)])))
        channels, size = width, size - 2 + 2 * padding
    layers += [nn.Flatten(), nn.Linear(channels * size**2, 5), nn.ReLU(), nn.Linear(5, 3)]
    layers[-3].weight.data[draw(st.lists(st.integers(0, 4), max_size=4))] = 0
    return unsettled(nn.Sequential(*layers))  # type: ignore[return-value]


@settings(max_examples=60, deadline=None)
@given(model=networks(), round_to=st.sampled_from([1, 1, 2, 4]))
def test_random_networks_compute_the_same(model: nn.Sequential, round_to: int) -> None:
    x = torch.rand(2, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    removal = remove_filters(model, x, round_to=round_to)
    assert_same(removal.model, model, 4 * x - 2)
    assert all(after % round_to == 0 and 0 < after < before for before, after in removal.widths.values())
    again = remove_filters(removal.model, x, round_to=round_to)
    assert not again.widths


def test_channels_that_nobody_reads_go_with_what_makes_them() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    model[4].weight.data[:, :4] = 0  # so outputs 0 to 3 of the second layer are not needed
    model[2].weight.data[4, :2] = 0  # and then nobody reads 0 and 1 of the first
    removal = remove_filters(model, torch.rand(2, 3))
    assert removal.widths == {"0": (6, 4), "2": (5, 1)}
    assert_same(removal.model, model, torch.randn(4, 3))


def test_filters_of_removed_channels_only_go_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].weight.data[:2] = 0
    model[2].weight.data[1:3, 2:] = 0
    removal = remove_filters(model, torch.rand(2, 3))
    assert removal.widths == {"0": (4, 2), "2": (4, 2)}
    assert_same(removal.model, model, torch.randn(4, 3))


def test_inputs_and_outputs_stay_and_so_does_one_channel_of_each_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].weight.data.zero_()
    model[2].weight.data[0] = 0
    removal = remove_filters(model, torch.rand(2, 3))
    assert [tuple(m.weight.shape) for m in removal.model.children() if isinstance(m, nn.Linear)] == [(1, 3), (2, 1)]
    assert_same(removal.model, model, torch.randn(4, 3))


def test_outputs_that_are_channels_stay() -> None:
    model = nn.Sequential(
        zeroed(nn.Conv2d(1, 4, 3), 1), zeroed(nn.Conv2d(4, 3, 1), 0), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    removal = remove_filters(model, torch.rand(2, 1, 5, 5))
    assert removal.widths == {"0": (4, 3)}


class Open(nn.Module):
    """The channels of a sum are read, and are the outputs too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return (x + self.second(x)).relu()


def test_channels_that_are_read_and_are_outputs_stay() -> None:
    model = Open()
    zeroed(model.first, 0)
    zeroed(model.second, 0)
    assert remove_filters(model, torch.rand(2, 3)).widths == {}


def test_a_network_without_zeros_stays_as_it_is() -> None:
    model = lenet()
    removal = remove_filters(model, torch.rand(2, 1, 28, 28))
    assert removal.widths == {}
    assert removal.difference == 0
    assert all(torch.equal(p, q) for p, q in zip(removal.model.parameters(), model.parameters(), strict=True))


def test_widths_are_rounded_up() -> None:
    model = pruned(lenet(), FilterSparsity(0.5, per_layer=True))
    removal = remove_filters(model, torch.rand(2, 1, 28, 28), round_to=8)
    assert {n.removeprefix("layers."): w for n, w in removal.widths.items()} == {
        "conv1": (20, 16),
        "conv2": (50, 32),
        "fc1": (500, 256),
    }


class Residual(nn.Module):
    """x + f(x) on channels that a first layer makes, which torch may mix otherwise at the end."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 9, 2)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.end(x + self.second(x)).flatten(1))


def test_a_sum_loses_a_channel_only_if_both_sides_do() -> None:
    model = Residual(torch.relu)
    x = torch.rand(2, 1, 3, 3)
    assert coupled_filters(model, x) == (("first.weight", "second.weight"),)
    zeroed(model.first, 0, 1, 2)
    assert not remove_filters(model, x).widths
    zeroed(model.second, 1, 2, 3)
    removal = remove_filters(model, x)
    assert removal.widths == {"first": (4, 3), "second": (4, 3)}  # of two constant ones, one stays where `second` pads
    assert_same(removal.model, model, torch.randn(2, 1, 3, 3))


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 4, 3), nn.Conv2d(7, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([self.a(x), self.b(x)], 1)).flatten(1)


def test_concatenated_channels_go_one_by_one() -> None:
    torch.manual_seed(0)
    model = Joined()
    zeroed(model.a, 0, 1)
    zeroed(model.b, 2, 3)
    removal = remove_filters(model, torch.rand(2, 1, 6, 6))
    assert removal.widths == {"a": (3, 2), "b": (4, 3)}  # one stays in each for the padded reader
    assert_same(removal.model, model, torch.randn(2, 1, 6, 6))


@pytest.mark.parametrize(
    "between",
    [
        nn.GroupNorm(2, 4),
        nn.GroupNorm(2, 4, affine=False),
        nn.LayerNorm(5),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Sequential(nn.Conv2d(4, 2, 1, groups=2), nn.Conv2d(2, 4, 1)),
    ],
    ids=["norm", "norm without parameters", "layer norm", "grouped", "grouped and narrowing"],
)
def test_channels_that_meet_other_layers_stay(between: nn.Module) -> None:
    model = nn.Sequential(zeroed(nn.Conv2d(1, 4, 3, padding=1), 0, 1), between, nn.Conv2d(4, 2, 1), nn.Flatten())
    removal = remove_filters(model, torch.rand(2, 1, 5, 5))
    assert removal.widths == {}
    assert_same(removal.model, model, torch.randn(2, 1, 5, 5))


@pytest.mark.parametrize(
    "end",
    [lambda x: x.softmax(1), lambda x: x.reshape(len(x), 4, 9), lambda x: x - x.mean(1, keepdim=True)],
    ids=["softmax", "fixed size", "mean"],
)
def test_networks_that_cannot_be_followed_are_refused(end: Callable[[Tensor], Tensor]) -> None:
    model = Residual(end)
    zeroed(model.first, 0, 1)
    zeroed(model.second, 0, 1)
    with pytest.raises(RuntimeError, match="without its zero filters the network computes something else"):
        remove_filters(model, torch.rand(2, 1, 3, 3))


def test_shared_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match=r"\['2.weight'\] are shared with other layers"):
        remove_filters(model, torch.rand(2, 3))


@pytest.mark.parametrize("round_to", [0, -1, 1.5, True])
def test_roundings_out_of_range_are_refused(round_to: int) -> None:
    with pytest.raises(ValueError, match="`round_to` must be an integer of at least 1"):
        remove_filters(nn.Linear(2, 2), torch.rand(1, 2), round_to=round_to)


def test_samples_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(TypeError, match=r"got ndarray; see torch\.from_numpy"):
        remove_filters(nn.Linear(2, 2), np.zeros((1, 2), dtype=np.float32))  # type: ignore[arg-type]


def test_factors_are_folded_first_and_frozen_parameters_stay_frozen() -> None:
    model = nn.Sequential(zeroed(nn.Linear(3, 4), 1, 2), nn.ReLU(), nn.Linear(4, 2))
    removal = remove_filters(decompose(copy.deepcopy(model)), torch.rand(2, 3))
    assert_same(removal.model, model, torch.randn(2, 3))
    frozen = remove_filters(copy.deepcopy(model).requires_grad_(False), torch.rand(2, 3)).model
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in removal.model.parameters())


def test_the_random_state_stays() -> None:
    model = nn.Sequential(zeroed(nn.Linear(3, 4), 1), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2))
    x, state = torch.rand(2, 3), torch.get_rng_state()
    remove_filters(model, x)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_smaller_network_is_an_art_classifier_and_a_file_and_trains_on(tmp_path: object) -> None:
    model = pruned(NETWORKS["digits-cnn"](10), FilterSparsity(0.5))
    x = np.random.default_rng(0).random((6, 1, 8, 8), dtype=np.float32)
    small = remove_filters(model, torch.from_numpy(x)).model
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    classifier = PyTorchClassifier(small, loss, (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))
    expected = PyTorchClassifier(model, loss, (1, 8, 8), 10).predict(x)
    np.testing.assert_allclose(classifier.predict(x), expected, atol=1e-5)
    stored = CompressedModel.of(classifier)
    restored = stored.restore(copy.deepcopy(small))
    assert all(torch.equal(p, q) for p, q in zip(restored.parameters(), small.parameters(), strict=True))
    whole = CompressedModel.of(PyTorchClassifier(model, loss, (1, 8, 8), 10))
    assert stored.file_bytes < whole.file_bytes
    assert isinstance(pickle.loads(pickle.dumps(small)), nn.Module)
    before = small.layers.conv2.weight.detach().clone()
    classifier.fit(x, np.arange(6), batch_size=6, nb_epochs=1)
    assert not torch.equal(small.layers.conv2.weight, before)  # type: ignore[arg-type]
