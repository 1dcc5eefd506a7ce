"""The loop written out once, and the ways in which enforcement can be missed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from art_atmc import ADMM, ProjectedGradient, Quantization, Ramp, Sparsity, compressible, decompose, enforced
from art_atmc.compression.enforcement import finalize, projected


def problem(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    return model, torch.randn(40, 6, dtype=torch.float64), torch.randint(0, 3, (40,))


def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


def test_enforced_training_equals_the_explicit_loop():
    """Algorithm 1 of the paper, line by line, against the hooks: same support, same weights."""
    sparsity, quantization, rho, every, enters = Sparsity(0.4), Quantization(1), 0.2, 3, 10

    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    weights = compressible(model)
    solvers = [
        ProjectedGradient(weights, sparsity),
        ADMM(weights, quantization, rho=rho, every=every, ramp=Ramp(enters, enters)),
    ]
    with enforced(optimizer, solvers):
        for _ in range(40):
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()

    oracle, x, y = problem()
    sgd = torch.optim.SGD(oracle.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    theta = compressible(oracle)
    copy = dual = None
    for t in range(1, 41):
        sgd.zero_grad()
        loss_of(oracle, x, y).backward()
        if copy is not None:
            for name, w in theta.items():
                w.grad += rho * (w.detach() - copy[name] + dual[name])
        sgd.step()
        theta.assign_(sparsity.project(theta.detach()))
        if t % every == 0 and t >= enters:
            now = {name: w.detach().clone() for name, w in theta.items()}
            if copy is None:
                copy = quantization.project(theta.detach())
                dual = {name: torch.zeros_like(w) for name, w in now.items()}
            else:
                shifted = theta.like({n: torch.where(w == 0, torch.zeros_like(w), w + dual[n]) for n, w in now.items()})
                copy = quantization.project_near(shifted, copy)
                dual = {n: shifted[n] - copy[n] for n in now}
    theta.assign_(quantization.project(sparsity.project(theta.detach())))

    for name, w in weights.items():
        assert torch.equal(w == 0, theta[name] == 0)
        assert torch.allclose(w, theta[name], rtol=1e-12)
    assert sparsity.violation(weights) == quantization.violation(weights) == 0


def test_both_constraints_hold_for_factors_at_the_end():
    model, x, y = problem()
    decompose(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    weights = compressible(model)
    solvers = [ADMM(weights, Quantization(2)), ProjectedGradient(weights, Sparsity(0.3))]  # in the other order
    with enforced(optimizer, solvers):
        for _ in range(15):
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()
    assert weights.nnz() <= Sparsity(0.3).budget(weights)
    assert all(w[w != 0].unique().numel() <= 4 for w in weights.values())


def test_hooks_are_gone_after_the_block_and_after_an_error():
    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyError), enforced(optimizer, [ProjectedGradient(compressible(model), Sparsity(0.1))]):
        raise KeyError
    loss_of(model, x, y).backward()
    optimizer.step()
    assert compressible(model).nnz() == compressible(model).dense_size


def test_closure_is_refused_before_the_step():
    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = compressible(model).clone()

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        return loss

    for step in (lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure)):
        with pytest.raises(RuntimeError, match="without a closure"):  # noqa: SIM117
            with enforced(optimizer, [ProjectedGradient(compressible(model), Sparsity(0.5))]):
                step()
    assert torch.equal(compressible(model)["0.weight"], before["0.weight"])


def test_an_optimizer_built_before_decomposition_is_refused():
    model, _, _ = problem()
    stale = torch.optim.SGD(model.parameters(), lr=0.1)
    decompose(model)
    solver = ProjectedGradient(compressible(model), Sparsity(0.5))
    with pytest.raises(ValueError, match="built before the model was decomposed"), enforced(stale, [solver]):
        pass
    with pytest.raises(RuntimeError, match="no step"), enforced(torch.optim.SGD(model.parameters()), [solver]):
        pass  # a fresh one is accepted: only the missing step is complained of


def test_projected_shows_what_would_be_shipped_and_puts_back():
    model, _, _ = problem()
    weights = compressible(model)
    before = weights.clone()
    solvers = [ProjectedGradient(weights, Sparsity(0.2)), ADMM(weights, Quantization(1))]
    with projected(solvers) as figures:
        assert weights.nnz() == Sparsity(0.2).budget(weights)
        gap = sum((w.detach() - before[n]).square().sum() for n, w in weights.items())
        assert figures["violation"] == pytest.approx(float(gap / sum(b.square().sum() for b in before.values())))
    assert all(torch.equal(w, before[n]) for n, w in weights.items())


def test_constraints_that_never_agree_are_named():
    from dataclasses import dataclass

    from art_atmc import Constraint

    @dataclass(frozen=True)
    class AllEqual(Constraint):
        value: float

        def project(self, weights):
            return weights.map(lambda t: torch.full_like(t, self.value))

    model, _, _ = problem()
    weights = compressible(model)
    solvers = [ProjectedGradient(weights, AllEqual(1.0)), ProjectedGradient(weights, AllEqual(2.0))]
    with pytest.raises(RuntimeError, match=r"AllEqual\(value=1.0\)"):
        finalize(solvers)
    finalize(solvers[:1])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("fused", [True, False])
def test_a_gradient_scaler_leaves_the_penalty_as_it_is(kind, fused):
    """A fused optimizer divides by the scale in its own step, after the penalty was added."""

    def trained(scale):
        model, x, y = problem()
        model.float()
        optimizer = kind(model.parameters(), lr=0.05, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        weights = compressible(model)
        with enforced(optimizer, [ADMM(weights, Quantization(1), rho=0.5)]):
            for _ in range(6):
                optimizer.zero_grad()
                scaler.scale(loss_of(model, x.float(), y)).backward()
                scaler.step(optimizer)
                scaler.update()
        return [p.detach().clone() for p in model.parameters()]

    for scaled, plain in zip(trained(1024.0), trained(None), strict=True):
        assert torch.allclose(scaled, plain, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_a_gradient_scaler_skips_is_not_counted(fused):
    model, x, y = problem()
    model.float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    solver = ProjectedGradient(compressible(model), Sparsity(0.5))
    with enforced(optimizer, [solver]):
        for number in range(3):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, x.float(), y)).backward()
            if number == 0:
                model[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            assert solver.steps == number
