"""The attack: known saddle points, PGD as its case of one domain, and what it leaves as it was."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from art_atmc_minmax import Images, Losses, MinMax, Models, Transformations
from torch import nn

from art_atmc import PGD, Problem
from art_atmc.attacks import DLR, CrossEntropy
from art_atmc.testing import check_attack

torch.set_num_threads(1)


def network(seed, inputs=6, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, classes)).eval()


def data(n=12, inputs=6, classes=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, inputs, generator=generator), torch.randint(classes, (n,), generator=generator)


def linear(rows):
    """A network of two classes whose margin z_0 - z_1 is a'v + b."""
    module = nn.Linear(len(rows[0]) - 1, 2)
    weights = torch.tensor(rows[0])
    with torch.no_grad():
        module.weight.copy_(torch.stack([weights[:-1], torch.zeros(len(weights) - 1)]))
        module.bias.copy_(torch.stack([weights[-1], torch.tensor(0.0)]))
    return module


def test_matching_pennies_ends_in_the_middle():
    """F = (v, -v) on [-1, 1]: v = 0 and both weights one half."""
    pair = Models([linear([[1.0, 0.0]]), linear([[-1.0, 0.0]])])
    attack = MinMax(1.0, pair, max_iter=400, eps_step=0.2, gamma=1.0, keep_best=False, random_start=False)
    result = attack.solve(Problem(nn.Identity()), torch.tensor([[0.7]]), torch.tensor([0]))
    assert float(result.adv) == pytest.approx(0.0, abs=0.02)
    torch.testing.assert_close(result.weights[-1], torch.full((1, 2), 0.5), atol=0.05, rtol=0)


def test_the_value_of_a_linear_game_is_that_of_a_linear_program():
    from scipy.optimize import linprog

    rows = [[1.0, 0.5, 0.2], [-0.7, 1.0, -0.1]]
    nets = Models([linear([row]) for row in rows])
    attack = MinMax(0.5, nets, max_iter=500, eps_step=0.1, gamma=0.0, weight_step=0.5, random_start=False)
    result = attack.solve(Problem(nn.Identity()), torch.zeros(1, 2), torch.tensor([0]))
    worst = max(np.dot(row[:2], result.delta[0].numpy()) + row[2] for row in rows)
    solved = linprog([0, 0, 1], A_ub=[[*row[:2], -1] for row in rows], b_ub=[-row[2] for row in rows],
                     bounds=[(-0.5, 0.5)] * 2 + [(None, None)])  # fmt: skip
    assert worst == pytest.approx(solved.fun, abs=5e-3)


@pytest.mark.parametrize("norm", [math.inf, 2])
def test_one_domain_is_pgd_ours_and_arts(norm):
    net, (x, y) = network(0), data()
    attack = MinMax(0.3, Models([net]), norm=norm, max_iter=7, eps_step=0.05, schedule="constant", loss=CrossEntropy(),
                    random_start=False, keep_best=False)  # fmt: skip
    problem = Problem(net, clip_values=(0.0, 1.0))
    result = attack.solve(problem, x, y)
    assert result.weights.unique().tolist() == [1.0]
    pgd = PGD(0.3, 0.05, 7, norm, random_start=False)(problem, x, y)
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), (6,), 3, clip_values=(0, 1), device_type="cpu")
    by_art = ProjectedGradientDescentPyTorch(classifier, norm=norm, eps=0.3, eps_step=0.05, max_iter=7, verbose=False)
    if norm == math.inf:  # for p = 2 they clip after they rescale, where the nearest point is meant here
        torch.testing.assert_close(result.adv, pgd, atol=1e-6, rtol=0)
        np.testing.assert_allclose(result.adv.numpy(), by_art.generate(x.numpy(), y.numpy()), atol=1e-6)
    free = Problem(net)
    torch.testing.assert_close(
        attack.solve(free, x, y).adv, PGD(0.3, 0.05, 7, norm, random_start=False)(free, x, y), atol=1e-6, rtol=0
    )


class _Mean(nn.Module):
    """Logits whose margin is the mean of the margins of two networks of two classes."""

    def __init__(self, nets):
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x):
        return torch.stack([net(x) for net in self.nets]).mean(dim=0)


