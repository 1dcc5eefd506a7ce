"""Every self-check against a defence that is broken on purpose, which it catches, and honest ones, which pass."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_atmc import PGD, Problem
from art_atmc.evaluation import APGD, DLR, Access, Attack, AttackResult, Severity, Square, StraightThrough
from art_atmc.evaluation.checks import self_checks
from art_atmc.evaluation.checks.answers import ALONE, QUESTIONS
from art_atmc.evaluation.checks.bench import STEPS, log_odds, severity, surplus

PASSED, WARNING, FAILED = Severity.PASSED, Severity.WARNING, Severity.FAILED
EPS = 0.12
N = 64


class Broken(nn.Module):
    """A defence around an honest network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class RoundedInputs(Broken):
    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 16).round() / 16)


class Detached(Broken):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.detach())


class Saturated(Broken):
    def forward(self, x: Tensor) -> Tensor:
        return 1000 * self.network(x)


class NotFinite(Broken):
    """The derivative of sqrt at 0 is infinite, times 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + (0 * x).sqrt())


class Noisy(Broken):
    def __init__(self, network: nn.Module, scale: float = 0.05) -> None:
        super().__init__(network)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + self.scale * torch.randn_like(x))


class Sometimes(Broken):
    """Answers otherwise every third time, a little."""

    asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return self.network(x) * (1 + 2e-4 * (self.asked % 3 == 0))


class Reversed(Broken):
    """Gradients point away from the danger."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return 2 * logits.detach() - logits


class Guarded(Broken):
    """A defence that knows the examples and is laid around each of them."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__(network)
        self.x = x


class Retreating(Guarded):
    """Gradients are true near an example; farther out they point back to it, where many small steps stay."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        if len(x) != len(self.x):
            return logits
        far = (x - self.x).abs().flatten(1).mean(dim=1, keepdim=True) > 0.55 * EPS
        return torch.where(far, 2 * logits.detach() - logits, logits)


class Wall(Guarded):
    """Nothing beyond the ball is looked at."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.clamp(self.x - EPS, self.x + EPS) if len(x) == len(self.x) else x)


class Misleading(Broken):
    """Gradients of no use: those of another network of the same outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return StraightThrough(self.network, self.other)(x)


def trained(digits, model: nn.Module, eps: float) -> nn.Module:
    """In double precision, so that the network is the same on every processor: what is asked of it is at the edge."""
    x, y = (torch.from_numpy(part) for part in digits)
    x, model = x.double(), model.double()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(100):
        rows = torch.arange(128) + 128 * (step % 8)
        adv = PGD(eps, eps / 2, 3)(Problem(model, clip_values=(0, 1)), x[rows], y[rows]) if eps else x[rows]
        optimizer.zero_grad()
        F.cross_entropy(model(adv), y[rows]).backward()
        optimizer.step()
    return model.float().eval()


