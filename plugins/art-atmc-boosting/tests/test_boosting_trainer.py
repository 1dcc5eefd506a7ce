"""The trainer against the trainers that it is built from, explicit loops and a convex optimum."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool, FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from art_atmc_boosting import (
    Average,
    BoostedTrainer,
    Ensemble,
    EnsembleClassifier,
    Pairs,
    PairWeights,
    Rule,
    Sum,
    margin_cross_entropy,
    member_sizes,
)
from art_atmc_boosting.attacked import robust, votes
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from art_atmc import (
    PGD,
    Adversarial,
    ATMCTrainer,
    CompressedModel,
    ObjectiveTrainer,
    Quantization,
    Recycled,
    Sparsity,
    compressible,
)
from art_atmc.attacks import Adversary, Problem
from art_atmc.training import Objective

torch.set_num_threads(1)
ATTACK = PGD(eps=0.05, eps_step=0.025, max_iter=2)
CONSTRAINTS = (Sparsity(density=0.5), Quantization(bits=2))
FIT: dict[str, Any] = {"nb_epochs": 4, "batch_size": 16}


def blobs(number: int = 64) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    y = np.arange(number) % 3
    centres = np.eye(3, 5, dtype=np.float32) * 0.6 + 0.2
    x = centres[y] + generator.normal(0, 0.12, (number, 5)).astype(np.float32)
    return np.clip(x, 0, 1).astype(np.float32), y


X, Y = blobs()
VALIDATION = (X[:24], Y[:24])


def make(outputs: int = 3) -> PyTorchClassifier:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, outputs))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (5,), outputs, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )


def boosted(stages: int = 2, attack: Any = ATTACK, constraints: Any = (), **options: Any) -> BoostedTrainer:
    return BoostedTrainer(make, attack, constraints, stages=stages, verbose=False, **options)


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rule", [Average(), Sum(), Sum(clean_share=0.5)], ids=repr)
@pytest.mark.parametrize("constraints", [(), CONSTRAINTS], ids=["dense", "compressed"])
def test_one_stage_is_the_trainer_that_it_is_built_from_bit_for_bit(rule: Rule, constraints: Any) -> None:
    torch.manual_seed(7)
    alone = make()
    objective = Adversarial(ATTACK, clean_share=getattr(rule, "clean_share", 0.0))
    plain: Any = (
        ATMCTrainer(alone, objective, constraints, seed=7, verbose=False)
        if constraints
        else ObjectiveTrainer(alone, objective, seed=7, verbose=False)
    )
    plain.fit(X, Y, validation_data=VALIDATION, **FIT)
    trainer = boosted(1, constraints=constraints, rule=rule, seed=7)
    trainer.fit(X, Y, validation_data=VALIDATION, **FIT)
    assert states_equal(trainer.get_classifier().model.members[0], alone.model)
    assert np.array_equal(trainer.predict(X), plain.predict(X))
    for ours, theirs in zip(trainer.history, plain.history, strict=True):
        names = {"loss", "clean_accuracy", "robust_accuracy"}
        assert {n: ours[n] for n in names} == {n: theirs[n] for n in names}


def test_the_second_stage_of_a_sum_of_linear_members_reaches_the_joint_optimum() -> None:
    generator = np.random.default_rng(1)
    y = np.arange(60) % 2
    x = (generator.normal(0, 1, (60, 2)) + y[:, None]).astype(np.float32)

    def linear() -> PyTorchClassifier:
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        return PyTorchClassifier(model, nn.CrossEntropyLoss(), (2,), 2, optimizer=optimizer, device_type="cpu")

    trainer = BoostedTrainer(linear, PGD(1e-7, 1e-7, 1), stages=1, rule=Sum(search=()), warm_start=False, verbose=False)
    trainer.fit(x, y, batch_size=60, nb_epochs=2)  # a first member that is far from its own optimum
    trainer.stages = 2
    trainer.fit(x, y, batch_size=60, nb_epochs=100)
    logits = torch.from_numpy(trainer.predict(x))
    best = LogisticRegression(C=1e6, tol=1e-9).fit(x, y).predict_log_proba(x)[np.arange(60), y].mean()
    assert nn.functional.cross_entropy(logits, torch.from_numpy(y)).item() == pytest.approx(-best, abs=1e-4)
    first = torch.from_numpy(trainer.get_classifier().predict(x, stages=1))
    assert nn.functional.cross_entropy(first, torch.from_numpy(y)).item() > -best + 1e-2


@final
@dataclasses.dataclass(frozen=True)
class Uncached(Rule):
    """The sum with a share of the clean loss, as the core's own objective has it."""

    def objective(self, attack: Any, pairs: Tensor) -> Objective:
        return Adversarial(attack, clean_share=0.5)

    def weights(self, before: list[float], edge: float | None = None) -> list[float]:
        return [*before, 1.0]


