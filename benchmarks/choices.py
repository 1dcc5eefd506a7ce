"""The measurements behind the defaults: which schedule, and at which densities factors pay. Validation data only.

    python benchmarks/choices.py schedule                            # digits, three seeds
    python benchmarks/choices.py factors
    python benchmarks/choices.py schedule --data-dir DIR             # a part of MNIST, one seed

Each line is a full training run a seed, all with the same epochs; the figures are those of the best validation epoch.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Optional

import numpy as np
import torch
import typer
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_atmc import PGD, Adversarial, ATMCTrainer, Quantization, Sparsity, Tightening
from art_atmc.data import load, split_validation
from art_atmc.networks import digits_cnn, lenet

app = typer.Typer(add_completion=False)
DataDir = Annotated[Optional[Path], typer.Option(help="Folder of the MNIST files; digits without it.")]  # noqa: UP045


class Setting:
    """A data set, its network, and the attack: digits at eps 0.1, or 8,000 images of MNIST at eps 76/255."""

    def __init__(self, data_dir: Path | None) -> None:
        if data_dir is None:
            data, self.make, self.seeds, self.epochs, self.share = load("digits"), digits_cnn, (0, 1, 2), 20, 0.0
            self.attack = PGD(0.1, 0.025, 5)
            self.parts = split_validation(data.x_train, data.y_train, 0.25, 0)
        else:
            data, self.make, self.seeds, self.epochs, self.share = load("mnist", data_dir), lenet, (0,), 6, 0.5
            self.attack = PGD(76 / 255, 1.25 * 76 / 255 / 5, 5)
            x, y, x_val, y_val = split_validation(data.x_train, data.y_train, 5000, 0)
            chosen = np.random.RandomState(1).permutation(len(x))[:8000]
            self.parts = x[chosen], y[chosen], x_val[:2000], y_val[:2000]

    def run(self, name, constraints, **options):
        x, y, x_val, y_val = self.parts
        clean, robust, started = [], [], time.perf_counter()
        for seed in self.seeds:
            torch.manual_seed(seed)
            model = self.make()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
            classifier = PyTorchClassifier(
                model,
                nn.CrossEntropyLoss(),
                x.shape[1:],
                10,
                optimizer=optimizer,
                clip_values=(0, 1),
                preprocessing=None,
            )
            objective = Adversarial(self.attack, self.share)
            trainer = ATMCTrainer(classifier, objective, constraints, seed=seed, verbose=False, **options)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
            data = {"validation_data": (x_val, y_val), "nb_epochs": self.epochs, "batch_size": 64}
            trainer.fit(x, y, scheduler=scheduler, **data)
            best = max(trainer.history, key=lambda row: (row["robust_accuracy"], row["clean_accuracy"]))
            clean.append(best["clean_accuracy"])
            robust.append(best["robust_accuracy"])
        print(
            f"{name:34s} clean {np.mean(clean):.3f}  robust {np.mean(robust):.3f}  "
            f"(spread of seeds {np.std(robust):.3f})  {time.perf_counter() - started:.0f} s",
            flush=True,
        )


@app.command()
def schedule(data_dir: DataDir = None, density: float = 0.02, bits: int = 4) -> None:
    """Compare schedules at one density and bit width, without factors."""
    setting = Setting(data_dir)
    setting.run("dense", [], factored=False)
    for name, shares in {
        "stages of a third (the reference)": ((1 / 3, 1 / 3), 2 / 3),
        "in full from the start": ((0.0, 0.0), 0.0),
        "cubic to 0.3, codebook from 0.5": ((0.0, 0.3), 0.5),
        "cubic to 0.5, codebook from 0.6": ((0.0, 0.5), 0.6),
        "cubic to 0.75, codebook from 0.75": ((0.0, 0.75), 0.75),
        "cubic to 0.75, codebook from 0.8": ((0.0, 0.75), 0.8),
        "cubic to 0.85, codebook from 0.85": ((0.0, 0.85), 0.85),
        "cubic to 0.9, codebook from 0.9": ((0.0, 0.9), 0.9),
    }.items():
        constraints = [Sparsity(density), Quantization(bits)]
        setting.run(name, constraints, factored=False, schedule=Tightening(*shares))


@app.command()
def factors(data_dir: DataDir = None, densities: str = "0.1,0.05,0.02,0.01,0.005") -> None:
    """Compare W = (I + U)V + C with the plain weights, sparsity only."""
    setting = Setting(data_dir)
    for density in map(float, densities.split(",")):
        for factored in (False, True):
            setting.run(
                f"density {density}, {'factors' if factored else 'plain'}", [Sparsity(density)], factored=factored
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    app()
