"""Boosted members against single networks on digits: three seeds each, the test data used once.

python plugins/art-atmc-boosting/examples/digits.py OUTPUT [--choosing] [--seeds=N] [NAME ...]

One file a network and seed in OUTPUT; what is there already is not run again. The table at the end has the means. With
--choosing, which needs an OUTPUT of its own, ideas are compared without the test data: on the last 300 training images,
which are held out then, after half the epochs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from art_atmc_boosting import Average, BoostedTrainer, EnsembleClassifier, Pairs, SoftCapped, Sum, member_sizes
from torch import nn

from art_atmc import (
    PGD,
    Adversarial,
    ATMCTrainer,
    CompressedModel,
    ObjectiveTrainer,
    Problem,
    Quantization,
    Recycled,
    Sparsity,
)
from art_atmc.attacks import APGD, DLR, CrossEntropy
from art_atmc.classifiers import misclassified
from art_atmc.data import load

CHOOSING, HELD_OUT = "--choosing" in sys.argv, 300
EPS, STAGES = 0.1, 4
EPOCHS = 20 if CHOOSING else 40
LONG = STAGES * EPOCHS
EQUAL_TIME = 220  # epochs of one network in the seconds of four boosted members, both on recycled perturbations
WORST_CASE = (
    PGD(EPS, eps_step=0.0125, max_iter=20, restarts=2),
    APGD(EPS, max_iter=40, objective=CrossEntropy()),
    APGD(EPS, max_iter=40, objective=DLR()),
)
ATTACK = PGD(EPS, eps_step=0.025, max_iter=5)
FOUR_BITS = (Sparsity(0.2), Quantization(4))
ONE_BIT = (Sparsity(0.2), Quantization(1))
WIDE = 2.05  # times the channels: 14,268 weights, where four members have 14,368


def data() -> Any:
    digits = load("digits")
    if not CHOOSING:
        return digits
    train, held_out = slice(-HELD_OUT), slice(-HELD_OUT, None)
    return dataclasses.replace(
        digits,
        x_train=digits.x_train[train],
        y_train=digits.y_train[train],
        x_test=digits.x_train[held_out],
        y_test=digits.y_train[held_out],
    )


def network(width: float = 1) -> nn.Module:
    a, b, c = (round(width * n) for n in (8, 16, 32))
    return nn.Sequential(
        nn.Conv2d(1, a, 3), nn.ReLU(), nn.Conv2d(a, b, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * b, c), nn.ReLU(), nn.Linear(c, 10),
    )  # fmt: skip


def classifier(model: nn.Module) -> PyTorchClassifier:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )


def recycled() -> Any:
    """One step from where the last epoch ended; no free step, so that all networks are trained alike."""
    return Recycled(PGD(EPS, eps_step=0.05, max_iter=1), free_step=False)


def boosted(seed: int, attack: Any = None, cap: float | None = None, constraints: Any = (), **options: Any) -> Any:
    def make() -> PyTorchClassifier:
        return classifier(network() if cap is None else SoftCapped(network(), cap))

    trainer = BoostedTrainer(
        make, attack or ATTACK, constraints, stages=STAGES, factored=False, seed=seed, verbose=False, **options
    )
    digits = data()
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=EPOCHS)
    notes = {"edges": [r.edge for r in trainer.results], "seconds a stage": [r.seconds for r in trainer.results]}
    return trainer.get_classifier(), trainer.compress(), notes


def single(seed: int, attack: Any = None, width: float = 1, epochs: int = EPOCHS, constraints: Any = ()) -> Any:
    torch.manual_seed(seed)
    given, digits = classifier(network(width)), data()
    trainer: Any = (
        ATMCTrainer(given, attack or ATTACK, constraints, factored=False, seed=seed, verbose=False)
        if constraints
        else ObjectiveTrainer(given, Adversarial(attack or ATTACK), seed=seed, verbose=False)
    )
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=epochs)
    return trainer.get_classifier(), CompressedModel.of(trainer.get_classifier(), constraints), {}


def independent(seed: int, recycling: bool = False) -> Any:
    attacks = [recycled() if recycling else None for _ in range(STAGES)]
    ensemble = EnsembleClassifier.of([single(seed + 100 * i, attack)[0] for i, attack in enumerate(attacks)])
    return ensemble, CompressedModel.of(ensemble), {}


METHODS: dict[str, Callable[..., Any]] = {
    "average": boosted,
    "independent": independent,
    "wide": functools.partial(single, width=WIDE),
    "wide, long": functools.partial(single, width=WIDE, epochs=LONG),
    "average, 4 bits": functools.partial(boosted, constraints=FOUR_BITS),
    "wide, 4 bits": functools.partial(single, width=WIDE, constraints=FOUR_BITS),
    "average, 1 bit": functools.partial(boosted, constraints=ONE_BIT),
    "sum": functools.partial(boosted, rule=Sum(search=())),
    "average, recycled": lambda seed: boosted(seed, recycled()),
    "independent, recycled": functools.partial(independent, recycling=True),
    "wide, recycled": lambda seed: single(seed, recycled(), width=WIDE),
    "wide, recycled, equal time": lambda seed: single(seed, recycled(), width=WIDE, epochs=EQUAL_TIME),
    "average, 1 bit, recycled": lambda seed: boosted(seed, recycled(), constraints=ONE_BIT),
    "average, fresh, recycled": lambda seed: boosted(seed, recycled(), warm_start=False),
    "average, margin loss, recycled": lambda seed: boosted(seed, recycled(), rule=Average(mce=1.0)),
    "average, capped": functools.partial(boosted, cap=10.0),
    "average, margin loss": functools.partial(boosted, rule=Average(mce=1.0)),
    "average, fresh": functools.partial(boosted, warm_start=False),
    "pairs": functools.partial(boosted, rule=Pairs()),
    "one, long": functools.partial(single, epochs=LONG),
}


def worst_case(given: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Clean accuracy, and the share of examples that no attack fools."""
    given.model.eval()
    problem = Problem.of(given, given.model, torch.Generator().manual_seed(0))
    standing = ~misclassified(problem.answers(x), y)
    clean = float(standing.double().mean())
    for one in WORST_CASE:
        rows = standing.nonzero()[:, 0]
        standing[rows] = ~misclassified(problem.answers(one(problem, x[rows], y[rows])), y[rows])
    return clean, float(standing.double().mean())


