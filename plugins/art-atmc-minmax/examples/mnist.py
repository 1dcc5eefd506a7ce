"""Min-max attacks on four MNIST networks beside the average and one-hot MAX: the same images, steps and starts.

python plugins/art-atmc-minmax/examples/mnist.py ensemble|alone|universal|transformations|cost DATA NETWORKS
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import UniversalPerturbation
from art.estimators.classification import PyTorchClassifier
from art_atmc_minmax import (
    NAMED,
    MinMaxAttack,
    MinMaxResult,
    MinMaxTransformations,
    MinMaxUniversal,
    Models,
    project_simplex,
)
from mnist_networks import NETWORKS, classifiers

from art_atmc import PGD, Problem
from art_atmc.classifiers import fixed
from art_atmc.data import Dataset, load

SEEDS = (0, 1, 2)
STRATEGIES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "average": {"gamma": math.inf},
        "one-hot MAX": {"gamma": 0.0, "weight_step": math.inf},
        "min-max": {},
    }
)
BALLS = ((math.inf, 0.15), (2, 2.0), (math.inf, 0.2), (1, 12.0), (0, 30.0))
IMAGES = 100  # of each seed, its own
Make = Callable[..., Any]


def images(data: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rows = slice(seed * IMAGES, (seed + 1) * IMAGES)
    return data.x_test[rows], data.y_test[rows]


def row(name: str, found: Mapping[str, list[float]]) -> None:
    """Means, and the seeds in brackets."""
    cells = [f"{statistics.mean(each):.1f} ({', '.join(f'{value:.0f}' for value in each)})" for each in found.values()]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def strategies(name: str, make: Make, data: Dataset, networks: Path, **options: Any) -> None:
    """One row: how many are fooled at once by each strategy, in per cent."""
    found: dict[str, list[float]] = {strategy: [] for strategy in STRATEGIES}
    for seed in SEEDS:
        x, y = images(data, seed)
        victims = classifiers(data, networks, seed)
        for strategy, settings in STRATEGIES.items():
            attack = make(victims, **{**options, **settings}, seed=seed, verbose=False)
            attack.generate(x, y)
            found[strategy].append(100 * attack.result.success)
            if strategy == "min-max" and seed == 0:
                weights: MinMaxResult = attack.result
    row(name, found)
    print("\n".join(f"    {line}" for line in str(weights).splitlines()), file=sys.stderr, flush=True)


def ensemble(data: Dataset, networks: Path) -> None:
    print(f"| ball | {' | '.join(STRATEGIES)} |")
    for norm, eps in BALLS:
        strategies(
            f"{norm:g}, {eps:g}",
            lambda victims, **o: MinMaxAttack(victims, names=list(NETWORKS), **o),
            data, networks, norm=norm, eps=eps,
        )  # fmt: skip


def alone(data: Dataset, networks: Path) -> None:
    """What an attack on the hardest network by itself fools it on: no attack on all four can reach more."""
    found: list[float] = []
    for seed in SEEDS:
        attack = MinMaxAttack(classifiers(data, networks, seed)[3:], eps=0.15, seed=seed, verbose=False)
        attack.generate(*images(data, seed))
        found.append(100 * attack.result.success)
    row("lenet alone, inf, 0.15", {"": found})


def universal(data: Dataset, networks: Path) -> None:
    """Groups of five images share a perturbation; LeNet-5, eps 0.2."""
    print(f"| network | {' | '.join(STRATEGIES)} |")
    for k in (2,):
        strategies(
            f"{list(NETWORKS)[k]}, groups of 5",
            lambda victims, k=k, **o: MinMaxUniversal(victims[k], group_size=5, **o),
            data, networks, eps=0.2,
        )  # fmt: skip
    arts: list[float] = []
    for seed in SEEDS:
        x, y = images(data, seed)
        arts.append(_by_art(classifiers(data, networks, seed)[2], x, y, seed))
    row("lenet-5, ART's UniversalPerturbation", {"": arts})


def _by_art(victim: PyTorchClassifier, x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Per cent of the groups that ART's attack fools, by PGD with as many steps in all."""
    np.random.seed(seed)  # noqa: NPY002  # where ART draws from
    fooled = []
    for rows in np.arange(len(x)).reshape(-1, 5):
        attack = UniversalPerturbation(
            victim, "pgd", {"eps": 0.2, "eps_step": 0.05, "max_iter": 10, "verbose": False}, delta=0.0, max_iter=5,
            eps=0.2, norm=np.inf, verbose=False,
        )  # fmt: skip
        adv = attack.generate(x[rows], y[rows])
        fooled.append(bool((victim.predict(adv).argmax(axis=1) != y[rows]).all()))
    return 100 * statistics.mean(fooled)


