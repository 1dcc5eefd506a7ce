"""What long runs cost and save: bfloat16, checkpoints and logs, memory beyond dense training."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest
from test_training import EPS, classifier_of, ours, plain_loop

from art_atmc import PGD, Adversarial, ObjectiveTrainer
from art_atmc.networks import lenet
from art_atmc.training import Callback, Checkpoint, JSONLines, TensorBoard

ATTACK = PGD(EPS, EPS / 4, 8)


def lower(data):
    classifier = classifier_of(lenet, data[0].shape[1:])
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), precision="bf16", verbose=False)
    return lambda: trainer.fit(*data, batch_size=128, nb_epochs=1)  # type: ignore[misc]


def test_bfloat16_against_a_plain_loop(compare, mnist):
    name = "dense step in bfloat16, LeNet, batch 128, 8 PGD steps, against a plain NCHW float32 loop"
    compare(name, lower(mnist), plain_loop(mnist, lenet, 8, EPS / 4), at_most=0.45)


def test_bfloat16_against_float32(compare, mnist):
    name = "dense step in bfloat16 against ours in float32, LeNet"
    compare(name, lower(mnist), ours(mnist, lenet, ATTACK), at_most=0.75)


@pytest.mark.parametrize("kind", ["checkpoint", "logs"])
def test_checkpoints_and_logs_take_little_of_an_epoch(benchmark, report, mnist, tmp_path, kind):
    """Seconds in the callbacks, beside those of the same epochs; an epoch of MNIST is a hundred times as long."""
    classifier = classifier_of(lenet, (1, 28, 28))
    made: list[Callback] = [Checkpoint(tmp_path / "run")]
    if kind == "logs":
        made = [JSONLines(tmp_path / "history.jsonl"), TensorBoard(tmp_path / "events")]
    spent = []

    def timed(method):
        def call(*args):
            started = time.perf_counter()
            result = method(*args)
            spent.append(time.perf_counter() - started)
            return result

        return call

    for callback in made:
        for name in ("on_train_start", "on_batch_end", "on_epoch_end"):
            setattr(callback, name, timed(getattr(callback, name)))
    trainer = ObjectiveTrainer(classifier, Adversarial(ATTACK), callbacks=made, verbose=False)
    benchmark.pedantic(lambda: trainer.fit(*mnist, batch_size=128, nb_epochs=5), rounds=1)  # type: ignore[misc]
    epoch = statistics.median(row["seconds"] for row in trainer.history) * 54_000 / len(mnist[0])
    report(f"{kind}: share of an epoch of MNIST, LeNet", 100 * sum(spent) / 5 / epoch, 3, " %")


MEMORY = """
import resource, sys, torch
from test_training import classifier_of
from art_atmc import PGD, Adversarial, ATMCTrainer, ObjectiveTrainer, Quantization, Sparsity, Tightening
from art_atmc.networks import resnet18
torch.set_num_threads(1)
x, y = torch.rand(8, 3, 32, 32).numpy(), torch.arange(8).numpy()
classifier = classifier_of(lambda: resnet18(10), (3, 32, 32))
attack = PGD(0.03, 0.01, 2)
if sys.argv[1] == "dense":
    trainer = ObjectiveTrainer(classifier, Adversarial(attack), verbose=False)
else:
    early = Tightening(support=(0, 0), codebook=0)
    trainer = ATMCTrainer(classifier, attack, [Sparsity(0.05), Quantization(4)], schedule=early, verbose=False)
trainer.fit(x, y, batch_size=4, nb_epochs=6)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, sum(p.numel() for p in classifier.model.parameters()))
"""


def test_memory_of_atmc_beyond_dense_training(benchmark, report):
    """Peak of a process each, ResNet-18."""

    def peak(kind):
        command = [sys.executable, "-W", "ignore", "-c", MEMORY, kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=__file__.rpartition("/")[0])
        return map(int, done.stdout.split())

    dense, _ = peak("dense")
    atmc, factors = benchmark.pedantic(lambda: tuple(peak("atmc")), rounds=1)
    report(
        "memory of ATMC beyond dense training, in bytes of the factors, ResNet-18", (atmc - dense) / (4 * factors), 4
    )