@pytest.mark.parametrize("gamma", [1e9, math.inf])
def test_a_large_gamma_is_the_average(gamma):
    nets, (x, y) = [network(1, classes=2), network(2, classes=2)], data(classes=2)
    common: dict[str, Any] = {"max_iter": 6, "schedule": "constant", "random_start": False, "keep_best": False}
    both = MinMax(0.3, Models(nets), gamma=gamma, **common).solve(Problem(nets[0]), x, y)
    mean = MinMax(0.3, Models([_Mean(nets)]), **common).solve(Problem(nets[0]), x, y)
    torch.testing.assert_close(both.adv, mean.adv, atol=1e-6, rtol=0)
    torch.testing.assert_close(both.weights, torch.full_like(both.weights, 0.5), atol=1e-6, rtol=0)


def test_infinite_step_and_no_gamma_puts_all_weight_on_the_hardest():
    nets, (x, y) = [network(1), network(2)], data()
    result = MinMax(0.1, Models(nets), gamma=0, weight_step=math.inf, max_iter=3).solve(Problem(nets[0]), x, y)
    hardest = result.losses[1:].argmax(dim=2)
    assert torch.equal(result.weights[1:].argmax(dim=2), hardest)
    assert result.weights[1:].unique().tolist() == [0.0, 1.0]


def two_passes(nets, x, y, eps, steps, gamma, paper_step):
    """The order of the released code: each network twice a step, once for delta and once for the weights."""
    delta, w = torch.zeros_like(x), torch.full((len(x), len(nets)), 1 / len(nets))

    def losses(d):
        logits = [net(x + d) for net in nets]
        other = [z.masked_fill(nn.functional.one_hot(y, z.shape[1]).bool(), -math.inf).amax(1) for z in logits]
        return torch.stack([z.gather(1, y[:, None])[:, 0] - o for z, o in zip(logits, other, strict=True)], dim=1)

    from art_atmc_minmax import project_simplex

    for _ in range(steps):
        leaf = delta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((w * losses(leaf)).sum(), leaf)
        delta = (delta - eps / 2 * gradient.sign()).clamp(-eps, eps)
        with torch.no_grad():
            w = project_simplex(w + paper_step * (losses(delta) - gamma * (w - 1 / len(nets))))
    return delta, w


def test_iterates_are_those_of_the_two_pass_order():
    nets, (x, y) = [network(1), network(2), network(3)], data()
    delta, w = two_passes(nets, x, y, 0.1, 8, 2.0, 0.1)
    attack = MinMax(0.1, Models(nets), max_iter=8, schedule="constant", gamma=2.0, weight_step=0.1 / 0.8,
                    random_start=False, keep_best=False)  # fmt: skip
    result = attack.solve(Problem(nets[0]), x, y)
    torch.testing.assert_close(result.delta, delta, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.weights[-1], w, atol=1e-5, rtol=0)


def test_a_step_takes_one_pass_forward_and_one_back():
    nets, (x, y) = [network(1), network(2)], data()
    forward, back = [0, 0], [0, 0]
    for k, net in enumerate(nets):
        net.register_forward_hook(lambda *_, k=k: forward.__setitem__(k, forward[k] + 1))
        net.register_full_backward_hook(lambda *_, k=k: back.__setitem__(k, back[k] + 1))
    MinMax(0.1, Models(nets), max_iter=5)(Problem(nets[0]), x, y)
    assert forward == [5 + 2, 5 + 2]  # the last point's losses, and what the result fools
    assert back == [5, 5]


