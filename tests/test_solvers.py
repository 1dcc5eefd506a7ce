from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from art_atmc import (
    ADMM,
    Constraint,
    FixedSupport,
    ProjectedGradient,
    Quantization,
    Ramp,
    Sparsity,
    StraightThrough,
    Weights,
)


def parameters(*values):
    return Weights({"w": nn.Parameter(torch.tensor(values))})


def test_projected_gradient_finds_the_best_support_of_a_quadratic():
    """min ||w - a||^2 over two non-zero entries is the two largest of a."""
    target = torch.tensor([3.0, -0.5, 1.0, -2.0])
    weights = parameters(0.1, 0.1, 0.1, 0.1)
    optimizer = torch.optim.SGD(weights.values(), lr=0.3)
    solver = ProjectedGradient(weights, Sparsity(0.5), ramp=Ramp(0, 10))
    for _ in range(60):
        optimizer.zero_grad()
        (weights["w"] - target).square().sum().backward()
        optimizer.step()
        solver.step()
    assert weights["w"].tolist() == pytest.approx([3, 0, 0, -2], abs=1e-5)


def test_admm_finds_the_best_codebook_of_a_quadratic():
    """min ||w - a||^2 over two codes is the projection of a; the weights converge to the copy."""
    target = torch.tensor([1.0, 1.2, 4.0, 4.4])
    weights = parameters(1.0, 1.2, 4.0, 4.4)
    optimizer = torch.optim.SGD(weights.values(), lr=0.1)
    admm = ADMM(weights, Quantization(1), rho=2.0)
    for _ in range(300):
        optimizer.zero_grad()
        (0.5 * (weights["w"] - target).square().sum()).backward()
        admm.add_penalty_grad_()
        optimizer.step()
        admm.step()
    assert weights["w"].tolist() == pytest.approx([1.1, 1.1, 4.2, 4.2], abs=1e-3)
    assert admm.constraint.violation(weights) < 1e-5
    admm.finalize()
    assert admm.constraint.violation(weights) == 0


def test_penalty_gradient_is_that_of_the_penalty():
    weights = parameters(1.0, 1.5, 4.0, 4.6)
    admm = ADMM(weights, Quantization(1), rho=0.7)
    admm.step()
    with torch.no_grad():
        weights["w"].add_(torch.tensor([0.3, -0.2, 0.1, 0.4]))
    admm.step()
    admm.add_penalty_grad_()
    (expected,) = torch.autograd.grad(admm.penalty(), weights["w"])
    assert expected.abs().sum() > 0
    assert torch.allclose(weights["w"].grad, expected)
    admm.add_penalty_grad_()  # adds, does not replace
    assert torch.allclose(weights["w"].grad, 2 * expected)


def test_admm_update_equals_the_written_out_formula():
    weights = parameters(1.0, 1.5, 0.0, 4.6)
    constraint = Quantization(1)
    admm = ADMM(weights, constraint)
    admm.step()
    z, d = constraint.project(weights.detach())["w"], torch.zeros(4)
    for shift in ([0.2, -0.3, 0.0, 0.5], [0.1, 0.4, 0.0, -1.0]):
        with torch.no_grad():
            weights["w"].add_(torch.tensor(shift))
        admm.step()
        w = weights["w"].detach()
        z = constraint.project_near(Weights({"w": w + d}), Weights({"w": z}))["w"]
        d = d + w - z
        assert torch.allclose(admm.copy["w"], z)
        assert torch.allclose(admm.dual["w"], d)


def test_admm_leaves_the_zeros_of_another_constraint_alone():
    weights = parameters(1.0, 1.5, 4.0, 4.6)
    admm = ADMM(weights, Quantization(1))
    admm.step()
    with torch.no_grad():
        weights["w"].add_(torch.tensor([0.3, -0.2, 0.1, 0.4]))
    admm.step()
    with torch.no_grad():
        weights["w"][1] = 0.0
    admm.step()
    assert admm.dual["w"][2] != 0
    assert admm.copy["w"][1] == 0
    assert admm.dual["w"][1] == 0


def test_ramp_holds_back_and_tightens():
    weights = Weights({"w": nn.Parameter(torch.arange(1.0, 101.0))})
    solver = ProjectedGradient(weights, Sparsity(0.1), ramp=Ramp(2, 6))
    counts = []
    for _ in range(7):
        solver.step()
        counts.append(weights.nnz())
    cubic = [round(100 * (0.1 + 0.9 * (1 - p) ** 3)) for p in (0, 0.25, 0.5, 0.75, 1)]
    assert counts[:2] == [100, 100]
    assert counts[1:6] == pytest.approx(cubic, abs=1)
    assert counts[-1] == 10