@pytest.fixture(scope="module")
def robust(digits):
    """A network trained against PGD."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
    return trained(digits, model, EPS)


@pytest.fixture(scope="module")
def linear(digits):
    torch.manual_seed(0)
    return trained(digits, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0)


@pytest.fixture(scope="module")
def examples(digits):
    x, y = (torch.from_numpy(part[1100 : 1100 + N]) for part in digits)
    return x, y


def suite(eps: float = EPS, norm: float = math.inf) -> tuple[Attack, ...]:
    return (
        Attack("PGD", PGD(eps, eps / 4, 10, norm) if norm != 1 else APGD(eps, 1, 20)),
        Attack("Square", Square(eps, norm, 100), Access.OUTPUTS),
    )


def outcome(name, correct, access=Access.GRADIENTS, bounded=True) -> AttackResult:
    return AttackResult(name, access, bounded, 1, {}, np.asarray(correct, dtype=bool), 0, 0.0)


def correct(network, x, y) -> np.ndarray:
    with torch.no_grad():
        return (network(x).argmax(1) == y).numpy()


def run(network, examples, *, attacks=None, results=None, norm=math.inf, eps=EPS, clip_values=(0, 1), **options):
    """The checks after a suite was run, by the name of each."""
    x, y = examples
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    clean = correct(network, x, y)
    if results is None:
        results = []
        for attack in suite(eps, norm) if attacks is None else attacks:
            points = attack.method(Problem(network, clip_values=clip_values, generator=generator), x, y)
            results.append(outcome(attack.name, clean & correct(network, points, y), attack.access))
    findings = self_checks(
        network, x, y, eps=eps, norm=norm, clip_values=clip_values, clean=clean, attacks=results,
        **({"twin": None, "generator": generator} | options),
    )  # fmt: skip
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def severities(findings) -> dict[str, Severity]:
    return {name: finding.severity for name, finding in findings.items()}


def doubted(findings) -> set[str]:
    return {name for name, severity in severities(findings).items() if severity is not PASSED}


CHECKS = (
    "dead network", "gradients", "black box", "robust above clean", "weak suite", "steps", "huge eps", "randomness",
    "batch",
)  # fmt: skip


@pytest.mark.parametrize("clip_values", [(0, 1), None])
@pytest.mark.parametrize(("norm", "eps"), [(math.inf, EPS), (2, 0.8), (1, 3.0)])
def test_a_robust_network_passes(robust, examples, norm, eps, clip_values):
    findings = run(robust, examples, norm=norm, eps=eps, clip_values=clip_values, twin=robust)
    assert set(findings) == {*CHECKS, "twin"}
    # One example more or less is at the edge of a warning that ten steps of PGD may miss.
    assert doubted(findings) <= {"weak suite"}, findings
    assert FAILED not in severities(findings).values()


@pytest.mark.parametrize(("norm", "eps"), [(math.inf, EPS), (math.inf, 0.01), (math.inf, 0.5), (1, 3.0)])
def test_a_linear_network_passes(linear, examples, norm, eps):
    findings = run(linear, examples, norm=norm, eps=eps)
    assert severities(findings) == dict.fromkeys(CHECKS, PASSED), findings


@pytest.mark.parametrize("norm", [math.inf, 1])
def test_examples_that_are_wrong_anyway_need_no_higher_loss(linear, examples, norm):
    x, y = examples
    y = torch.where(torch.arange(N) < 40, (y + 1) % 10, y)
    findings = run(linear, (x, y), norm=norm, eps=EPS if norm == math.inf else 3.0)
    assert findings["steps"].severity is PASSED, findings["steps"]


@pytest.mark.parametrize(
    ("defence", "caught", "perhaps"),
    [
        (RoundedInputs, {"gradients", "black box", "steps", "huge eps"}, {"robust above clean"}),
        (Saturated, {"gradients", "black box", "steps", "huge eps"}, {"robust above clean"}),
        (Reversed, {"black box", "robust above clean", "steps", "huge eps"}, set()),
        (Misleading, {"black box", "steps"}, {"huge eps", "robust above clean"}),
        (Noisy, {"randomness"}, {"weak suite"}),  # each further attempt meets other noise
    ],
)
def test_a_broken_defence_is_caught(robust, examples, defence, caught, perhaps):
    """``perhaps`` hangs on single examples, and so on the processor."""
    findings = run(defence(robust), examples)
    assert caught <= doubted(findings) <= caught | perhaps, findings
    assert FAILED in severities(findings).values()


@pytest.mark.parametrize(
    ("defence", "caught", "perhaps"),
    [(Retreating, {"steps", "huge eps"}, {"black box"}), (Wall, {"huge eps", "batch"}, set())],
)
def test_a_defence_around_the_examples_is_caught(robust, examples, defence, caught, perhaps):
    findings = run(defence(robust, examples[0]), examples)
    failed = {name for name, severity in severities(findings).items() if severity is FAILED}
    assert caught <= failed <= caught | perhaps, findings


@pytest.mark.parametrize(("defence", "word"), [(Detached, "passes no gradient"), (NotFinite, "not finite")])
def test_gradients_that_are_missing_or_not_finite_are_caught_without_an_error(robust, examples, defence, word):
    findings = run(defence(robust), examples, attacks=suite()[1:])
    assert word in findings["gradients"].sentence
    assert {name for name, s in severities(findings).items() if s is FAILED} == {"gradients", "steps", "huge eps"}


@pytest.mark.parametrize("defence", [RoundedInputs, Detached])
def test_the_remedy_for_hidden_gradients_is_a_twin(robust, examples, defence):
    network = defence(robust)
    assert "give a differentiable `twin`" in run(network, examples, attacks=suite()[1:])["gradients"].sentence
    given = run(network, examples, attacks=suite()[1:], twin=robust)
    assert "give a differentiable `twin`" not in given["gradients"].sentence
    assert given["twin"].severity is FAILED
    cured = run(StraightThrough(network, robust), examples, twin=robust)
    assert set(severities(cured).values()) == {PASSED}, cured


def test_zero_gradients_on_misclassified_examples_are_no_matter(robust, examples):
    """A masked gradient makes an accuracy too high, which nothing can be that is 0."""
    fooled = outcome("PGD", np.zeros(N))
    findings = run(RoundedInputs(robust), examples, results=[fooled, outcome("Square", np.zeros(N), Access.OUTPUTS)])
    assert findings["gradients"].severity is PASSED
    assert "64 of 64" in findings["gradients"].sentence
    unbounded = outcome("WRM", np.zeros(N), bounded=False)
    assert run(RoundedInputs(robust), examples, results=[unbounded])["gradients"].severity is FAILED


def test_saturation_is_doubtful_after_attacks_on_logits_and_fails_without(robust, examples):
    network = Saturated(robust)
    cross_entropy = Attack("PGD", PGD(EPS, EPS / 4, 10))
    assert run(network, examples, attacks=[cross_entropy])["gradients"].severity is FAILED
    ratio = Attack("APGD-DLR", APGD(EPS, max_iter=50, objective=DLR()))
    finding = run(network, examples, attacks=[cross_entropy, ratio])["gradients"]
    assert finding.severity is WARNING
    assert "saturated" in finding.sentence


@pytest.mark.parametrize(("fooled", "verdict"), [(0, PASSED), (2, PASSED), (3, WARNING), (4, WARNING), (5, FAILED)])
@pytest.mark.parametrize("access", [Access.OUTPUTS, Access.TRANSFER])
def test_examples_that_only_a_black_box_fools_are_counted(linear, examples, fooled, verdict, access):
    clean = correct(linear, *examples)
    stronger = clean.copy()
    stronger[np.flatnonzero(clean)[:fooled]] = False
    weaker = clean.copy()
    weaker[np.flatnonzero(clean)[-10:]] = False  # misclassified under gradients alone, which outweighs nothing
    nothing = outcome("no help", clean, access)
    findings = run(linear, examples, results=[outcome("PGD", weaker), outcome("black", stronger, access), nothing])
    assert findings["black box"].severity is verdict
    assert f"{fooled} of {N}" in findings["black box"].sentence
    assert "no help" not in findings["black box"].sentence or fooled == 0
    both = [outcome("PGD", weaker & stronger), outcome("black", stronger, access)]
    assert run(linear, examples, results=both)["black box"].severity is PASSED


def test_a_black_box_that_is_not_bounded_does_not_count(linear, examples):
    far = outcome("far", np.zeros(N), Access.OUTPUTS, bounded=False)
    near = outcome("near", np.ones(N), Access.OUTPUTS)
    findings = run(linear, examples, results=[outcome("PGD", np.ones(N)), near, far])
    assert findings["black box"].severity is PASSED


@pytest.mark.parametrize("access", list(Access))
def test_nothing_to_compare_a_black_box_with_is_doubtful(linear, examples, access):
    findings = run(linear, examples, results=[outcome("alone", np.zeros(N), access)])
    assert findings["black box"].severity is WARNING
    assert ("`dense`" in findings["black box"].sentence) == (access is Access.GRADIENTS)


@pytest.mark.parametrize(("more", "verdict"), [(-1, PASSED), (0, PASSED), (1, WARNING), (4, WARNING), (5, FAILED)])
def test_an_attack_of_the_suite_that_helps_is_caught(linear, digits, more, verdict):
    x, y = (torch.from_numpy(part[1100 : 1100 + N]) for part in digits)
    with torch.no_grad():
        y = linear(x).argmax(1)
    y[:10] = (y[:10] + 1) % 10  # 54 are correct
    attack = outcome("odd", np.arange(N) < 54 + more)
    finding = run(linear, (x, y), results=[attack])["robust above clean"]
    assert finding.severity is verdict
    assert f"odd leaves {(54 + more) / N:.1%} correct, no attack 84.4%" in finding.sentence


def test_a_little_randomness_is_doubtful(robust, examples):
    findings = run(Sometimes(robust), examples)
    assert {name for name, severity in severities(findings).items() if severity is not PASSED} == {"randomness"}
    assert findings["randomness"].severity is WARNING


def test_a_twin_that_computes_something_else_is_caught(robust, examples):
    finding = run(robust, examples, twin=Misleading(robust).other)["twin"]
    assert finding.severity is WARNING
    assert "give a twin" in finding.sentence
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 9))
    assert "shape (64, 9)" in run(robust, examples, twin=other)["twin"].sentence
    blind = run(robust, examples, twin=Detached(robust))["twin"]
    assert blind.severity is FAILED
    assert "missing" in blind.sentence


def test_a_gradient_that_only_the_twin_follows_is_caught(robust, examples):
    """Hidden gradients that no other figure of the suite gives away."""
    finding = run(RoundedInputs(robust), examples, twin=robust)["twin"]
    assert finding.severity is FAILED
    assert "StraightThrough" in finding.sentence


# Suites that are too weak


def test_what_the_checks_fool_and_the_suite_does_not_is_counted(robust, examples):
    """With random points in place of an attack nearly all withstand; PGD of a few steps says otherwise."""
    noise = Attack("noise", PGD(EPS, 1e-6, 1))
    finding = run(robust, examples, attacks=(noise,), eps=EPS)["weak suite"]
    assert finding.severity is FAILED
    assert "give the suite PGD of more steps" in finding.sentence
    strong = run(robust, examples)["weak suite"]
    assert strong.severity is PASSED


@pytest.mark.parametrize(("spared", "verdict"), [(0, PASSED), (2, PASSED), (3, WARNING), (4, WARNING), (5, FAILED)])
def test_weakness_of_a_suite_is_that_of_the_examples_it_spares(linear, examples, spared, verdict):
    """An oracle: the examples that the PGD of the checks fools, of which the suite spared some."""
    x, y = examples
    clean = correct(linear, x, y)
    generator = torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**31, (), generator=generator))
    fooled = np.zeros(N, dtype=bool)
    for steps in STEPS:
        problem = Problem(linear, clip_values=(0, 1), generator=torch.Generator().manual_seed(seed))
        fooled |= ~correct(linear, PGD(EPS, 2.5 * EPS / steps, steps)(problem, x, y), y)
    stood = clean & ~fooled
    stood[np.flatnonzero(clean & fooled)[:spared]] = True
    assert fooled.sum() > 5
    finding = run(linear, examples, results=[outcome("PGD", stood)])["weak suite"]
    assert finding.severity is verdict
    assert finding.sentence.startswith(f"{spared} of {N} examples")
    if verdict is not PASSED:
        assert f"leaves {(clean & ~fooled).mean():.1%} robust at most" in finding.sentence


# Networks that are no function of one input


class BatchMean(Broken):
    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return logits - logits.mean(dim=0)


class BatchMeanBesideAnImpossibleClass(Broken):
    """One logit so low that all others differ by little, relative to it."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)[:, :9]
        return F.pad(logits - logits.mean(dim=0), (0, 1), value=-1e5)


