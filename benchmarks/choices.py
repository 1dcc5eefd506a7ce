"""The measurements behind the defaults: which schedule and solver, and at which densities factors pay.

    python benchmarks/choices.py schedule                            # digits, three seeds
    python benchmarks/choices.py solvers
    python benchmarks/choices.py factors
    python benchmarks/choices.py levers
    python benchmarks/choices.py smooth
    python benchmarks/choices.py schedule --data-dir DIR             # a part of MNIST, one seed

Each line is a full training run a seed, all with the same epochs. Validation data only, and the figures are those of
the last epoch, since the best of many is chosen on what it is measured on.
"""

from __future__ import annotations

import functools
import itertools
import time
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import torch
import typer
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_atmc import (
    ADMM,
    PGD,
    Adversarial,
    ATMCTrainer,
    Constraint,
    ObjectiveTrainer,
    Quantization,
    Ramp,
    Solver,
    Sparsity,
    StraightThrough,
    Tightening,
    Weights,
)
from art_atmc.attacks import Growing, Linear
from art_atmc.compression import paper_solver
from art_atmc.data import load, split_validation
from art_atmc.evaluation import evaluate, standard
from art_atmc.networks import digits_cnn, lenet
from art_atmc.training import AveragedWeights, Cosine, Hold, OneCycle

HALF = Hold(0.5)

app = typer.Typer(add_completion=False)
DataDir = Annotated[Optional[Path], typer.Option(help="Folder of the MNIST files; digits without it.")]  # noqa: UP045


class Setting:
    """A data set, its network, and the attack: digits at eps 0.1, or 8,000 images of MNIST at eps 76/255."""

    def __init__(self, data_dir: Path | None) -> None:
        if data_dir is None:
            data, self.make, self.epochs, self.share = load("digits"), digits_cnn, 30, 0.0
            self.seeds: tuple[int, ...] = (0, 1, 2)
            self.attack = PGD(0.1, 0.025, 5)
            self.parts = split_validation(data.x_train, data.y_train, 1 / 3, 0)
        else:
            data, self.make, self.epochs, self.share = load("mnist", data_dir), lenet, 6, 0.5
            self.seeds = (0,)
            self.attack = PGD(76 / 255, 1.25 * 76 / 255 / 5, 5)
            x, y, x_val, y_val = split_validation(data.x_train, data.y_train, 5000, 0)
            chosen = np.random.RandomState(1).permutation(len(x))[:8000]
            self.parts = x[chosen], y[chosen], x_val[:2000], y_val[:2000]

    def run(self, name, constraints, rate=HALF, *, smoothing=0.0, grow=None, share=None, callbacks=(), **options):
        """One line of the means over the seeds.

        :param smoothing: of the labels.
        :param grow: attack -> the attack of the training, which grows.
        :param share: of the clean loss, in place of the setting's own.
        """
        x, y, x_val, y_val = self.parts
        clean, robust, started = [], [], time.perf_counter()
        for seed in self.seeds:
            torch.manual_seed(seed)
            model = self.make()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
            classifier = PyTorchClassifier(
                model,
                nn.CrossEntropyLoss(label_smoothing=smoothing),
                x.shape[1:],
                10,
                optimizer=optimizer,
                clip_values=(0, 1),
                preprocessing=None,
            )
            attack = self.attack if grow is None else grow(self.attack)
            objective = Adversarial(attack, self.share if share is None else share)
            inner = ObjectiveTrainer(
                classifier, objective, callbacks=[make() for make in callbacks], seed=seed, verbose=False
            )
            trainer = ATMCTrainer(classifier, trainer=inner, constraints=constraints, **options)
            data = {"validation_data": (x_val, y_val), "nb_epochs": self.epochs, "batch_size": 64}
            trainer.fit(x, y, scheduler=rate, **data)  # type: ignore[arg-type]
            last = trainer.history[-1]
            clean.append(last.get("averaged_clean_accuracy", last["clean_accuracy"]))
            robust.append(last.get("averaged_robust_accuracy", last["robust_accuracy"]))
        print(
            f"{name:60s} clean {np.mean(clean):.3f}  robust {np.mean(robust):.3f}  "
            f"(seeds {' '.join(f'{r:.3f}' for r in robust)})  {time.perf_counter() - started:.0f} s",
            flush=True,
        )


