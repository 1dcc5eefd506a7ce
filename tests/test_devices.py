"""Several processes, low precision, accumulated gradients: the same training, and the constraints exactly."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import time
import traceback
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_atmc import PGD, Adversarial, ATMCTrainer, ObjectiveTrainer, Quantization, Sparsity, compressible
from art_atmc.attacks import Recycled
from art_atmc.training import ArrayBatches, Callback
from art_atmc.training.devices import World

CONSTRAINTS = [Sparsity(0.3), Quantization(bits=3)]
ATTACK = PGD(eps=0.1, eps_step=0.05, max_iter=2, random_start=False)


def network(norm=False):
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)] if norm else [nn.Conv2d(1, 6, 3)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))


def trainer_of(make_classifier, attack=ATTACK, norm=False, rate=0.05, **options):
    model = network(norm)
    classifier = make_classifier(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9))
    return ATMCTrainer(classifier, attack, CONSTRAINTS, verbose=False, **options)


def weights(trainer):
    return [t.detach().clone() for t in trainer.classifier.model.parameters()]


def assert_obeys(model):
    held = compressible(model)
    assert 0 < held.nnz() <= int(0.3 * held.dense_size)
    assert all(w[w != 0].unique().numel() <= 8 for w in held.values())


def together(work, folder, processes=2):
    """What ``work(rank)`` returns in processes that were started as by a launcher; exceptions as they are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
            }  # fmt: skip
            with contextlib.suppress(BaseException):
                try:
                    result = work(rank)
                except BaseException:
                    result = traceback.format_exc()
                (folder / f"{rank}").write_bytes(pickle.dumps(result))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return [pickle.loads(p.read_bytes()) if (p := folder / f"{r}").exists() else None for r in range(processes)]


@pytest.mark.parametrize("objective", [Adversarial(ATTACK), Adversarial(ATTACK, 0.5)], ids=["plain", "clean share"])
def test_two_processes_with_half_the_batch_train_what_one_does(make_classifier, digits, tmp_path, objective):
    """20 steps: the last batch of each epoch is uneven."""
    x, y = digits[0][:155], digits[1][:155]

    def fit(batch_size):
        trainer = trainer_of(make_classifier, objective)
        trainer.fit(x, y, validation_data=(x[:51], y[:51]), batch_size=batch_size, nb_epochs=4)
        assert_obeys(trainer.get_classifier().model)
        return weights(trainer), [row["loss"] for row in trainer.history]

    alone, losses = fit(32)
    pytest.importorskip("accelerate")
    results = together(lambda rank: fit(16), tmp_path)
    for result in results:
        assert not isinstance(result, str), result
        assert result[1] == pytest.approx(losses, rel=1e-4)
        for ours, theirs in zip(result[0], alone, strict=True):
            assert torch.allclose(ours, theirs, atol=2e-4)
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))


def test_each_process_has_its_own_rows_random_starts_and_checkpoints(make_classifier, digits, tmp_path):
    """Batch normalisation, random starts and kept perturbations differ by process; the weights do not."""
    pytest.importorskip("accelerate")
    x, y = digits[0][:160], digits[1][:160]

    def fit(stop_at=None):
        class Stop(Callback):
            def on_gradients(self, run):
                if run.step == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)

        attack = Recycled(PGD(eps=0.1, eps_step=0.05, max_iter=1))
        trainer = trainer_of(
            make_classifier, attack, norm=True, callbacks=[Stop()], checkpoint=tmp_path / "run", checkpoint_every=1
        )
        try:
            trainer.fit(x, y, validation_data=(x[:50], y[:50]), batch_size=20, nb_epochs=3)
        except KeyboardInterrupt as error:
            return str(error)
        return weights(trainer), int(attack.memory._visited.sum())

    stopped = together(lambda rank: fit(7 if rank == 1 else None), tmp_path)
    assert [text.partition(":")[0] for text in stopped] == ["another process", "SIGTERM"]
    resumed = together(lambda rank: fit(), tmp_path)
    for path in (tmp_path / "run").rglob("*.pt"):
        path.unlink()
    whole = together(lambda rank: fit(), tmp_path)
    for results in (resumed, whole):
        assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))
        assert all(80 <= visited < 160 for _, visited in results)
    assert all(torch.equal(a, b) for a, b in zip(resumed[0][0], whole[0][0], strict=True))


