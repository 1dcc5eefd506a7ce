from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, relu

from art_atmc.compression.weights import compressible
from art_atmc.data import load
from art_atmc.networks import NETWORKS, ImageNetwork, digits_cnn, lenet, lenet_relu, resnet18, wide_resnet16_8


@pytest.mark.parametrize(
    ("name", "nb_classes", "bits"),
    [
        ("lenet", 10, 13_776_000),
        ("lenet-relu", 10, 13_776_000),
        ("resnet34", 10, 680_482_816),
        ("resnet34", 100, 681_957_376),
        ("wrn-16-1", 10, 5_572_096),
        ("wrn-16-8", 10, 350_533_120),
    ],
)
def test_dense_size_is_that_of_the_paper(name: str, nb_classes: int, bits: int) -> None:
    model = NETWORKS[name](nb_classes)
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert 32 * sum(layer.weight.numel() for layer in layers) == bits
    assert 32 * compressible(model).dense_size == bits


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_a_column_for_each_class(name: str) -> None:
    network = NETWORKS[name](7).eval()
    with torch.no_grad():
        assert network(torch.rand(2, *network.input_shape)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_gives_the_same_logits_and_gradient(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name](10).eval().double()  # in single precision, rounding moves inputs of ReLU across its kink
    x = torch.rand(2, *network.input_shape, dtype=torch.float64)
    # PyTorch calls a tensor of one channel contiguous in both formats, so the strides say which one it is.
    last = torch.empty_like(x, memory_format=torch.channels_last).copy_(x)
    results = []
    for images in (x, last):
        images.requires_grad_()
        logits = network(images)
        (gradient,) = torch.autograd.grad(logits.square().sum(), images)
        results.append((logits, gradient))
    (logits, gradient), (logits_last, gradient_last) = results
    torch.testing.assert_close(logits_last, logits)
    torch.testing.assert_close(gradient_last, gradient)


@pytest.mark.parametrize("name", ["lenet", "resnet18", "wrn-16-1", "wrn-16-8"])
def test_network_is_no_sequential_and_survives_copy_and_pickle(name: str) -> None:
    network = NETWORKS[name](10).eval()
    assert not isinstance(network, nn.Sequential)
    x = torch.rand(1, *network.input_shape)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(network)(x), network(x))
        assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))


@pytest.mark.parametrize("name", ["lenet", "resnet18", "wrn-16-1", "wrn-16-8"])
def test_seed_fixes_the_initial_weights(name: str) -> None:
    first, second, other = (_seeded(name, seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def _seeded(name: str, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return NETWORKS[name](10).state_dict()


@pytest.mark.parametrize(("build", "between"), [(lenet, nn.Identity()), (lenet_relu, nn.ReLU())])
def test_lenet_is_the_chain_written_out(build: Callable[[], ImageNetwork], between: nn.Module) -> None:
    network = build()
    x = torch.rand(3, 1, 28, 28)
    conv1, conv2, fc1, fc2 = (network.get_submodule(f"layers.{n}") for n in ("conv1", "conv2", "fc1", "fc2"))
    features = max_pool2d(between(conv2(max_pool2d(between(conv1(x)), 2))), 2)
    torch.testing.assert_close(network(x), fc2(relu(fc1(features.reshape(3, 800)))))


def test_residual_blocks_add_their_shortcut() -> None:
    # With the last convolution of a block at zero, only the shortcut is left.
    block = resnet18().get_submodule("layers.stage1.0").eval()
    nn.init.zeros_(block.get_submodule("conv2").weight)  # type: ignore[arg-type]
    x = torch.randn(2, 64, 8, 8)
    assert torch.equal(block(x), relu(x))
    wide = wide_resnet16_8().get_submodule("layers.stage1.1").eval()
    nn.init.zeros_(wide.get_submodule("conv2").weight)  # type: ignore[arg-type]
    x = torch.randn(2, 128, 8, 8)
    assert torch.equal(wide(x), x)
    widening = wide_resnet16_8().get_submodule("layers.stage2.0").eval()
    nn.init.zeros_(widening.get_submodule("conv2").weight)  # type: ignore[arg-type]
    activated = relu(widening.get_submodule("bn1")(x))
    assert torch.equal(widening(x), widening.get_submodule("shortcut")(activated))


@pytest.mark.parametrize(("name", "stages"), [("resnet18", 4), ("resnet34", 4), ("wrn-16-8", 3)])
def test_stages_halve_the_image_except_the_first(name: str, stages: int) -> None:
    network = NETWORKS[name](10).eval()
    sides: list[int] = []
    for number in range(1, stages + 1):
        stage = network.get_submodule(f"layers.stage{number}")
        stage.register_forward_hook(lambda _module, _args, output: sides.append(output.shape[-1]))
    with torch.no_grad():
        network(torch.rand(1, 3, 32, 32))
    assert sides == [32, 16, 8, 4][:stages]


def test_dropout_acts_in_training_only() -> None:
    block = wide_resnet16_8(dropout=0.4).get_submodule("layers.stage1.0")
    x = torch.rand(1, 16, 8, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
    undropped = wide_resnet16_8(dropout=0).get_submodule("layers.stage1.0")
    assert torch.equal(undropped(x), undropped(x))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_out_of_range_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=r"`dropout` must be in \[0, 1\)"):
        wide_resnet16_8(dropout=dropout)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("nb_classes", [1, 0, -3, 2.0, True])
def test_impossible_number_of_classes_is_refused(name: str, nb_classes: int) -> None:
    with pytest.raises(ValueError, match="`nb_classes` must be an integer of at least 2"):
        NETWORKS[name](nb_classes)


def test_two_classes_are_accepted() -> None:
    assert lenet(2)(torch.rand(1, 1, 28, 28)).shape == (1, 2)


def test_digits_cnn_learns_the_digits() -> None:
    torch.manual_seed(0)
    digits = load("digits")
    x, y = torch.from_numpy(digits.x_train), torch.from_numpy(digits.y_train)
    network = digits_cnn()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(8):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        correct = network(torch.from_numpy(digits.x_test)).argmax(1) == torch.from_numpy(digits.y_test)
    assert correct.float().mean() > 0.95