class SeededNoise(Broken):
    """The same noise at each call: by place in the batch, so that asking again gives nothing away."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.empty_like(x).normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        return self.network(x + noise)


class FirstDecides(Broken):
    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return logits + 0.3 * logits[:1]


@pytest.mark.parametrize("defence", [BatchMean, BatchMeanBesideAnImpossibleClass, SeededNoise, FirstDecides])
def test_answers_that_depend_on_the_batch_are_caught(robust, examples, defence):
    findings = run(defence(robust), examples)
    assert findings["randomness"].severity is PASSED
    assert findings["batch"].severity is FAILED, findings["batch"]
    assert "depends on the batch" in findings["batch"].sentence


class NoSingles(Broken):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1 and not torch.is_grad_enabled():
            raise RuntimeError("a batch of one")
        return self.network(x)


def test_networks_that_take_no_single_example_are_named(robust, examples):
    finding = run(NoSingles(robust), examples)["batch"]
    assert finding.severity is WARNING
    assert "a batch of one" in finding.sentence


def test_rounding_of_other_batch_sizes_is_no_dependence(robust, examples):
    class Rounding(Broken):
        def forward(self, x: Tensor) -> Tensor:
            return self.network(x) * (1 + 1e-4 * (len(x) == 1))

    assert run(Rounding(robust), examples)["batch"].severity is PASSED


@pytest.mark.parametrize("layers", [["0"], ["4"], ["0", "4"]])
def test_dead_networks_are_named_with_their_empty_layers(robust, examples, layers):
    """In place of a word about gradients, which are zero because nothing depends on the input."""
    network = copy.deepcopy(robust)
    with torch.no_grad():
        for layer in layers:
            network[int(layer)].weight.zero_()
    findings = run(network, examples)
    assert list(findings) == ["dead network"]
    finding = findings["dead network"]
    assert finding.severity is FAILED
    assert f"layers without a weight: {', '.join(layers)}; raise the density" in finding.sentence
    with torch.no_grad():
        assert f"class {int(network(examples[0][:1]).argmax())}," in finding.sentence


def test_dead_networks_without_an_empty_layer_and_of_one_output_are_found(robust, examples):
    network = copy.deepcopy(robust)
    with torch.no_grad():
        network[0].bias.fill_(-1e6)
    assert "units that never fire" in run(network, examples)["dead network"].sentence
    single = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    nn.init.zeros_(single[1].weight)  # type: ignore[arg-type]
    nn.init.ones_(single[1].bias)  # type: ignore[arg-type]
    y = (examples[1] > 4).long()
    clean = (y == 1).numpy()
    findings = self_checks(
        single, examples[0], y, eps=EPS, norm=math.inf, clip_values=(0, 1), clean=clean, attacks=(), twin=None,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert [finding.check for finding in findings] == ["dead network"]
    assert "class 1" in findings[0].sentence


def test_network_with_one_answer_that_is_not_dead_is_doubtful(robust, examples):
    network = copy.deepcopy(robust)
    with torch.no_grad():
        network[4].bias[3] += 1e3
    finding = run(network, examples)["dead network"]
    assert finding.severity is WARNING
    assert "all 64 examples are classified as 3" in finding.sentence
    x, y = examples
    threes = x[y == 3], y[y == 3]
    assert run(network, threes)["dead network"].severity is PASSED  # they may be threes


def test_large_logits_that_all_classes_share_do_not_make_a_network_dead(robust, examples):
    class Lifted(Broken):
        def forward(self, x: Tensor) -> Tensor:
            return self.network(x) + 1e6

    assert run(Lifted(robust), examples)["dead network"].severity is PASSED


def test_single_examples_and_equal_ones_do_not_make_a_network_dead(robust, examples):
    x, y = examples
    assert run(robust, (x[:1], y[:1]))["dead network"].severity is PASSED
    assert run(robust, (x[:1].repeat(8, 1, 1, 1), y[:1].repeat(8)))["dead network"].severity is PASSED


def test_an_empty_layer_beside_others_is_mentioned_and_no_fault(robust, examples):
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.branch = robust, nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
            nn.init.zeros_(self.branch[1].weight)  # type: ignore[arg-type]

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + self.branch(x)

    finding = run(Residual(), examples)["dead network"]
    assert finding.severity is PASSED
    assert "layers without a weight: branch.1" in finding.sentence


class Counting(Broken):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.gradients = self.answers = 0

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.gradients += len(x)
        else:
            self.answers += len(x)
        return self.network(x)


def test_the_checks_cost_no_more_than_they_say(robust, digits):
    x, y = (torch.from_numpy(part[:300]) for part in digits)
    counted, results = Counting(robust), [outcome("PGD", np.ones(300))]
    run(counted, (x, y), results=results, limit=N)
    assert counted.gradients / N <= sum(STEPS) + 13
    assert (counted.answers - 300) / N <= len(STEPS) + QUESTIONS + 2 + 2 * ALONE / N
    network, twin = Counting(robust), Counting(robust)
    run(network, (x, y), results=results, limit=N, twin=twin)
    assert twin.gradients / N <= STEPS[-1] + 1


def test_the_network_and_the_examples_come_back_as_they_were(robust, examples):
    x = examples[0]
    network = nn.Sequential(copy.deepcopy(robust), nn.Dropout(0.5))
    network.training = True
    network.zero_grad()
    before = x.clone(), copy.deepcopy(network.state_dict())
    findings = run(network, examples, results=[], twin=network)
    assert findings["randomness"].severity is PASSED  # it was asked in evaluation mode
    assert all(module.training for module in (network, network[1]))
    assert not network[0].training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert torch.equal(x, before[0])
    assert not x.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), before[1].values(), strict=True))


def test_the_same_generator_gives_the_same_findings(robust, examples):
    assert run(robust, examples) == run(robust, examples)


def test_log_odds_are_those_of_the_cross_entropy_and_do_not_saturate():
    logits, y = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 5
    odds = log_odds(logits, y)
    loss = F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(odds, torch.log(torch.expm1(loss)))
    high = torch.tensor([[500.0, 0.0]])
    assert F.cross_entropy(high, torch.tensor([0])) == 0
    assert log_odds(high, torch.tensor([0])) == -500


@pytest.mark.parametrize(("n", "doubtful", "unbelievable"), [(64, 3, 5), (256, 6, 14)])
def test_the_thresholds_are_those_of_the_documentation(n, doubtful, unbelievable):
    verdicts = [severity(count, n) for count in range(-1, n + 1)]
    assert verdicts.count(PASSED) == doubtful + 1
    assert verdicts[doubtful + 1] is WARNING
    assert verdicts.index(FAILED) == unbelievable + 1


@pytest.mark.parametrize(
    ("gained", "lost", "expected"), [(0, 0, 0), (3, 0, 0), (4, 0, 4), (0, 9, 0), (9, 5, 0), (20, 6, 14), (6, 20, 0)]
)
def test_a_surplus_is_that_of_the_examples_that_differ_beyond_chance(gained, lost, expected):
    more = torch.tensor([True] * gained + [False] * lost + [True] * 30)
    fewer = torch.tensor([False] * gained + [True] * lost + [True] * 30)
    assert surplus(more, fewer) == expected