def test_every_counts_optimizer_steps():
    weights = parameters(3.0, 1.0)
    solver = ProjectedGradient(weights, Sparsity(0.5), every=3)
    solver.step(), solver.step()
    assert weights.nnz() == 2
    solver.step()
    assert weights.nnz() == 1


def test_state_round_trip_continues_exactly():
    def fresh():
        weights = parameters(1.0, 1.5, 4.0, 4.6)
        return weights, ADMM(weights, Quantization(1), every=2, ramp=Ramp(1, 1))

    def advance(weights, admm, steps):
        for i in range(steps):
            with torch.no_grad():
                weights["w"].add_(0.1 * torch.tensor([1.0, -2.0, 3.0, -1.0]) * (i + 1))
            admm.step()

    weights, admm = fresh()
    advance(weights, admm, 5)
    state, held = copy.deepcopy(admm.state_dict()), weights.clone()
    advance(weights, admm, 4)
    others, resumed = fresh()
    others.assign_(held)
    resumed.load_state_dict(state)
    advance(others, resumed, 4)
    assert torch.equal(resumed.copy["w"], admm.copy["w"])
    assert torch.equal(resumed.dual["w"], admm.dual["w"])
    assert resumed.steps == admm.steps


def test_state_before_the_start_is_loadable():
    weights = parameters(1.0, 2.0, 3.0)
    late = ADMM(weights, Quantization(1), ramp=Ramp(10, 10))
    late.step()
    other = ADMM(weights, Quantization(1))
    other.load_state_dict(late.state_dict())
    assert other.copy is None
    assert other.steps == 1


def test_bad_settings_are_refused_and_good_ones_accepted():
    weights = parameters(1.0, 2.0)
    with pytest.raises(ValueError, match="`every` must be an integer of at least 1"):
        ProjectedGradient(weights, Sparsity(0.5), every=0)
    with pytest.raises(ValueError, match="`rho` must be positive"):
        ADMM(weights, Quantization(1), rho=0)
    with pytest.raises(ValueError, match="0 <= start <= end"):
        Ramp(5, 4)
    with pytest.raises(ValueError, match="keeps none"):
        ProjectedGradient(weights, Sparsity(0.1))
    assert ADMM(weights, Quantization(1), rho=0.01, every=1, ramp=Ramp(0, 0)).rho == 0.01


def test_a_step_that_ruins_a_weight_is_noticed():
    weights = parameters(1.0, 2.0)
    solver = ProjectedGradient(weights, Sparsity(0.5))
    with torch.no_grad():
        weights["w"][0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"\['w'\] infinite or NaN"):
        solver.step()


def test_a_fixed_support_is_that_of_the_projection_before_training():
    """min ||w - a||^2 on the entries that were largest at the start, whatever a says of the others."""
    target = torch.tensor([1.0, 9.0, -2.0, 9.0])
    weights = parameters(5.0, 1.0, -4.0, 2.0)
    optimizer = torch.optim.SGD(weights.values(), lr=0.3)
    solver = FixedSupport(weights, Sparsity(0.5), ramp=Ramp(0, 10))
    for _ in range(40):
        optimizer.zero_grad()
        (weights["w"] - target).square().sum().backward()
        optimizer.step()
        solver.step()
        assert weights["w"][[1, 3]].tolist() == [0, 0]
        assert not weights["w"].signbit()[[1, 3]].any()  # a file that is exact to the bit would keep negative zeros
    assert weights["w"].tolist() == pytest.approx([1, 0, -2, 0], abs=1e-5)
    assert solver.holds()


def test_a_fixed_support_refuses_a_codebook():
    with pytest.raises(TypeError, match="restricts values, not zeros"):
        FixedSupport(parameters(1.0, 2.0), Quantization(1))


def test_a_pruned_entry_comes_back_where_it_left():
    """Projection after each step would restart it from zero."""
    weights = parameters(3.0, 2.0)
    solver = StraightThrough(weights, Sparsity(0.5))
    solver.step()
    assert weights["w"].tolist() == [3, 0]
    solver.restore()
    with torch.no_grad():
        weights["w"].sub_(torch.tensor([1.5, 0.0]))  # what an optimizer may do
    solver.step()
    assert weights["w"].tolist() == [0, 2]
    assert solver.latent()["w"].tolist() == [1.5, 2]


@pytest.mark.parametrize("feedback", [0.0, 0.25, 1.0])
def test_a_pruned_entry_takes_a_share_of_its_step(feedback):
    weights = parameters(3.0, 2.0)
    solver = StraightThrough(weights, Sparsity(0.5), feedback=feedback)
    solver.step()
    solver.restore()
    with torch.no_grad():
        weights["w"].sub_(0.5)
    solver.step()
    assert solver.latent()["w"].tolist() == pytest.approx([2.5, 2 - 0.5 * feedback])


