"""Three boosted members against one network of as many weights on MNIST, after equal epochs and after equal time.

python plugins/art-atmc-boosting/examples/mnist.py DATA-DIR [IMAGES] [EPOCHS] [SEED]

Worst case of PGD-20 and APGD on the first 500 test images, used once. Times are the processor's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from art_atmc_boosting import BoostedTrainer
from torch import nn

from art_atmc import PGD, Adversarial, ObjectiveTrainer, Problem, Recycled
from art_atmc.attacks import APGD, DLR, CrossEntropy
from art_atmc.classifiers import misclassified
from art_atmc.data import load

EPS, STAGES = 0.1, 3
WORST_CASE = (
    PGD(EPS, eps_step=0.0125, max_iter=20),
    APGD(EPS, max_iter=30, objective=CrossEntropy()),
    APGD(EPS, max_iter=30, objective=DLR()),
)


def make(width: float = 1) -> PyTorchClassifier:
    a, b, c = (round(width * n) for n in (8, 16, 32))
    model = nn.Sequential(
        nn.Conv2d(1, a, 5, stride=2), nn.ReLU(), nn.Conv2d(a, b, 5, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * b, c), nn.ReLU(), nn.Linear(c, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 28, 28), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )


def attack() -> Any:
    return Recycled(PGD(EPS, eps_step=0.05, max_iter=1), free_step=False)


def report(name: str, made: Any, seconds: float, data: Any) -> None:
    x, y = torch.from_numpy(data.x_test[:500]), torch.from_numpy(data.y_test[:500])
    made.model.eval()
    problem = Problem.of(made, made.model, torch.Generator().manual_seed(0))
    standing = ~misclassified(problem.answers(x), y)
    clean = standing.double().mean()
    for one in WORST_CASE:
        rows = standing.nonzero()[:, 0]
        standing[rows] = ~misclassified(problem.answers(one(problem, x[rows], y[rows])), y[rows])
    weights = sum(p.numel() for p in made.model.parameters() if p.dim() > 1)
    worst = standing.double().mean()
    print(f"| {name} | {weights:,} | {100 * clean:.1f} | {100 * worst:.1f} | {seconds:.0f} |", flush=True)


def single(data: Any, width: float, images: int, epochs: int, seed: int) -> tuple[Any, float]:
    torch.manual_seed(seed)
    trainer = ObjectiveTrainer(make(width), Adversarial(attack()), seed=seed, verbose=False)
    started = time.process_time()
    trainer.fit(data.x_train[:images], data.y_train[:images], batch_size=64, nb_epochs=epochs)
    return trainer.get_classifier(), time.process_time() - started


def main(folder: Path, images: int = 4000, epochs: int = 8, seed: int = 0) -> None:
    torch.set_num_threads(1)
    data = load("mnist", folder)
    print("| network | weights | clean, % | worst case, % | seconds |\n|---|---|---|---|---|", flush=True)
    trainer = BoostedTrainer(make, attack(), stages=STAGES, seed=seed, verbose=False)
    trainer.fit(data.x_train[:images], data.y_train[:images], batch_size=64, nb_epochs=epochs)
    spent = 0.0
    for result in trainer.results:
        spent += result.seconds
        prefix = trainer.get_classifier()
        for _ in range(STAGES - result.stage):
            prefix.model.drop(-1)
        report(f"{result.stage} members", prefix, spent, data)
    wide = 1.76  # times the channels: about the weights of three members
    made, seconds = single(data, wide, images, epochs, seed)
    report(f"one network, {epochs} epochs", made, seconds, data)
    longer = max(epochs, round(epochs * spent / seconds))
    report(f"one network, {longer} epochs", *single(data, wide, images, longer, seed), data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
