"""The minimax loop, its constraints, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from art_atmc_gan import (
    Features,
    GANSlimming,
    PatchDiscriminator,
    Pixels,
    Rates,
    ResidualGenerator,
    activation_ranges,
    restore_narrow,
)
from art_atmc_gan.play import Collapse, Game
from torch import nn

from art_atmc import CompressedModel, Quantization, Sparsity, compressible
from art_atmc.files.onnx import export

X = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def networks(seed: int = 0) -> tuple[ResidualGenerator, PatchDiscriminator]:
    torch.manual_seed(seed)
    return ResidualGenerator((4, 6, 8), stream=6), PatchDiscriminator(4)


def slimming(**options: object) -> GANSlimming:
    return GANSlimming(*networks(), **{"verbose": False, **options})  # type: ignore[arg-type]


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_without_constraints_it_is_the_plain_loop_bit_for_bit(beta: float) -> None:
    generator, discriminator = networks()
    run = GANSlimming(generator, discriminator, beta=beta, average=0.0, seed=3, verbose=False)
    run.fit(X, nb_steps=4, fine_tuning_steps=0, batch_size=8)

    teacher, steps = copy.deepcopy(generator), 4
    scales = [p for name, p in generator.named_parameters() if p.dim() == 1 and name.endswith("weight")]
    others = [p for p in generator.parameters() if not any(p is s for s in scales)]
    w = torch.optim.Adam(others, 4e-4, betas=(0.5, 0.999))
    s = torch.optim.SGD(scales, 0.1, momentum=0.5)
    d = torch.optim.Adam(discriminator.parameters(), 4e-4, betas=(0.5, 0.999))
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) for optimizer in (w, s, d)]
    rng = torch.Generator().manual_seed(3)
    order = itertools.chain.from_iterable(torch.randperm(24, generator=rng).split(8) for _ in itertools.count())
    for index in itertools.islice(order, steps):
        real, made = teacher(X[index]).detach(), generator(X[index])
        loss = (discriminator(made) - 1).square().mean() + beta * (made - real).abs().mean()
        for optimizer in (w, s):
            optimizer.zero_grad()
        loss.backward()
        w.step(), s.step()
        d.zero_grad()
        on_real, on_made = discriminator(real), discriminator(made.detach())
        (0.5 * (on_real - 1).square().mean() + 0.5 * on_made.square().mean()).backward()
        d.step()
        for schedule in schedules:
            schedule.step()
    assert same(run.generator, generator)
    assert same(run.discriminator, discriminator)


def test_teacher_and_given_networks_stay_and_a_seed_repeats_the_run() -> None:
    generator, discriminator = networks()
    before = copy.deepcopy(generator.state_dict()), copy.deepcopy(discriminator.state_dict())
    runs = [GANSlimming(generator, discriminator, density=0.6, bits=4, seed=s, verbose=False) for s in (1, 1, 2)]
    for run in runs:
        run.fit(X, nb_steps=4, fine_tuning_steps=2, batch_size=8)
    for network, state in zip((generator, discriminator), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(p, before[0][name]) for name, p in runs[0].teacher.state_dict().items())
    assert same(runs[0].generator, runs[1].generator)
    assert not same(runs[0].generator, runs[2].generator)


def test_the_discriminator_gets_no_gradient_from_the_generators_step() -> None:
    generator, discriminator = networks()
    game = Game(generator, discriminator, copy.deepcopy(generator), 1.0, Pixels(), Rates(), 2)
    seen: list[bool] = []
    game.weights.register_step_pre_hook(lambda *_: seen.append(all(p.grad is None for p in discriminator.parameters())))
    game.step(X[:4])
    assert seen == [True]


def test_budget_and_bits_hold_at_the_end_and_the_network_is_narrow(tmp_path: Path) -> None:
    run = slimming(density=0.5, least=2, bits=8, distance=Features(nn.Sequential(nn.Conv2d(3, 4, 3)), ["0"]))
    run.fit(X, nb_steps=6, fine_tuning_steps=3, batch_size=8)
    assert run.removal is not None
    kept = [m.num_features for m in run.generator.modules() if isinstance(m, nn.InstanceNorm2d) and m.affine]
    assert sum(kept) == 9
    assert min(kept) >= 2
    for constraint in run.constraints:
        assert constraint.violation(compressible(run.generator)) == 0
    assert len({float(value) for value in run.generator.decoder[3].weight.detach().flatten()}) <= 255
    compressed = run.compress({"labels": 0.5})
    assert compressed.manifest.metrics["activation_ranges"] == activation_ranges(run.generator)
    assert not compressed.manifest.classifies
    compressed.verify(run.generator)
    compressed.save(tmp_path / "g.atmc")
    restored = restore_narrow(CompressedModel.load(tmp_path / "g.atmc"), networks()[0])
    torch.testing.assert_close(restored(X[:2]).detach().numpy(), run.predict(X[:2]), atol=0, rtol=0)


@pytest.mark.parametrize("activation_bits", [8, 6])
def test_the_graph_holds_integers_and_computes_the_same(tmp_path: Path, activation_bits: int) -> None:
    run = slimming(density=0.6, bits=4, activation_bits=activation_bits)
    run.fit(X, nb_steps=3, fine_tuning_steps=1, batch_size=8)
    path = tmp_path / "g.onnx"
    export(run.compress(), path, module=run.generator)
    graph = onnx.load(path).graph
    assert ("QuantizeLinear" in {node.op_type for node in graph.node}) == (
        activation_bits == 8 and hasattr(torch.onnx, "ops")
    )
    types = onnx.TensorProto
    packed = [i for i in graph.initializer if i.data_type in (types.UINT4, types.INT4, types.UINT8, types.INT8)]
    assert sum(len(i.raw_data) for i in packed) > 300  # two codes a byte
    found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": X[:4].numpy()})[
        0
    ]
    assert float(np.abs(found - run.predict(X[:4])).mean()) < 1e-3  # a rounding that falls otherwise is one level


@pytest.mark.parametrize("least", [0, 2])
def test_a_large_penalty_closes_layers_unless_some_stay(least: int) -> None:
    run = slimming(rho=1000.0, least=least)
    run.fit(X, nb_steps=3, fine_tuning_steps=1, batch_size=8)
    kept = [m.num_features for m in run.generator.modules() if isinstance(m, nn.InstanceNorm2d) and m.affine]
    assert kept == ([2, 2, 2] if least else [1, 1, 1])  # of a closed layer one channel stays, a constant
    assert np.isfinite(run.predict(X)).all()


def test_atmcs_own_constraints_act_too() -> None:
    run = slimming(constraints=[Sparsity(density=0.3), Quantization(bits=3)])
    run.fit(X, nb_steps=5, fine_tuning_steps=0, batch_size=8)
    weights = compressible(run.generator)
    assert weights.nnz() <= 0.3 * weights.dense_size
    assert all(len(w.unique()) <= 9 for w in weights.values())
    assert run.removal is None


def test_a_generator_without_channels_to_close_is_refused() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 3, 3, padding=1), nn.Tanh())
    run = GANSlimming(plain, PatchDiscriminator(4), density=0.5, verbose=False)
    with pytest.raises(ValueError, match="FilterSparsity"):
        run.fit(X, nb_steps=2, batch_size=8)
    GANSlimming(plain, PatchDiscriminator(4), verbose=False).fit(X, nb_steps=2, fine_tuning_steps=0, batch_size=8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rho": 0.1, "density": 0.5}, ValueError, "not both"),
        ({"rho": -0.1}, ValueError, "rho"),
        ({"density": 0.0}, ValueError, "density"),
        ({"bits": 1}, ValueError, "bits"),
        ({"beta": -1.0}, ValueError, "beta"),
        ({"average": 1.0}, ValueError, "average"),
        ({"teacher": "dense"}, TypeError, "teacher"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        slimming(**options)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X * 2, r"must lie in \[-1, 1\]"),
        (X.mul(torch.nan), r"must lie in \[-1, 1\]"),
        ((X * 127).to(torch.uint8), "floating"),
        (X[0], r"\(N, C, H, W\)"),
    ],
)
def test_bad_images_are_refused(x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slimming().fit(x)
    with pytest.raises(ValueError, match="batch_size"):
        slimming().fit(X, batch_size=25)


def test_a_teacher_of_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="same task"):
        slimming(teacher=nn.Conv2d(3, 1, 3)).fit(X)
    with pytest.raises(ValueError, match="clip_values"):
        slimming(teacher=nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False).apply(_loud)).fit(X)


def _loud(layer: nn.Module) -> None:
    nn.init.constant_(layer.bias, 9.0)  # type: ignore[arg-type]


def test_a_discriminator_that_sees_nothing_is_refused() -> None:
    generator, discriminator = networks()
    with torch.no_grad():
        discriminator.layers[-1].weight.zero_()
    with pytest.raises(ValueError, match="collapsed"):
        GANSlimming(generator, discriminator, verbose=False).fit(X)


def test_a_discriminator_that_collapses_on_the_way_is_said_once() -> None:
    collapse, figures = Collapse(patience=3), {"spread": 0.5, "discriminator": 0.2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(9):
            collapse.look(figures)
        collapse.look(figures | {"spread": 0.0})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(9):
            collapse.look(figures | {"discriminator": 1e-4})
    assert len(said) == 1
    assert "makes no error any more" in str(said[0].message)


def test_a_loss_that_is_not_finite_says_whose_and_keeps_the_weights() -> None:
    generator, discriminator = networks()
    with torch.no_grad():
        discriminator.layers[-1].bias.fill_(torch.inf)
    game = Game(generator, discriminator, copy.deepcopy(generator), 1.0, Pixels(), Rates(), 2)
    before = copy.deepcopy(generator)
    with pytest.raises(FloatingPointError, match="generator's loss"):
        game.step(X[:4])
    assert same(generator, before)


def test_ranges_that_saturate_are_said() -> None:
    run = slimming(bits=8)
    with pytest.warns(UserWarning, match="saturate"):
        run.fit(torch.cat([0.05 * X.repeat(3, 1, 1, 1)[:64], X]), nb_steps=2, fine_tuning_steps=0, batch_size=8)


def test_quantised_networks_are_refused_as_a_start() -> None:
    run = slimming(bits=8)
    run.fit(X, nb_steps=2, fine_tuning_steps=0, batch_size=8)
    with pytest.raises(ValueError, match="already"):
        GANSlimming(run.generator, run.discriminator, verbose=False)


def test_features_measure_content_and_style() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    distance = Features(network, ["0", "2"], style=2.0)
    a, b = X[:3], X[3:6]
    first = [network[0](x) for x in (a, b)]
    last = [network(x) for x in (a, b)]
    expected = (first[0] - first[1]).abs().mean()
    for x, y in (first, last):
        _n, c, h, w = x.shape
        gram = [torch.einsum("nihw,njhw->nij", z, z) / (c * h * w) for z in (x, y)]
        expected = expected + 2.0 * (gram[0] - gram[1]).square().mean()
    torch.testing.assert_close(distance(a, b), expected)
    assert float(distance(a, a)) == 0
    assert all(p.grad is None for p in network.parameters())
    with pytest.raises(ValueError, match="layers"):
        Features(network, ["head"])
