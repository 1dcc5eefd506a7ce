"""Targets on digits against runs of fixed density and against bisection; the test data is used once for each network.

python plugins/art-atmc-distortion/examples/digits.py OUTPUT [SEEDS]

Each network is a line of OUTPUT/rows.jsonl, and none is trained again. Times are of the processor.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from art_atmc_distortion import Fits, Smallest, TargetTrainer
from art_atmc_distortion.control import measured

from art_atmc import PGD, ATMCTrainer, Quantization, Sparsity, Tightening, compressible
from art_atmc.classifiers import Network, arrays
from art_atmc.data import load
from art_atmc.experiments.settings import Settings
from art_atmc.experiments.train_and_test import new_trainer, split

EPOCHS = 16
NAMED = PGD(eps=0.1, eps_step=0.025, max_iter=10)  # trained against 7 steps
BOUNDS = (0.7, 0.8, 0.9)
COMPARED = ((0.8, 0), (0.8, 1))  # bounds and seeds whose density is trained again, fixed
BISECTED = (0.8, 0)
FILE = 3_000


def setup(seed: int) -> tuple[Settings, Any, Any, Any]:
    settings = Settings.resolved("digits", seed=seed, factored=False, validation=0.2, epochs=EPOCHS)
    dataset = load("digits")
    classifier = new_trainer(settings.dense(), dataset, verbose=False).get_classifier()
    return settings, classifier, dataset, split(settings, dataset)


def figures(classifier: Any, dataset: Any, data: Any) -> dict[str, float]:
    """Validation and test figures under the named attack."""
    found: dict[str, float] = {}
    for name, x, y in (("validation", data[2], data[3]), ("test", dataset.x_test, dataset.y_test)):
        x, y = arrays(classifier, x, y, name)
        row = measured(classifier, Network(classifier, x[:2]), x, y, NAMED)
        found |= {f"{name}_{key}": value for key, value in row.items()}
    weights = compressible(classifier.model)
    return found | {"density": weights.nnz() / weights.dense_size}


def targeted(target: Smallest | Fits, seed: int) -> dict[str, Any]:
    settings, classifier, dataset, data = setup(seed)
    trainer = TargetTrainer(
        classifier, settings.objective, target, [Quantization(4)], factored=False, seed=seed, verbose=False
    )
    began = time.process_time()
    trainer.fit(*data[:2], validation_data=data[2:], nb_epochs=EPOCHS, batch_size=64, scheduler=settings.rate)
    seconds = time.process_time() - began
    return figures(trainer.get_classifier(), dataset, data) | {
        "seconds": seconds,
        "file_bytes": trainer.compress().file_bytes,
        "path": [[row["density"], row["robust_loss"]] for row in trainer.history],
    }


def fixed(density: float, seed: int) -> dict[str, float]:
    settings, classifier, dataset, data = setup(seed)
    trainer = ATMCTrainer(
        classifier,
        settings.objective,
        [Sparsity(density), Quantization(4)],
        schedule=Tightening(),
        factored=False,
        seed=seed,
        verbose=False,
    )
    began = time.process_time()
    trainer.fit(*data[:2], validation_data=data[2:], nb_epochs=EPOCHS, batch_size=64, scheduler=settings.rate)
    seconds = time.process_time() - began
    return figures(trainer.get_classifier(), dataset, data) | {"seconds": seconds}


class Rows:
    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text() if path.exists() else ""
        self.kept = {row["name"]: row for row in map(json.loads, text.splitlines())}

    def get(self, name: str, make: Any, *arguments: Any) -> dict[str, Any]:
        if name not in self.kept:
            self.kept[name] = {"name": name, **make(*arguments)}
            with self.path.open("a") as file:
                file.write(json.dumps(self.kept[name]) + "\n")
            print(name, {k: round(v, 4) for k, v in self.kept[name].items() if isinstance(v, float)}, flush=True)
        return self.kept[name]


def bisected(rows: Rows, bound: float, seed: int, tries: int = 4) -> float:
    """The least density of several runs whose validation loss is within the bound, by halving ln density."""
    low, high = 0.005, 0.04
    for _ in range(tries):
        density = (low * high) ** 0.5
        row = rows.get(f"fixed {density:.5f} seed {seed}", fixed, density, seed)
        low, high = (low, density) if row["validation_robust_loss"] <= bound else (density, high)
    return high


def mean(values: Sequence[float]) -> float:
    return statistics.mean(values)


def main(output: Path, seeds: int = 2) -> None:
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    rows = Rows(output / "rows.jsonl")
    runs = {
        (bound, seed): rows.get(f"loss {bound} seed {seed}", targeted, Smallest(robust_loss=bound, attack=NAMED), seed)
        for seed in range(seeds)
        for bound in BOUNDS
    }
    met = sum(0.9 * bound <= row["validation_robust_loss"] <= bound for (bound, _), row in runs.items())
    print(f"met within 0.90 c to c: {met} of {len(runs)}")
    pairs = [
        (runs[key], rows.get(f"fixed {runs[key]['density']:.5f} seed {key[1]}", fixed, runs[key]["density"], key[1]))
        for key in COMPARED
        if key in runs
    ]
    for figure in ("clean", "robust"):
        gap = mean([a[f"test_{figure}_accuracy"] - b[f"test_{figure}_accuracy"] for a, b in pairs])
        print(f"test {figure} accuracy against the same density, fixed: {100 * gap:+.1f} points")
    share = mean([a["seconds"] for a, _ in pairs]) / mean([b["seconds"] for _, b in pairs])
    print(f"time against a fixed run: {share:.2f}")
    density = bisected(rows, *BISECTED)
    print(f"bisection's density {density:.4f}, in one run {runs[BISECTED]['density']:.4f}")
    row = rows.get(f"file {FILE} seed 0", targeted, Fits(file_bytes=FILE, attack=NAMED), 0)
    print(f"file {FILE}: {row['file_bytes']} bytes, test robust {row['test_robust_accuracy']:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