def test_cached_clean_logits_change_nothing_and_spare_the_frozen_members() -> None:
    trained = []
    for rule in (Uncached(), Sum(clean_share=0.5, search=())):
        trainer = boosted(rule=rule)
        trainer.fit(X, Y, **FIT)
        trained.append(trainer.get_classifier().model)
    for name, tensor in trained[0].state_dict().items():  # sums of another batch differ in their last bits
        torch.testing.assert_close(trained[1].state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    asked: list[int] = []
    for rule in (Uncached(), Sum(clean_share=0.5, search=())):
        trainer = boosted(rule=rule, warm_start=False)
        trainer.stages = 1
        trainer.fit(X, Y, **FIT)
        asked.append(0)
        trainer.get_classifier().model.members[0].register_forward_hook(lambda *_: asked.append(asked.pop() + 1))
        trainer.stages = 2
        trainer.fit(X, Y, **FIT)
    batches, epochs = 4, 4
    assert asked[0] - asked[1] == batches * (epochs - 1)


def test_earlier_members_are_not_touched_and_the_optimizer_holds_the_newest_alone() -> None:
    made: list[PyTorchClassifier] = []

    def counted() -> PyTorchClassifier:
        made.append(make())
        return made[-1]

    trainer = BoostedTrainer(counted, ATTACK, CONSTRAINTS, stages=1, verbose=False)
    trainer.fit(X, Y, **FIT)
    first = trainer.get_classifier().model.members[0]
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in first.named_parameters()}
    trainer.stages = 3
    trainer.fit(X, Y, **FIT)
    assert all(torch.equal(before[name], tensor) for name, tensor in first.state_dict().items())
    for name, parameter in first.named_parameters():
        kept = gradients[name]
        assert (kept is None) == (parameter.grad is None)
        assert kept is None or torch.equal(kept, parameter.grad)  # type: ignore[arg-type]
    ensemble = trainer.get_classifier().model
    for member, classifier in zip(ensemble.members, [made[2], made[3], made[4]], strict=True):
        held = {id(p) for group in classifier.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in member.parameters()}
    assert all(p.requires_grad for p in ensemble.parameters())


def test_what_the_user_froze_stays_frozen() -> None:
    def half_frozen() -> PyTorchClassifier:
        classifier = make()
        classifier.model[1].requires_grad_(False)
        return classifier

    trainer = BoostedTrainer(half_frozen, ATTACK, verbose=False, stages=2)
    assert {n for n, p in trainer.get_classifier().model.named_parameters() if not p.requires_grad} == {
        "1.weight",
        "1.bias",
    }
    trainer.fit(X, Y, **FIT)
    for member in trainer.get_classifier().model.members:
        assert {n for n, p in member.named_parameters() if not p.requires_grad} == {"1.weight", "1.bias"}
        assert torch.equal(member[1].weight, torch.ones(8))