def test_loaders_are_shared_between_processes(make_classifier, digits, tmp_path):
    pytest.importorskip("accelerate")
    x, y = torch.from_numpy(digits[0][:96]), torch.from_numpy(digits[1][:96])

    def fit(rank):
        model = network()
        classifier = make_classifier(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05))
        steps = []

        class Count(Callback):
            def on_batch_end(self, run):
                steps.append(int(run.sums[2]))

        trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), callbacks=[Count()], verbose=False)
        trainer.fit_generator(DataLoader(TensorDataset(x, y), batch_size=16), nb_epochs=1)
        return steps, trainer.classifier.model[0].weight.detach()

    first, second = together(fit, tmp_path)
    assert first[0] == second[0] == [16, 32, 48]
    assert torch.equal(first[1], second[1])


def test_a_process_that_dies_ends_the_others_within_a_minute(make_classifier, digits, tmp_path):
    pytest.importorskip("accelerate")
    x, y = digits[0][:160], digits[1][:160]

    def fit(rank):
        class Die(Callback):
            def on_gradients(self, run):
                if rank == 1 and run.step == 3:
                    os.kill(os.getpid(), signal.SIGKILL)

        trainer_of(make_classifier, callbacks=[Die()]).fit(x, y, batch_size=20, nb_epochs=50)

    started = time.monotonic()
    results = together(fit, tmp_path)
    assert time.monotonic() - started < 60
    assert "Error" in results[0]
    assert results[1] is None


def test_processes_that_train_different_weights_are_found_out(make_classifier, digits, tmp_path):
    pytest.importorskip("accelerate")

    def fit(rank):
        class Disturb(Callback):
            def on_batch_end(self, run):
                with torch.no_grad():
                    next(run.model.parameters()).add_(rank)

        trainer_of(make_classifier, callbacks=[Disturb()]).fit(
            digits[0][:80], digits[1][:80], batch_size=20, nb_epochs=1
        )

    assert all("hold different weights" in text for text in together(fit, tmp_path))


def test_several_processes_need_our_loop_and_accelerate(make_classifier, digits, monkeypatch):
    import sys

    from art.defences.trainer import AdversarialTrainerMadryPGD

    monkeypatch.setenv("WORLD_SIZE", "2")
    classifier = make_classifier()
    with pytest.raises(ValueError, match="knows nothing of other processes"):
        ATMCTrainer(classifier, constraints=CONSTRAINTS, trainer=AdversarialTrainerMadryPGD(classifier))
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"art-atmc\[distributed\]"):
        ObjectiveTrainer(classifier, Adversarial(ATTACK)).fit(digits[0][:20], digits[1][:20])


@pytest.mark.parametrize(("n", "size", "processes"), [(100, 10, 3), (64, 32, 2), (65, 16, 4), (7, 8, 2), (33, 4, 4)])
def test_shards_are_a_partition_with_equal_numbers_of_steps(n, size, processes):
    x = torch.arange(n, dtype=torch.float32)[:, None]

    def shards(rank):
        world = World()
        world.rank, world.size = rank, processes
        batches = ArrayBatches(x, torch.zeros(n).long(), size, world=world)
        assert batches.number == len(list(batches.epoch(torch.Generator().manual_seed(1))))
        return list(batches.epoch(torch.Generator().manual_seed(1)))

    every = [shards(rank) for rank in range(processes)]
    assert len({len(batches) for batches in every}) == 1
    assert sorted(torch.cat([b.x for batches in every for b in batches]).flatten().tolist()) == list(range(n))
    for step in zip(*every, strict=True):
        assert sum(batch.share for batch in step) == pytest.approx(processes)
        assert all(len(batch.x) for batch in step)