def test_an_entry_that_another_constraint_brings_back_gets_its_code_in_full():
    """To the codebook it was zero before, but it was not the codebook that pruned it."""
    weights = parameters(3.0, 2.0, 1.0)
    solver = StraightThrough(weights, Quantization(1), feedback=0.1)
    weights["w"].data[1] = 0.0
    solver.step()
    weights["w"].data[1] = 3.0
    solver.step()
    assert weights["w"].tolist() == [3, 3, 1]


@pytest.mark.parametrize("feedback", [-0.1, 1.1, float("nan")])
def test_feedback_out_of_range_is_refused(feedback):
    with pytest.raises(ValueError, match="`feedback` must be in"):
        StraightThrough(parameters(3.0, 2.0), Sparsity(0.5), feedback=feedback)


def test_small_steps_add_up_to_the_next_code():
    """Each of 30 steps is a tenth of what projection after each step throws back."""
    for kind, crosses in ((StraightThrough, True), (ProjectedGradient, False)):
        weights = parameters(*[1.0] * 9, *[4.0] * 8)
        solver = kind(weights, Quantization(1))
        for _ in range(30):
            solver.restore()
            with torch.no_grad():
                weights["w"][8] += 0.1
            solver.step()
        lower, moved, upper = weights["w"][7:10].tolist()
        assert moved == (upper if crosses else lower)


def test_straight_through_searches_near_its_last_point():
    @dataclasses.dataclass(frozen=True)
    class Warm(Constraint):
        def project(self, weights):
            return weights.map(torch.zeros_like)

        def project_near(self, weights, near):
            return near.map(lambda t: t + 1)

    weights = parameters(3.0)
    solver = StraightThrough(weights, Warm())
    values = []
    for _ in range(3):
        solver.step()
        values.append(weights["w"].item())
    assert values == [0, 1, 2]


def test_a_latent_weight_moves_with_what_a_trainer_does_between_steps():
    """Adversarial weight perturbation moves the weights for one gradient and moves them back after the step."""
    weights = parameters(3.0, 2.0)
    solver = StraightThrough(weights, Sparsity(0.5))
    solver.step()
    with torch.no_grad():
        weights["w"].add_(0.25)
    solver.restore()
    assert weights["w"].tolist() == [3.25, 2.25]


def test_straight_through_begins_with_its_ramp():
    weights = parameters(3.0, 2.0, 1.0, 0.5)
    solver = StraightThrough(weights, Sparsity(0.25), ramp=Ramp(2, 4))
    nonzero = []
    for _ in range(4):
        solver.restore()
        solver.step()
        nonzero.append(weights.nnz())
    assert nonzero == [4, 4, 1, 1]  # density 1 at the start, then 0.25 + 0.75 / 8 of four, then in full
    assert solver.latent()["w"].tolist() == [3, 2, 1, 0.5]


def test_residual_balancing_moves_rho_towards_equal_residuals():
    """By the explicit loop; rho times the dual stays, and without ``balance`` rho does."""
    generator = torch.Generator().manual_seed(0)
    w = torch.nn.Parameter(torch.randn(50, generator=generator))
    weights = Weights({"w": w})
    admm, plain = ADMM(weights, Quantization(1), rho=1e-4, balance=2.0), ADMM(weights, Quantization(1), rho=1e-4)
    z = d = None
    rho = 1e-4
    for step in range(20):
        with torch.no_grad():
            w.add_(0.05 * torch.randn(50, generator=generator))
        admm.step(), plain.step()
        if step == 0:
            z, d = admm.copy["w"], torch.zeros(50)
            continue
        before, z = z, admm.copy["w"]
        d = w.detach() + d - z
        primal, dual = float((w.detach() - z).norm()), rho * float((z - before).norm())
        assert admm.residuals == pytest.approx((primal, dual), rel=1e-4)
        factor = 2 if primal > 2 * dual else 0.5 if dual > 2 * primal else 1
        rho, d = rho * factor, d / factor
        assert admm.rho == pytest.approx(rho)
        assert torch.allclose(admm.dual["w"], d, atol=1e-5)
    assert admm.rho > 1e-2 > plain.rho == 1e-4
    again = ADMM(weights, Quantization(1), balance=2.0)
    again.load_state_dict(admm.state_dict())
    assert again.rho == admm.rho
    with pytest.raises(ValueError, match="`balance`"):
        ADMM(weights, Quantization(1), balance=1.0)