@pytest.mark.parametrize("factored", [True, False])
def test_every_member_keeps_the_budget_and_so_does_the_sum_after_each_stage(factored: bool, tmp_path: Path) -> None:
    trainer = boosted(3, constraints=CONSTRAINTS, factored=factored)
    for stages in (1, 2, 3):
        trainer.stages = stages
        trainer.fit(X, Y, **FIT)
        whole = compressible(trainer.get_classifier().model)
        assert whole.nnz() == sum(r.nonzeros for r in trainer.results)
        assert whole.nnz() <= stages * (64 // 2)  # 5 x 8 + 8 x 3 weights a member
        assert all(t[t != 0].unique().numel() <= 4 for t in whole.values())
    file = trainer.compress(metrics={"robust": 0.5})
    file.save(tmp_path / "boosted.atmc")
    CompressedModel.load(tmp_path / "boosted.atmc").verify()
    sizes = member_sizes(file)
    assert [s.nonzeros for s in sizes] == [r.nonzeros for r in trainer.results]
    assert [s.weight for s in sizes] == pytest.approx([1 / 3] * 3)
    assert sum(s.bytes for s in sizes) < file.file_bytes
    whole_again = EnsembleClassifier.load(tmp_path / "boosted.atmc", lambda: make().model)
    assert np.array_equal(whole_again.predict(X), trainer.predict(X))
    for k in (1, 2, 3):
        loaded = EnsembleClassifier.load(tmp_path / "boosted.atmc", lambda: make().model, stages=k)
        assert np.array_equal(loaded.predict(X), trainer.get_classifier().predict(X, stages=k))
        assert states_equal(loaded.model, trainer.get_classifier().model.prefix(k))
    with pytest.raises(ValueError, match="from 1 to 3"):
        EnsembleClassifier.load(tmp_path / "boosted.atmc", lambda: make().model, stages=4)
    CompressedModel.of(make()).save(tmp_path / "one.atmc")
    with pytest.raises(ValueError, match="holds no ensemble"):
        EnsembleClassifier.load(tmp_path / "one.atmc", lambda: make().model)
    with pytest.raises(ValueError, match="no ensemble"):
        member_sizes(CompressedModel.of(make()))


def test_the_graph_computes_the_sum(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    from art_atmc.files.onnx import export

    trainer = boosted(constraints=CONSTRAINTS)
    trainer.fit(X, Y, **FIT)
    module = Ensemble([make().model, make().model])
    export(trainer.compress(), tmp_path / "sum.onnx", module=module)
    session = runtime.InferenceSession(tmp_path / "sum.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": X})[0], trainer.predict(X), rtol=1e-4, atol=1e-5)


def test_the_average_trains_the_newest_member_alone_on_what_attacks_the_mean() -> None:
    ensemble = Ensemble([make().model, make().model])
    classifier = EnsembleClassifier(ensemble, nn.CrossEntropyLoss(), (5,), 3, clip_values=(0, 1), device_type="cpu")
    ensemble.eval()
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    attack = dataclasses.replace(ATTACK, random_start=False)
    problem = Problem.of(classifier, ensemble)

    def attacked(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels) + 0.3 * margin_cross_entropy(logits, labels).mean()

    x_adv = attack(problem.maximising(attacked), x, y)
    loss, logits = Average(mce=0.3).objective(attack, torch.zeros(0))(problem, x, y)
    torch.testing.assert_close(loss, attacked(ensemble.members[1](x_adv), y))
    torch.testing.assert_close(logits, ensemble(x_adv))
    assert Average().weights([1.0, 1.0]) == pytest.approx([1 / 3] * 3)


def test_pairs_weigh_the_loss_of_each_example_and_wrong_label() -> None:
    trainer = boosted(3, rule=Pairs())
    trainer.fit(X, Y, validation_data=VALIDATION, **FIT)
    assert trainer.predict(X).argmax(1).tolist() == trainer.predict(X, batch_size=7).argmax(1).tolist()
    assert [r.weights[-1] for r in trainer.results] == pytest.approx(
        [np.arctanh(min(r.edge, 1 - 1e-6)) for r in trainer.results]
    )
    classifier = trainer.get_classifier()
    problem = Problem.of(classifier, classifier.model)
    weights = torch.rand(64, 3)
    weights[torch.arange(64), torch.from_numpy(Y)] = 0
    objective = Pairs().objective(dataclasses.replace(ATTACK, eps=1e-8), weights / weights.sum())
    from art_atmc.attacks import Rows

    rows = torch.tensor([5, 3])
    problem = problem.at(Rows(rows, 64))
    loss, logits = objective(problem, torch.from_numpy(X)[rows], torch.from_numpy(Y)[rows])
    expected = sum(
        float(weights[i, j] / weights.sum()) * 128 * np.log1p(np.exp(float(z[j] - z[Y[i]])))
        for i, z in zip((5, 3), logits.detach(), strict=True)
        for j in range(3)
        if j != Y[i]
    )
    assert loss.item() == pytest.approx(expected / 4, rel=1e-4)
    with pytest.raises(ValueError, match="give arrays"):
        objective(problem.at(None), torch.from_numpy(X), torch.from_numpy(Y))


def test_the_line_search_takes_the_most_robust_weight() -> None:
    trainer = boosted(rule=Sum(beta=0.5, search=(0.1, 1.0, 8.0)))
    trainer.fit(X, Y, validation_data=VALIDATION, **FIT)
    classifier = trainer.get_classifier()
    chosen = classifier.model.weights.tolist()[-1]
    found = {}
    for weight in (0.05, 0.5, 4.0):
        classifier.model.reweight([1.0, weight])
        found[weight] = robust(classifier, ATTACK, *VALIDATION)
    best = max(found, key=lambda w: (found[w].accuracy, -found[w].loss))
    assert chosen == pytest.approx(best)
    assert trainer.results[-1].robust_accuracy == found[best].accuracy