def measured(name: str, seed: int) -> dict[str, Any]:
    digits = data()
    x, y = torch.from_numpy(digits.x_test), torch.from_numpy(digits.y_test)
    started = time.process_time()
    made, file, notes = METHODS[name](seed)
    seconds = time.process_time() - started
    prefixes = [worst_case(made, x, y)]
    if "edges" in notes:
        ensemble = made.model
        for k in reversed(range(1, len(ensemble))):
            with ensemble.using(slice(k)):
                prefixes.insert(0, worst_case(made, x, y))
    if name == "average, capped":
        answers = made.predict_early(digits.x_test)
        assert (answers.classes == made.predict(digits.x_test).argmax(1)).all()
        notes["members asked"] = float(answers.stages.mean())
    if file.manifest.members:
        notes["codebook bytes"] = sum(size.codebook_bytes for size in member_sizes(file))
    return {"prefixes": prefixes, "seconds": seconds, "bytes": file.file_bytes, **notes}


def main(output: Path, names: list[str], seeds: int = 3) -> None:
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    print("| network | clean, % | worst case, % (seeds) | of the first 1, 2, ... members, % | bytes | seconds |")
    print("|---|---|---|---|---|---|")
    for name in names or METHODS:
        rows = []
        for seed in range(seeds):
            path = output / f"{name.replace(',', '').replace(' ', '-')}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(measured(name, seed)))
            rows.append(json.loads(path.read_text()))
        clean = statistics.mean(100 * row["prefixes"][-1][0] for row in rows)
        worst = [100 * row["prefixes"][-1][1] for row in rows]
        prefixes = [
            statistics.mean(100 * r[1] for r in column)
            for column in zip(*(row["prefixes"] for row in rows), strict=False)
        ]
        size, seconds = (statistics.mean(row[key] for row in rows) for key in ("bytes", "seconds"))
        print(
            f"| {name} | {clean:.1f} | {statistics.mean(worst):.1f} ({', '.join(f'{w:.1f}' for w in worst)}) | "
            f"{' / '.join(f'{p:.1f}' for p in prefixes)} | {size:,.0f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    options = [argument for argument in sys.argv[2:] if argument.startswith("--")]
    number = next((int(option.partition("=")[2]) for option in options if option.startswith("--seeds=")), 3)
    main(Path(sys.argv[1]), [argument for argument in sys.argv[2:] if argument not in options], number)