def transformations(data: Dataset, networks: Path) -> None:
    print(f"| network | {' | '.join(STRATEGIES)} |")
    for k in (2, 0):
        strategies(
            f"{list(NETWORKS)[k]}, six transformations",
            lambda victims, k=k, **o: MinMaxTransformations(victims[k], tuple(NAMED), **o),
            data, networks, eps=0.1,
        )  # fmt: skip


def cost(data: Dataset, networks: Path) -> None:
    """CPU time of ours against the two-pass order and against PGD, sides in turns."""
    victims = classifiers(data, networks, 0)
    x, y = (torch.from_numpy(part) for part in images(data, 0))
    attack = MinMaxAttack(victims, eps=0.15, max_iter=20)
    ours = attack.minmax(attack.domains(x.numpy()))
    models = Models(victims).networks(Problem(victims[0].model))
    problem = Problem(models[0], clip_values=(0.0, 1.0))
    single = MinMaxAttack(victims[2:3], eps=0.15, max_iter=20, eps_step=0.01, random_start=False)
    alone, pgd = single.minmax(single.domains(x.numpy())), PGD(0.15, 0.01, 20, random_start=False)
    lone = Problem(single.domains(x.numpy()).networks(problem)[0], clip_values=(0.0, 1.0))

    turns: dict[str, list[float]] = {name: [] for name in ("ours", "two passes", "K = 1", "PGD")}
    for _ in range(3):
        for name, run in (
            ("ours", lambda: ours(problem, x, y)),
            ("two passes", lambda: _released(models, x, y, 20)),
            ("K = 1", lambda: alone(lone, x, y)),
            ("PGD", lambda: pgd(lone, x, y)),
        ):
            began = time.process_time()
            run()
            turns[name].append(time.process_time() - began)
    least = {name: min(each) for name, each in turns.items()}
    print(f"a step against two passes: {least['ours'] / least['two passes']:.2f}, to reach 0.8")
    print(f"one domain against PGD: {least['K = 1'] / least['PGD']:.2f}, to reach 1.05")


def _released(models: Sequence[torch.nn.Module], x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
    """The released code's order: each network once for the perturbation, and once more for the weights."""
    delta, weights = torch.zeros_like(x), torch.full((len(x), len(models)), 1 / len(models))
    with fixed(*models):
        for _ in range(steps):
            leaf = delta.requires_grad_()
            losses = torch.stack([_margin(model(x + leaf), y) for model in models], dim=1)
            (gradient,) = torch.autograd.grad((weights * losses).sum(), leaf)
            delta = (delta.detach() - 0.05 * gradient.sign()).clamp_(-0.15, 0.15)
            with torch.no_grad():
                losses = torch.stack([_margin(model(x + delta), y) for model in models], dim=1)
                weights = project_simplex(weights + 0.1 * losses)


def _margin(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    own = logits.gather(1, y[:, None])
    return (own - logits.scatter(1, y[:, None], -math.inf).amax(dim=1, keepdim=True))[:, 0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = {
        "ensemble": ensemble,
        "alone": alone,
        "universal": universal,
        "transformations": transformations,
        "cost": cost,
    }
    parts[sys.argv[1]](load("mnist", Path(sys.argv[2])), Path(sys.argv[3]))