class Failing(Adversary):
    """PGD, until it has been asked so often."""

    eps = ATTACK.eps
    random_start = True

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return ATTACK(problem, x, y)

    def __repr__(self) -> str:
        return "Failing()"


@pytest.mark.parametrize("rule", [Average(), Pairs()], ids=repr)
def test_an_interrupted_fit_goes_on_after_the_finished_stages_to_the_same_bits(rule: Rule, tmp_path: Path) -> None:
    whole = boosted(3, Failing(10**9), CONSTRAINTS, rule=rule)
    whole.fit(X, Y, **FIT)
    for folder, memory in itertools.product([None, tmp_path / "run"], [True, False]):
        if folder is None and not memory:
            continue
        where = None if folder is None else folder / str(memory)
        trainer = boosted(3, attack := Failing(30), CONSTRAINTS, rule=rule, checkpoint=where)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(X, Y, **FIT)
        assert len(trainer.results) == 1
        attack.left = 10**9
        if not memory:
            trainer = boosted(3, attack, CONSTRAINTS, rule=rule, checkpoint=where)
        trainer.fit(X, Y, **FIT)
        assert states_equal(trainer.get_classifier().model, whole.get_classifier().model)
        assert [r.edge for r in trainer.results] == [r.edge for r in whole.results]
        assert [row["stage"] for row in trainer.history] == [row["stage"] for row in whole.history]


def test_stages_of_another_fit_are_refused(tmp_path: Path) -> None:
    boosted(1, checkpoint=tmp_path).fit(X, Y, **FIT)
    for trainer, x in ((boosted(2, checkpoint=tmp_path, seed=1), X), (boosted(2, checkpoint=tmp_path), X[::-1])):
        with pytest.raises(ValueError, match=r"stages of another fit, which had.*(seed|data)"):
            trainer.fit(x, Y, **FIT)
    boosted(2, checkpoint=tmp_path).fit(X, Y, **FIT)