def test_groups_share_a_perturbation_and_equal_images_are_one_image():
    net, (x, y) = network(4), data(4)
    attack = MinMax(0.2, Images(3), random_start=False, max_iter=6)
    result = attack.solve(Problem(net), x.repeat_interleave(3, 0), y.repeat_interleave(3))
    alone = MinMax(0.2, Images(1), random_start=False, max_iter=6).solve(Problem(net), x, y)
    torch.testing.assert_close(result.delta, alone.delta, atol=1e-6, rtol=0)
    moved = (result.adv - x.repeat_interleave(3, 0)).unflatten(0, (4, 3))
    torch.testing.assert_close(moved[:, :1].expand_as(moved), moved, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
def test_within_what_every_image_leaves_nothing_is_clipped(norm):
    net, (x, y) = network(4), data(6)
    result = MinMax(0.4, Images(2, clip_each=False), norm=norm, max_iter=5).solve(
        Problem(net, clip_values=(0, 1)), x, y
    )
    torch.testing.assert_close(result.adv, x + result.delta.repeat_interleave(2, 0), atol=1e-6, rtol=0)
    assert ((result.adv >= 0) & (result.adv <= 1)).all()


def test_transformations_are_tried_in_the_loss():
    net, (x, y) = network(5), data()
    result = MinMax(0.2, Transformations([nn.Identity(), lambda v: v.flip(1)]), max_iter=10).solve(Problem(net), x, y)
    for k, moved in enumerate((result.adv, result.adv.flip(1))):
        assert torch.equal(net(moved).argmax(1) != y, result.fooled[:, k])


def test_arts_expectation_over_transformations_is_a_domain():
    from art.preprocessing.expectation_over_transformation import EoTBrightnessPyTorch

    eot = EoTBrightnessPyTorch(nb_samples=3, clip_values=(0.0, 1.0), delta=(0.0, 0.2))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = torch.rand(4, 1, 4, 4), torch.arange(4) % 3
    result = MinMax(0.3, Transformations(["identity", eot]), max_iter=5).solve(Problem(net, clip_values=(0, 1)), x, y)
    assert result.weights.shape == (6, 4, 2)
    assert result.names[1] == "EoTBrightnessPyTorch"


def test_several_losses_are_domains():
    net, (x, y) = network(6), data()
    result = MinMax(0.2, Losses([CrossEntropy(), DLR()]), max_iter=5).solve(Problem(net), x, y)
    assert torch.equal(result.fooled[:, 0], result.fooled[:, 1])
    assert not torch.equal(result.losses[..., 0], result.losses[..., 1])


@pytest.mark.parametrize("norm", [math.inf, 2, 1, 0])
def test_every_norm_fools_more_than_nothing_does(norm):
    net, (x, y) = network(7), data(40)
    y = net(x).argmax(1)
    eps = {math.inf: 0.3, 2: 0.6, 1: 1.0, 0: 2}[norm]
    result = MinMax(eps, Models([net]), norm=norm, max_iter=20).solve(Problem(net, clip_values=(0, 1)), x, y)
    assert result.success > 0.1
    assert (torch.linalg.vector_norm(result.delta, norm, dim=1) <= eps * (1 + 1e-5)).all()


def test_targets_are_reached_and_masks_kept():
    net, (x, y) = network(8), data(40)
    target = (net(x).argmax(1) + 1) % 3
    attack = MinMax(0.8, Models([net]), targeted=True, max_iter=30)
    result = attack.solve(Problem(net, clip_values=(0, 1)), x, target)
    assert torch.equal(net(result.adv).argmax(1) == target, result.fooled[:, 0])
    assert result.success > 0.3
    mask = torch.tensor([1.0, 0, 1, 0, 1, 0])
    masked = MinMax(0.8, Models([net]), max_iter=5).solve(Problem(net), x, y, mask=mask)
    assert (masked.delta[:, mask == 0] == 0).all()
    assert (masked.delta[:, mask == 1] != 0).any()


def test_all_or_none_gives_back_what_it_does_not_fool_everywhere():
    nets, (x, y) = [network(1), network(2)], data(30)
    problem = Problem(nets[0], clip_values=(0, 1))
    attack = MinMax(0.15, Models(nets), all_or_none=True, random_start=False)
    result = attack.solve(problem, x, y)
    every = result.fooled.all(dim=1)
    assert 0 < every.sum() < 30
    assert torch.equal(result.adv[~every], x[~every])


def test_the_best_iterate_is_kept():
    nets, (x, y) = [network(1), network(2)], data(30)
    result = MinMax(0.15, Models(nets), random_start=False).solve(Problem(nets[0]), x, y)
    worst = result.losses.amax(dim=2).amin(dim=0)
    with torch.no_grad():
        answers = [net(result.adv) for net in nets]
    margins = [z.gather(1, y[:, None])[:, 0] - z.scatter(1, y[:, None], -math.inf).amax(1) for z in answers]
    torch.testing.assert_close(torch.stack(margins, 1).amax(1), worst, atol=1e-5, rtol=0)


def test_the_laws_of_an_attack_are_kept_and_all_networks_stay_as_they_were():
    torch.manual_seed(0)
    other = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 10)).train()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    check_attack(MinMax(0.1, Models([other, other]), max_iter=3))
    check_attack(MinMax(0.1, Images(2), max_iter=3))
    check_attack(MinMax(0.1, ("identity", "flip_lr", "enlarged"), max_iter=3))
    assert all(module.training for module in other.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in other.parameters())


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Models([]), ValueError, "`networks` is empty"),
        (lambda: Models([3]), TypeError, "got int"),
        (lambda: Models([nn.Identity()], names=["a", "b"]), ValueError, "one for each of 1"),
        (
            lambda: Models([nn.Linear(1, 2), nn.Linear(1, 2, device="meta")]),
            ValueError,
            "on several devices, cpu, meta",
        ),
        (lambda: Transformations([]), ValueError, "`functions` is empty"),
        (lambda: Transformations(["rotated"]), ValueError, "no transformations rotated; known are identity"),
        (lambda: Transformations([3]), TypeError, "callable"),  # type: ignore[list-item]
        (lambda: Losses([]), ValueError, "`losses` is empty"),
        (lambda: Images(0), ValueError, "`size` must be an integer of at least 1"),
        (lambda: MinMax(0.1, 3), TypeError, "`domains` must be"),  # type: ignore[arg-type]
        (lambda: MinMax(0.1, Images(2), prior=(0.5, 0.6)), ValueError, "simplex"),
        (lambda: MinMax(0.1, Images(2), prior=(-0.5, 1.5)), ValueError, "simplex"),
        (lambda: MinMax(0.1, Images(2), prior=(1.0,)), ValueError, "each of 2 domains"),
        (lambda: MinMax(0.1, Images(2), gamma=-1), ValueError, "`gamma`.*0 is the plain worst case"),
        (lambda: MinMax(0.1, Images(2), gamma=math.nan), ValueError, "`gamma`"),
        (lambda: MinMax(0.1, Images(2), weight_step=0), ValueError, "`weight_step`"),
        (lambda: MinMax(0, Images(2), norm=3), ValueError, "`eps`.*`norm`"),
        (lambda: MinMax(0.5, Images(2), norm=0), ValueError, "counts entries"),
        (lambda: MinMax(0.1, Images(2), schedule="linear"), ValueError, "'cosine' or 'constant'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_meant_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_gamma_of_zero_is_allowed():
    assert MinMax(0.1, Images(2), gamma=0).gamma == 0


def test_transformations_that_cannot_be_attacked_are_named():
    def smaller(x):
        return x[..., 1:]

    def cut_off(x):
        return x.detach() * 2

    x, y = data(4)
    with pytest.raises(ValueError, match=r"smaller makes \(2, 5\) of \(2, 6\); cut_off passes no gradient"):
        MinMax(0.1, Transformations([nn.Identity(), smaller, cut_off]))(Problem(network(0)), x, y)
    MinMax(0.1, Transformations([nn.Identity()]), max_iter=1)(Problem(network(0)), x, y)


def test_groups_that_do_not_come_out_even_are_refused():
    x, y = data(7)
    with pytest.raises(ValueError, match="1 are left over"):
        MinMax(0.1, Images(3))(Problem(network(0)), x, y)


def test_networks_with_other_classes_are_refused():
    x, y = data(4, classes=2)
    with pytest.raises(ValueError, match=r"network 1: \(4, 3\), network 2: \(4, 2\)"):
        MinMax(0.1, Models([network(0), network(1, classes=2)]))(Problem(network(0)), x, y)


def test_gradients_that_are_not_finite_are_said():
    x, y = data(4)
    broken = network(0)
    broken[0].weight.data[0] = math.nan
    with pytest.raises(FloatingPointError, match="4 of 4"):
        MinMax(0.1, Models([broken]), max_iter=1)(Problem(broken), x, y)
    with pytest.raises(ValueError, match="floating-point batch"):
        MinMax(0.1, Models([broken]))(Problem(broken), x.long(), y)
    with pytest.raises(ValueError, match="norm 0 needs clip values"):
        MinMax(2, Models([network(0)]), norm=0)(Problem(network(0)), x, y)


def test_a_single_logit_is_refused():
    x, y = data(4, classes=2)
    with pytest.raises(ValueError, match="at least two classes"):
        MinMax(0.1, Models([nn.Linear(6, 1)]))(Problem(network(0)), x, y)
