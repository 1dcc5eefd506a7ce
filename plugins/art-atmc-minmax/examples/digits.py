"""Training on digits over three norms: generalised, MAX, AVG and E-AT, dense and compressed, three seeds each.

python plugins/art-atmc-minmax/examples/digits.py OUTPUT [dense|compressed|pair]

Each run is a file in OUTPUT, and one that is there is not done again.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from art_atmc_minmax import Generalized, MinMax, Models, union
from torch import nn

from art_atmc import PGD, ATMCTrainer, CompressedModel, ObjectiveTrainer, Problem, Quantization, Sparsity
from art_atmc.attacks import APGD
from art_atmc.data import load, split_validation
from art_atmc.evaluation import evaluate
from art_atmc.networks import digits_cnn

BALLS = {math.inf: 0.1, 2: 0.5, 1: 1.2}
EPOCHS, SEEDS = 6, (0, 1, 2)
CONSTRAINTS = (Sparsity(density=0.05), Quantization(bits=4))
ATTACKS = (PGD(0.1, 0.03, 5), PGD(0.5, 0.15, 5, norm=2), APGD(1.2, norm=1, max_iter=6))
METHODS: Mapping[str, Callable[[], Generalized]] = MappingProxyType(
    {
        "E-AT": lambda: Generalized(ATTACKS, strategy="alternating"),
        "MAX": lambda: Generalized(ATTACKS, gamma=0.0),
        "AVG": lambda: Generalized(ATTACKS, gamma=math.inf),
        "gamma 0.3": lambda: Generalized(ATTACKS, gamma=0.3),
    }
)


def new_classifier(seed: int) -> PyTorchClassifier:
    torch.manual_seed(seed)
    model = digits_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )


def trained(method: str, seed: int, compressed: bool) -> tuple[PyTorchClassifier, float, list[dict[str, float]]]:
    """The classifier, the CPU seconds of its training, and its history."""
    data, classifier, objective = load("digits"), new_classifier(seed), METHODS[method]()
    trainer: Any = (
        ATMCTrainer(classifier, objective, CONSTRAINTS, seed=seed, verbose=False)
        if compressed
        else ObjectiveTrainer(classifier, objective, seed=seed, verbose=False)
    )
    x, y, x_val, y_val = split_validation(data.x_train, data.y_train, 0.1, seed)
    began = time.process_time()
    trainer.fit(x, y, validation_data=(x_val, y_val), batch_size=64, nb_epochs=EPOCHS)
    return trainer.get_classifier(), time.process_time() - began, trainer.history


def record(output: Path, method: str, seed: int, compressed: bool) -> dict[str, Any]:
    """The figures of one network, from its file, or trained, tested once, and then written there."""
    path = output / f"{method.replace(' ', '-')}-{'compressed' if compressed else 'dense'}-{seed}.json"
    if not path.exists():
        data = load("digits")
        classifier, seconds, history = trained(method, seed, compressed)
        found = evaluate(
            classifier,
            data.x_test,
            data.y_test,
            suite=union(BALLS, pgd_iter=10, apgd_iter=20, restarts=1),
            verbose=False,
        )
        lines = {line.name: 100 * line.accuracy for line in found.attacks}
        weights = {key: value for key, value in history[-1].items() if key.startswith("weight_")}
        row = {"clean": 100 * found.clean.mean(), "union": 100 * found.worst_case.mean(), "seconds": seconds}
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**row, "lines": lines, "weights": weights}, indent=1), encoding="utf-8")
        constraints = CONSTRAINTS if compressed else ()
        CompressedModel.of(classifier, constraints, network="digits-cnn").save(path.with_suffix(".atmc"))
    return dict(json.loads(path.read_text(encoding="utf-8")))


def table(output: Path, compressed: bool) -> None:
    print("| objective | clean, % | union, % (seeds) | CPU seconds |")
    for method in ("MAX",) if compressed else METHODS:
        rows = [record(output, method, seed, compressed) for seed in SEEDS]
        clean, found, seconds = ([row[key] for row in rows] for key in ("clean", "union", "seconds"))
        each = ", ".join(f"{value:.1f}" for value in found)
        print(f"| {method} | {statistics.mean(clean):.1f} | {statistics.mean(found):.1f} ({each}) | "
              f"{statistics.mean(seconds):.0f} |", flush=True)  # fmt: skip


def pair(output: Path) -> None:
    """One perturbation that has to fool the dense and the compressed network at once."""
    data = load("digits")
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    for seed in SEEDS:
        kinds = ("dense", "compressed")
        nets = [CompressedModel.load(output / f"MAX-{kind}-{seed}.atmc").classifier() for kind in kinds]
        both = Models(nets, kinds)
        problem = Problem(nets[1].model, clip_values=(0.0, 1.0), generator=torch.Generator().manual_seed(seed))
        print(f"seed {seed}", MinMax(0.1, both).solve(problem, x, y), sep="\n", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, what = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "dense"
    if what == "pair":
        pair(folder)
    else:
        table(folder, compressed=what == "compressed")
