"""The loop written out once, and the ways in which enforcement can be missed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from art_atmc import (
    ADMM,
    ProjectedGradient,
    Quantization,
    Ramp,
    Solver,
    Sparsity,
    StraightThrough,
    compressible,
    decompose,
    enforced,
)
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


def straight_through(weights):
    return [
        StraightThrough(weights, Sparsity(0.4), feedback=0.5, ramp=Ramp(5, 15)),
        StraightThrough(weights, Quantization(1), ramp=Ramp(10, 10)),
    ]


def train(model, x, y, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()


def test_straight_through_equals_the_explicit_loop():
    """Latent weights, projected for each gradient, against the hooks; momentum and weight decay act on the latent."""
    model, x, y = problem()
    weights = compressible(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    solvers = straight_through(weights)
    with enforced(optimizer, solvers):
        train(model, x, y, optimizer, 40)

    oracle, x, y = problem()
    theta = compressible(oracle)
    latent, momentum = theta.clone(), theta.map(torch.zeros_like).detach()
    support = near = None
    biases = [p for name, p in oracle.named_parameters() if name.endswith("bias")]
    sgd = torch.optim.SGD(biases, lr=0.1, momentum=0.9, weight_decay=1e-3)
    for t in range(1, 41):
        sgd.zero_grad()
        loss_of(oracle, x, y).backward()
        sgd.step()
        for name, w in theta.items():
            momentum[name].mul_(0.9).add_(w.grad + 1e-3 * latent[name])
            share = 1 if support is None else torch.where(support[name] == 0, 0.5, 1)
            latent[name].sub_(0.1 * share * momentum[name])
            w.grad = None
        projected = latent
        if t >= 5:
            projected = support = Sparsity(0.4).relaxed(min(1, (t - 5) / 10)).project(projected)
        if t >= 10:
            projected = near = (
                Quantization(1).project(projected) if near is None else Quantization(1).project_near(projected, near)
            )
        theta.assign_(projected)
    for name, w in weights.items():
        assert torch.equal(w == 0, theta[name] == 0)
        assert torch.allclose(w, theta[name], rtol=1e-9)
        assert (w == 0).sum() > w.numel() / 3


def test_what_was_projected_last_is_restored_first():
    model, x, y = problem()
    order = []

    class Notes(Solver):
        def restore(self):
            order.append(("restore", self.constraint.density))  # type: ignore[attr-defined]

        def enforce(self, constraint):
            order.append(("enforce", self.constraint.density))  # type: ignore[attr-defined]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with enforced(optimizer, [Notes(compressible(model), Sparsity(density)) for density in (0.75, 0.25)]):
        train(model, x, y, optimizer, 1)
    assert order == [("restore", 0.25), ("restore", 0.75), ("enforce", 0.75), ("enforce", 0.25)]


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_the_network_is_feasible_whenever_it_computes(kind, factored):
    model, x, y = problem()
    if factored:
        decompose(model)
    weights = compressible(model)
    optimizer = kind(model.parameters(), lr=0.01)
    solvers = straight_through(weights)
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append([s.constraint.violation(weights) for s in solvers]))
    with enforced(optimizer, solvers):
        train(model, x, y, optimizer, 30)
    assert all(violations == [0, 0] for violations in seen[16:])
    assert seen[3][0] > 0  # before its ramp it does nothing


def test_straight_through_resumes_from_a_checkpoint_to_the_same_bits(tmp_path):
    def fresh():
        model, x, y = problem()
        decompose(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, x, y, optimizer, straight_through(compressible(model))

    model, x, y, optimizer, solvers = fresh()
    hooked = enforced(optimizer, solvers)
    hooked.__enter__()
    train(model, x, y, optimizer, 12)
    torch.save([part.state_dict() for part in (model, optimizer, *solvers)], tmp_path / "checkpoint.pt")
    train(model, x, y, optimizer, 12)
    hooked.__exit__(None, None, None)

    resumed, x, y, optimizer, solvers = fresh()
    for part, state in zip(
        (resumed, optimizer, *solvers), torch.load(tmp_path / "checkpoint.pt", weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    with enforced(optimizer, solvers):
        train(resumed, x, y, optimizer, 12)
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


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


@pytest.mark.parametrize("kind", [ProjectedGradient, StraightThrough])
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_a_gradient_scaler_skips_is_not_counted(fused, kind):
    model, x, y = problem()
    model.float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    solver = kind(weights := compressible(model), Sparsity(0.5))
    with enforced(optimizer, [solver]):
        for number in range(3):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, x.float(), y)).backward()
            if number == 1:
                model[0].weight.grad[0, 0] = torch.inf
            before = weights.clone()
            scaler.step(optimizer)
            scaler.update()
            assert solver.steps == (1, 1, 2)[number]
            moved = [not torch.equal(w, before[name]) for name, w in weights.items()]
            assert all(moved) if number != 1 else not any(moved)
            assert solver.constraint.violation(weights) == 0