# Precision, accumulation, compilation


def test_constraints_hold_exactly_in_bfloat16(make_classifier, digits):
    x, y = digits
    trainer = trainer_of(make_classifier, norm=True, precision="bf16")
    trainer.fit(x[:700], y[:700], validation_data=(x[1500:], y[1500:]), batch_size=32, nb_epochs=6)
    assert_obeys(trainer.get_classifier().model)
    assert all(p.dtype == torch.float32 for p in trainer.classifier.model.parameters())
    assert max(row["clean_accuracy"] for row in trainer.history) > 0.8


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_accumulated_gradients_are_those_of_the_large_batch(make_classifier, digits, parts):
    """By the explicit loop over one epoch of linear softmax regression; the last step has fewer batches."""
    x, y = digits[0][:160], digits[1][:160]

    def fit(batch_size, accumulate):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        nn.init.zeros_(model[1].weight)  # type: ignore[arg-type]
        steps = []

        class Count(Callback):
            def on_gradients(self, run):
                steps.append(model[1].weight.grad.clone())

        classifier = make_classifier(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        trainer = ObjectiveTrainer(
            classifier, Adversarial(PGD(0.1, 0.05, 1, random_start=False)), callbacks=[Count()], accumulate=accumulate,
            verbose=False,
        )  # fmt: skip
        trainer.fit(x, y, batch_size=batch_size, nb_epochs=1, scheduler=None)
        return steps, model[1].weight.detach()

    small, small_weight = fit(20, parts)
    large, large_weight = fit(20 * parts, 1)
    assert len(small) == len(large) == -(-8 // parts)
    for ours, theirs in zip(small, large, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(small_weight, large_weight, atol=1e-5)


def test_schedules_count_steps_and_not_batches(make_classifier, digits):
    trainer = trainer_of(make_classifier, accumulate=4)
    trainer.fit(digits[0][:160], digits[1][:160], batch_size=10, nb_epochs=3)
    assert trainer.solvers[0].steps == 12
    assert trainer.solvers[0].ramp == trainer.schedule.support_ramp(12)
    assert_obeys(trainer.get_classifier().model)


@pytest.mark.slow
def test_a_compiled_network_trains_what_the_plain_one_does(make_classifier, digits):
    def fit(**options):
        trainer = trainer_of(make_classifier, **options)
        trainer.fit(digits[0][:64], digits[1][:64], batch_size=32, nb_epochs=2)
        return weights(trainer)

    for ours, theirs in zip(fit(compile=True), fit(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)


def test_bad_settings_of_devices_are_refused(make_classifier):
    with pytest.raises(ValueError, match="`precision`"):
        trainer_of(make_classifier, precision="fp16")
    with pytest.raises(ValueError, match="`accumulate`"):
        trainer_of(make_classifier, accumulate=0)


@pytest.mark.parametrize(("slowdown", "warned"), [(5.0, True), (0.6, False)])
def test_a_processor_without_bfloat16_is_warned_of(make_classifier, monkeypatch, slowdown, warned):
    monkeypatch.setattr("art_atmc.training.objective_trainer.bfloat16_slowdown", lambda: slowdown)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer_of(make_classifier, precision="bf16")
    assert [("5.0 times as long" in str(warning.message)) for warning in found] == [True] * warned


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"compile": True}, {"accumulate": 2}], ids=str)
def test_a_gpu_trains_with_these_options(make_classifier, digits, options):
    model = network(norm=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    classifier = make_classifier(model=model, optimizer=optimizer, device_type="gpu")
    trainer = ATMCTrainer(classifier, ATTACK, CONSTRAINTS, verbose=False, **options)
    trainer.fit(digits[0][:200], digits[1][:200], batch_size=50, nb_epochs=2)
    assert_obeys(trainer.get_classifier().model)
