"""Reweighted regularisation against projection after each step (hard l0), at the same density: prints a Markdown table.

    python examples/compare.py runs/reweighted --density 0.1 --density 0.05 --density 0.02 --seeds 3 --epochs 20
    python examples/compare.py runs/reweighted-mnist --data mnist --data-dir DIR --density 0.02 --epochs 2 --steps 5

Both start from the same weights, see the same batches, attack and schedule, and are tested once: all test images, ART's
PGD with a random start, as many steps as in training. Runs whose result is in the output folder are not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art_atmc_reweighted import Reweighted
from scipy.stats import binomtest

from art_atmc import compressible
from art_atmc.compression import paper_solver
from art_atmc.data import Dataset, load
from art_atmc.experiments.settings import Settings
from art_atmc.experiments.train_and_test import fit, new_trainer, split

SOLVERS = {"hard l0": paper_solver, "reweighted": Reweighted}


def correct(classifier: Any, x: np.ndarray, y: np.ndarray) -> int:
    return int((classifier.predict(x, batch_size=500).argmax(1) == y).sum())


def trained(settings: Settings, dataset: Dataset) -> dict[str, Any]:
    trainer = new_trainer(settings, dataset, verbose=False)
    fit(trainer, settings, split(settings, dataset))
    robust = trainer.get_classifier()
    attack = settings.attack
    np.random.seed(settings.seed)  # noqa: NPY002, what ART draws the start from
    pgd = ProjectedGradientDescent(
        robust,
        eps=attack.eps,
        eps_step=attack.eps_step,
        max_iter=attack.max_iter,
        num_random_init=1,
        batch_size=500,
        verbose=False,
    )
    x, y = dataset.x_test, dataset.y_test
    return {
        "n": len(x),
        "clean": correct(robust, x, y),
        "robust": correct(robust, pgd.generate(x, y), y),
        "nnz": compressible(robust.model).nnz(),
        "best_validation": max(row["robust_accuracy"] for row in trainer.history),
        "history": trainer.history,
        "seconds": sum(row["seconds"] for row in trainer.history),
    }


def share(runs: list[dict[str, Any]], key: str) -> str:
    """The mean over the runs, each run where there are several, and Wilson's 95 % interval of one run at the mean."""
    n, each = runs[0]["n"], [run[key] for run in runs]
    low, high = binomtest(round(mean(each)), n).proportion_ci(method="wilson")
    listed = f" ({', '.join(f'{100 * count / n:.1f}' for count in each)})" if len(each) > 1 else ""
    return f"{100 * mean(each) / n:.1f}{listed} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--density", type=float, action="append", required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load(options.data, options.data_dir)
    options.output.mkdir(parents=True, exist_ok=True)
    print("| density | solver | non-zeros | clean, % | robust, % | training, s |\n|---|---|---|---|---|---|")
    for density in options.density:
        for name, solver in SOLVERS.items():
            runs = []
            for seed in range(options.seeds):
                file = options.output / f"{density}-{name.replace(' ', '-')}-{seed}.json"
                if not file.exists():
                    settings = Settings.resolved(
                        options.data,
                        data_dir=options.data_dir,
                        constraint=(f"sparsity:density={density}",),
                        factored=False,
                        solver=solver,
                        max_iter=options.steps,
                        epochs=options.epochs,
                        seed=seed,
                    )
                    file.write_text(json.dumps(trained(settings, dataset)))
                runs.append(json.loads(file.read_text()))
            print(
                f"| {density} | {name} | {max(run['nnz'] for run in runs):,} | {share(runs, 'clean')} | "
                f"{share(runs, 'robust')} | {mean(run['seconds'] for run in runs):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
