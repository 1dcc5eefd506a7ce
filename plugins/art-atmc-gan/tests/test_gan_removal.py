"""Channels of scale zero leave, and the function stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from art_atmc_gan import (
    ResidualGenerator,
    activation_ranges,
    channel_scales,
    quantize_activations_,
    remove_channels,
    restore_narrow,
)
from test_gan_scales import Stream
from torch import nn

from art_atmc import CompressedModel
from art_atmc.inference import multiply_adds


def close_(model: nn.Module, *, shift: float = 0.7, sample: torch.Tensor | None = None) -> nn.Module:
    """Scales zero at every second channel and their shifts at ``shift``, which the activation lets through."""
    sample = torch.rand(1, 3, 16, 16) if sample is None else sample
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in channel_scales(model, sample):
            parameters[name][::2] = 0
            parameters[name.replace("weight", "bias")].uniform_(0.1, shift)
    return model.eval()


def chain(norm: Callable[[int], nn.Module], reader: nn.Module, maker: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(maker or nn.Conv2d(3, 6, 3, padding=1), norm(6), nn.ReLU(), reader, nn.Tanh())


def instance(width: int) -> nn.Module:
    return nn.InstanceNorm2d(width, affine=True)


@pytest.mark.parametrize(
    "model",
    [
        lambda: chain(instance, nn.Conv2d(6, 3, 3)),
        lambda: chain(instance, nn.Conv2d(6, 3, 3, padding=1)),
        lambda: chain(instance, nn.Conv2d(6, 3, 3, padding=1, padding_mode="reflect", bias=False)),
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), instance(6), nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(6, 3, 3), nn.Tanh()
        ),
        lambda: chain(instance, nn.ConvTranspose2d(6, 3, 4, stride=2, padding=1)),
        lambda: chain(nn.BatchNorm2d, nn.Conv2d(6, 3, 3, padding=1), nn.ConvTranspose2d(3, 6, 2, stride=2)),
        lambda: ResidualGenerator((6, 8, 8, 6), stream=8),
        lambda: Stream(),
    ],
    ids=[
        "valid",
        "zero-padding",
        "reflect",
        "reflection-layer",
        "transposed",
        "made-transposed",
        "generator",
        "stream",
    ],
)
def test_outputs_stay_with_scale_zero_and_positive_shift(model: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network, x = close_(model()), torch.rand(4, 3, 16, 16)
    if isinstance(network, Stream):
        with torch.no_grad():
            network.branch[5].weight[0] = 0
    removal = remove_channels(network, x)
    for probe in (x, torch.randn(4, 3, 16, 16), torch.rand(2, 3, 24, 24)):
        torch.testing.assert_close(removal.model(probe), network(probe), atol=1e-5, rtol=1e-5)
    assert removal.widths
    assert removal.parameters[1] < removal.parameters[0]


def test_dropping_the_shifts_would_be_another_function() -> None:
    """What the released code does."""
    torch.manual_seed(0)
    network, x = close_(ResidualGenerator((6, 8, 6), stream=8)), torch.rand(4, 3, 16, 16)
    dropped = ResidualGenerator((3, 4, 3), stream=8)
    state = network.state_dict()
    odd = {"encoder.0.weight": 0, "encoder.3.weight": 1, "blocks.0.layers.0.weight": 0, "blocks.0.layers.3.weight": 1,
           "decoder.0.weight": 1, "decoder.3.weight": 1}  # fmt: skip
    for name, own in dropped.state_dict().items():
        if name in odd:
            own.copy_(state[name][1::2] if odd[name] == 0 else state[name][:, 1::2])
        else:
            own.copy_(state[name][1::2] if len(own) < len(state[name]) else state[name])
    assert (dropped.eval()(x) - network(x)).abs().max() > 0.01
    assert (remove_channels(network, x).model(x) - network(x)).abs().max() < 1e-5


def test_multiply_adds_are_those_of_the_hand() -> None:
    widths = (6, 14, 16, 20, 8)
    counts = multiply_adds(ResidualGenerator(widths), torch.zeros(1, 3, 32, 32))
    by_hand = 3 * 6 * 25 * 1024 + 6 * 32 * 9 * 256 + 2 * 9 * 256 * 32 * (14 + 16 + 20) + 32 * 8 * 16 * 256
    assert sum(count.dense for count in counts.values()) == by_hand + 8 * 3 * 25 * 1024


def test_quantised_activations_change_by_their_rounding_only() -> None:
    torch.manual_seed(0)
    network, x = close_(ResidualGenerator((6, 8, 8, 6), stream=8)), torch.rand(8, 3, 16, 16) * 2 - 1
    quantize_activations_(network, 8, x)
    removal = remove_channels(network, x)
    assert removal.difference < 1e-5
    difference = (removal.model(x) - network(x)).detach().abs()
    assert float(difference.mean()) < 0.005
    assert activation_ranges(removal.model) == activation_ranges(network)


def test_a_file_restores_the_narrow_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = close_(ResidualGenerator((6, 8, 6), stream=8)), torch.rand(4, 3, 16, 16)
    quantize_activations_(network, 8, x)
    small = remove_channels(network, x).model
    compressed = CompressedModel.of(small, metrics={"activation_bits": 8}, input_shape=(3, 16, 16))
    compressed.save(tmp_path / "generator.atmc")
    loaded = CompressedModel.load(tmp_path / "generator.atmc")
    restored = restore_narrow(loaded, ResidualGenerator((6, 8, 6), stream=8))
    assert torch.equal(restored(x), small(x))
    with pytest.raises(ValueError, match="blocks"):
        restore_narrow(loaded, ResidualGenerator((6, 8, 8, 6), stream=8))


def test_normalisation_by_batches_is_refused() -> None:
    model = chain(lambda width: nn.BatchNorm2d(width, track_running_stats=False), nn.Conv2d(6, 3, 3))
    with pytest.raises(ValueError, match="track_running_stats"):
        remove_channels(model, torch.rand(2, 3, 8, 8))


class Skips(nn.Module):
    """The second convolution reads what is not normalised yet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        z: torch.Tensor = self.last(self.norm(y) + y)
        return z


def test_channels_that_are_read_before_they_are_scaled_are_noticed() -> None:
    model = Skips().eval()
    with torch.no_grad():
        model.norm.weight[0] = 0
    with pytest.raises(RuntimeError, match="before they are normalised"):
        remove_channels(model, torch.rand(2, 3, 8, 8))