@app.command()
def schedule(data_dir: DataDir = None, density: float = 0.02, bits: int = 1) -> None:
    """Compare when the constraints act together with when the learning rate falls, at one density and bit width."""
    setting = Setting(data_dir)
    constraints = [Sparsity(density), Quantization(bits)]
    for rate in (Cosine(), Hold(0.8), HALF, OneCycle()):
        setting.run(f"dense, {rate}", [], rate, factored=False)
        for shares in (
            ((1 / 3, 1 / 3), 2 / 3),  # the stages of the reference code
            ((0.0, 0.75), 0.75),
            ((0.0, 0.6), 0.5),
            ((0.15, 0.6), 0.5),
            ((0.15, 0.6), 0.3),
            ((0.3, 0.7), 0.6),
        ):
            setting.run(f"{shares}, {rate}", constraints, rate, schedule=Tightening(*shares))


@app.command()
def solvers(
    data_dir: DataDir = None, densities: str = "0.05,0.02,0.01", widths: str = "1,2,4", feedbacks: str = "1,0.3,0.1"
) -> None:
    """Compare projection and ADMM, as in the paper, with training through the projection."""
    setting = Setting(data_dir)
    for density, bits in itertools.product(map(float, densities.split(",")), map(int, widths.split(","))):
        constraints = [Sparsity(density), Quantization(bits)]
        setting.run(f"density {density}, {bits} bits, paper", constraints, solver=paper_solver)
        setting.run(f"density {density}, {bits} bits, balanced ADMM", constraints, solver=balanced)
        for feedback in map(float, feedbacks.split(",")):
            name = f"density {density}, {bits} bits, through {feedback}"
            setting.run(name, constraints, solver=functools.partial(through, feedback=feedback))


def balanced(weights: Weights, constraint: Constraint, ramp: Ramp) -> Solver:
    """Through the support, and by ADMM whose weight follows its residuals to the codes."""
    if constraint.coded:
        return ADMM(weights, constraint, balance=10, ramp=ramp)
    return StraightThrough(weights, constraint, ramp=ramp)


def through(weights: Weights, constraint: Constraint, ramp: Ramp, *, feedback: float) -> Solver:
    return StraightThrough(weights, constraint, feedback=feedback, ramp=ramp)


@app.command()
def levers(data_dir: DataDir = None, density: float = 0.02, bits: int = 1) -> None:
    """What curricula, averaged weights and smooth labels gain, dense and at one density and bit width."""
    setting = Setting(data_dir)
    variations: dict[str, dict[str, Any]] = {
        "as it is": {},
        "rate rises over the first tenth": {"rate": Hold(0.5, warmup=0.1)},
        "radius grows over the first 0.3": {"grow": functools.partial(Growing, until=0.3)},
        "steps grow from 1 over the first half": {"grow": longer},
        "clean share falls from 0.5 over the first half": {"share": Linear(0.5, 0.0, until=0.5)},
        "smooth labels, 0.1": {"smoothing": 0.1},
        "averaged weights, 0.98": {"callbacks": [lambda: AveragedWeights(0.98)]},
        "averaged weights, 0.98, cosine": {"callbacks": [lambda: AveragedWeights(0.98)], "rate": Cosine()},
        "cosine": {"rate": Cosine()},
    }
    for constraints in ([], [Sparsity(density), Quantization(bits)]):
        for name, options in variations.items():
            kind = f"{density}, {bits} bits" if constraints else "dense"
            setting.run(f"{kind}, {name}", constraints, factored=False, **options)


def longer(attack: PGD) -> Growing:
    """All of the radius at once, and one step at first."""
    return Growing(attack, until=1e-6, max_iter=Linear(1, attack.max_iter, until=0.5))


@app.command()
def smooth() -> None:
    """Smooth labels under the suite `standard` with the plain loss: training's own attack climbs the smooth one."""
    setting = Setting(None)
    x, y, x_val, y_val = setting.parts
    for density, smoothing, seed in itertools.product((1.0, 0.02), (0.0, 0.1), setting.seeds):
        torch.manual_seed(seed)
        model = setting.make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
        classifier = PyTorchClassifier(model, loss, x.shape[1:], 10, optimizer=optimizer, clip_values=(0, 1))
        constraints = [] if density == 1 else [Sparsity(density), Quantization(1)]
        objective = Adversarial(setting.attack)
        trainer = ATMCTrainer(classifier, objective, constraints, seed=seed, verbose=False, factored=False)
        trainer.fit(x, y, validation_data=(x_val, y_val), nb_epochs=30, batch_size=64, scheduler=HALF)
        plain = PyTorchClassifier(classifier.model, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, 1))
        found = evaluate(plain, x_val, y_val, suite=standard(0.1), verbose=False)
        print(f"density {density}, smooth {smoothing}, seed {seed}: {found.worst_case.mean():.3f}", flush=True)


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