def test_a_member_without_an_edge_ends_the_boosting() -> None:
    class Silent(nn.Module):
        """Answers the first class whatever it is asked, from the second stage on."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)
            self.share = 1.0 if len(built) < 3 else 0.0
            built.append(self)

        def forward(self, x: Tensor) -> Tensor:
            return self.share * self.layer(x) + (1 - self.share) * torch.tensor([1.0, 0.0, 0.0])

    def make_silent() -> PyTorchClassifier:
        model = Silent()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        return PyTorchClassifier(model, nn.CrossEntropyLoss(), (5,), 3, optimizer=optimizer, device_type="cpu")

    built: list[nn.Module] = []
    trainer = BoostedTrainer(make_silent, ATTACK, stages=3, verbose=False)
    x, y = X, Y  # the first class is the largest, so its constant answer beats the others
    with pytest.warns(UserWarning, match=r"stage 2 is no better than guessing.*keeps its 1 members"):
        trainer.fit(x, y, **FIT)
    assert trainer.stopped is not None
    assert len(trainer.results) == len(trainer.get_classifier().model) == 1
    built.extend(built)
    first = BoostedTrainer(make_silent, ATTACK, stages=3, verbose=False)
    with pytest.raises(RuntimeError, match="stage 1 is no better than guessing"):
        first.fit(x, y, **FIT)


def test_what_does_not_fit_is_refused_before_training() -> None:
    one = make()
    with pytest.raises(ValueError, match="members 0 and 1 are one network"):
        BoostedTrainer(lambda: one, ATTACK, verbose=False)
    widths = itertools.cycle([3, 2])
    with pytest.raises(ValueError, match=r"member 0 answers 2 inputs with shape \(2, 3\)"):
        BoostedTrainer(lambda: make(next(widths)), ATTACK, verbose=False)
    with pytest.raises(TypeError, match="DeepFool is bound to the classifier"):
        BoostedTrainer(make, DeepFool(one), verbose=False)
    assert BoostedTrainer(make, FastGradientMethod(one, eps=0.1), verbose=False).attack == PGD(
        0.1, 0.1, 1, random_start=False
    )
    with pytest.raises(ValueError, match="`stages` must be"):
        boosted(0)
    with pytest.raises(TypeError, match="`rule` must be a Rule"):
        boosted(rule="average")
    with pytest.raises(ValueError, match="density"):
        boosted(constraints=["sparsity:density=0"])
    for bad in ({"beta": 0.0}, {"search": (0.0,)}, {"clean_share": 1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Sum(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mce"):
        Average(mce=-1)
    trainer = boosted(1)
    with pytest.raises(NotFittedError):
        trainer.compress()
    assert isinstance(trainer.get_classifier(), PyTorchClassifier)
    trainer.fit(X, Y, **FIT)
    with pytest.raises(RuntimeError, match="all 1 stages are fitted; raise `stages`"):
        trainer.fit(X, Y, **FIT)


@pytest.mark.parametrize("rule", [Average(), Sum(search=())], ids=repr)
def test_recycled_perturbations_start_afresh_at_each_stage(rule: Rule) -> None:
    attack = Recycled(PGD(0.05, 0.05, 1))
    trainer = boosted(attack=attack, rule=rule)
    trainer.fit(X, Y, validation_data=VALIDATION, **FIT)
    assert attack.memory.nbytes == 0
    again = boosted(attack=Recycled(PGD(0.05, 0.05, 1)), rule=rule)
    again.fit(X, Y, validation_data=VALIDATION, **FIT)
    assert states_equal(trainer.get_classifier().model, again.get_classifier().model)


def test_a_warm_start_begins_where_the_last_member_ended() -> None:
    distances = []
    for warm in (True, False):
        trainer = boosted(constraints=CONSTRAINTS, warm_start=warm)
        trainer.fit(X, Y, **FIT)
        one, two = (compressible(m).detach() for m in trainer.get_classifier().model.members)
        distances.append(sum(float((one[n] - two[n]).square().sum()) for n in one))
    assert distances[0] < distances[1]


def loader(number: int = 64) -> DataLoader[Any]:
    """The batches in the order of the arrays."""
    return DataLoader(TensorDataset(torch.from_numpy(X[:number]), torch.from_numpy(Y[:number])), batch_size=16)


def test_a_loader_trains_as_the_trainer_that_a_stage_is_and_edges_are_those_of_the_validation_data() -> None:
    torch.manual_seed(7)
    alone = make()
    plain = ATMCTrainer(alone, ATTACK, CONSTRAINTS, seed=7, verbose=False)
    plain.fit_generator(loader(), nb_epochs=4, validation_data=VALIDATION)
    trainer = boosted(1, constraints=CONSTRAINTS, seed=7)
    trainer.fit_generator(loader(), nb_epochs=4, validation_data=VALIDATION)
    assert states_equal(trainer.get_classifier().model.members[0], alone.model)
    trainer.stages = 2
    trainer.fit_generator(loader(), nb_epochs=4, validation_data=VALIDATION)
    weights = PairWeights(torch.from_numpy(VALIDATION[1]), 3)
    members = list(trainer.get_classifier().model.members)
    for number, result in enumerate(trainer.results, 1):
        mean = Ensemble(members[:number]).eval()
        made = EnsembleClassifier(mean, nn.CrossEntropyLoss(), (5,), 3, clip_values=(0, 1), device_type="cpu")
        answers = votes(made, ATTACK, *VALIDATION, alone=False)
        assert result.edge == pytest.approx(weights.edge(answers))
        weights.update(answers)


def test_a_fit_on_a_loader_goes_on_after_its_finished_stages(tmp_path: Path) -> None:
    whole = boosted(2)
    whole.fit_generator(loader(), nb_epochs=3, validation_data=VALIDATION)
    boosted(1, checkpoint=tmp_path).fit_generator(loader(), nb_epochs=3, validation_data=VALIDATION)
    trainer = boosted(2, checkpoint=tmp_path)
    trainer.fit_generator(loader(), nb_epochs=3, validation_data=VALIDATION)
    assert states_equal(trainer.get_classifier().model, whole.get_classifier().model)
    with pytest.raises(ValueError, match="stages of another fit"):
        boosted(3, checkpoint=tmp_path).fit(X, Y, validation_data=VALIDATION, nb_epochs=3)


def test_a_loader_without_validation_data_and_for_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`validation_data` must be given.*augmentation="):
        boosted().fit_generator(loader())
    with pytest.raises(ValueError, match=r"a loader names none; use fit\(\)"):
        boosted(rule=Pairs()).fit_generator(loader(), validation_data=VALIDATION)
