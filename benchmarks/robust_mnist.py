"""LeNet on MNIST, robust from recycled perturbations, dense and then small: what docs/results/mnist.md records.

    python benchmarks/robust_mnist.py dense --data-dir DIR --network lenet --epochs 40 --output d.atmc
    python benchmarks/robust_mnist.py small --data-dir DIR --start d.atmc --density 0.3 --density 0.1 --output s.atmc
    python benchmarks/robust_mnist.py attack --data-dir DIR --suite standard --output s-0.1.json s-0.1.atmc

The epoch is chosen on validation images; test images are looked at by ``attack`` alone. One line an epoch, with the
processor's seconds so far.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer
from art.estimators.classification import PyTorchClassifier

from art_atmc import (
    PGD,
    Adversarial,
    ATMCTrainer,
    CompressedModel,
    ObjectiveTrainer,
    Quantization,
    Recycled,
    Sparsity,
    Tightening,
    compressible,
)
from art_atmc.attacks import Square
from art_atmc.compression import equalize
from art_atmc.compression.paper_size import paper_bits
from art_atmc.data import load, split_validation
from art_atmc.evaluation import evaluate, standard
from art_atmc.evaluation.suites import Access, Attack, Suite, paper
from art_atmc.networks import NETWORKS
from art_atmc.training import AveragedWeights, Callback, Hold, OneCycle, Rate

EPS = 76 / 255
app = typer.Typer(add_completion=False)
DataDir = Annotated[Path, typer.Option(help="Folder of the MNIST files.")]
Output = Annotated[Path, typer.Option(help="File of the network.")]
Fresh = Annotated[float, typer.Option(help="Share of the batches whose perturbations begin again.")]
FromImage = Annotated[bool, typer.Option(help="They begin at the image itself, or at a random point.")]
Smoothing = Annotated[float, typer.Option(help="Of the labels.")]
Validation = Annotated[int, typer.Option(help="Training images that are held out to choose the epoch on.")]


class Lines(Callback):
    """The figures of each epoch."""

    def on_epoch_end(self, run: Any, row: Any) -> None:
        figures = {name: round(value, 4) for name, value in row.items()}
        print(json.dumps(figures | {"cpu": round(time.process_time(), 1)}), flush=True)


def trained(
    classifier: PyTorchClassifier,
    data_dir: Path,
    epochs: int,
    rate: Rate,
    validation: int,
    seed: int,
    bf16: bool,
    checkpoint: Path,
    attack: Recycled,
    average: float | None = None,
    **compression: Any,
) -> PyTorchClassifier:
    data = load("mnist", data_dir)
    x, y, x_val, y_val = split_validation(data.x_train, data.y_train, validation / len(data.x_train), seed)
    trainer: Any = ObjectiveTrainer(
        classifier,
        Adversarial(attack),
        callbacks=[Lines(), *([] if average is None else [AveragedWeights(average)])],
        checkpoint=checkpoint,
        seed=seed,
        precision="bf16" if bf16 else None,
        verbose=False,
    )
    if compression:
        trainer = ATMCTrainer(classifier, trainer=trainer, **compression)
    trainer.fit(x, y, validation_data=(x_val, y_val), nb_epochs=epochs, batch_size=128, scheduler=rate)
    return trainer.get_classifier()


def recycled(max_iter: int, fresh: float, from_image: bool) -> Recycled:
    """Steps of 0.1 from the last perturbation; first and fresh visits go straight to the border from the image itself,
    as the paper's attack does, or across the ball from a random point."""
    first = PGD(EPS, (1.25 if from_image else 2.5) * EPS / 8, 8, random_start=not from_image)
    return Recycled(PGD(EPS, 0.1, max_iter), first=first, fresh=fresh)


def checkpoints(output: Path) -> Path:
    """Where an interrupted training goes on from when the command is given again."""
    return output.with_suffix(".checkpoints")


def new_classifier(model: torch.nn.Module, lr: float, smoothing: float) -> PyTorchClassifier:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    return PyTorchClassifier(model, loss, (1, 28, 28), 10, optimizer=optimizer, clip_values=(0.0, 1.0))


@app.command()
def dense(
    data_dir: DataDir,
    output: Output,
    network: str = "lenet",
    epochs: int = 40,
    lr: float = 2.5e-3,
    max_iter: int = 1,
    fresh: Fresh = 0.2,
    from_image: FromImage = True,
    smoothing: Smoothing = 0.0,
    validation: Validation = 2000,
    seed: int = 0,
    bf16: bool = False,
) -> None:
    """Train a dense network."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    classifier = new_classifier(NETWORKS[network](10), lr, smoothing)
    attack = recycled(max_iter, fresh, from_image)
    trained(classifier, data_dir, epochs, OneCycle(0.2), validation, seed, bf16, checkpoints(output), attack)
    CompressedModel.of(classifier, (), network=network).save(output)


@app.command()
def small(
    data_dir: DataDir,
    output: Output,
    density: Annotated[
        list[float], typer.Option(help="Share of the weights that is kept; of several, each goes on from the last.")
    ],
    bits: Annotated[int, typer.Option(help="Of each codebook.")] = 2,
    start: Annotated[Optional[Path], typer.Option(help="File of a dense network; from scratch without.")] = None,  # noqa: UP045
    network: Annotated[str, typer.Option(help="Where none is given to start from.")] = "lenet",
    epochs: int = 16,
    lr: float = 2e-3,
    max_iter: Annotated[
        int, typer.Option(help="Steps of a batch's attack; perturbations age as the density falls.")
    ] = 2,
    support: Annotated[tuple[float, float], typer.Option(help="Shares of the run within which the density falls.")] = (
        0.0,
        0.5,
    ),
    codebook: Annotated[float, typer.Option(help="Share of the run from which the codes act.")] = 0.4,
    average: Annotated[Optional[float], typer.Option(help="Decay of the averaged weights.")] = 0.998,  # noqa: UP045
    equal: Annotated[bool, typer.Option(help="Equalize the layers of the dense network first.")] = False,
    mantissa_bits: Annotated[Optional[int], typer.Option(help="Of biases in the file; all without.")] = 8,  # noqa: UP045
    fresh: Fresh = 0.2,
    from_image: FromImage = True,
    smoothing: Smoothing = 0.0,
    validation: Validation = 2000,
    seed: int = 0,
    bf16: bool = False,
) -> None:
    """Train a small network, from a dense one or from scratch."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    before = None if start is None else CompressedModel.load(start)
    network = network if before is None else before.manifest.network or network
    model = NETWORKS[network](10)
    if before is not None:
        before.restore(model)
    if equal:
        print(json.dumps({"scales": equalize(model)}), flush=True)
    attack = recycled(max_iter, fresh, from_image)  # its perturbations go on too
    for share in density:
        file = output if len(density) == 1 else output.with_stem(f"{output.stem}-{share:g}")
        if file.exists():
            CompressedModel.load(file).restore(model)
            continue
        constraints = [Sparsity(share), Quantization(bits)]
        robust = trained(
            new_classifier(model, lr, smoothing),
            data_dir,
            epochs,
            Hold(0.5),
            validation,
            seed,
            bf16,
            checkpoints(file),
            attack,
            average,
            constraints=constraints,
            schedule=Tightening(support, codebook),
            factored=False,
        )
        weights = compressible(robust.model)
        size = CompressedModel.of(robust, constraints, network=network, mantissa_bits=mantissa_bits).save(file)
        ratio = paper_bits(weights) / (32 * weights.dense_size)
        print(json.dumps({"nnz": weights.nnz(), "paper_ratio": round(ratio, 6), "file_bytes": size}), flush=True)


@app.command()
def attack(
    path: Path,
    data_dir: DataDir,
    output: Output,
    suite: Annotated[
        str, typer.Option(help="standard, or short: the paper's attack, PGD-40 and Square-100.")
    ] = "short",
    examples: Annotated[int, typer.Option(help="Test images, the first ones.")] = 10_000,
) -> None:
    """Attack a network on test images; goes on where it was interrupted."""
    torch.set_num_threads(1)
    data = load("mnist", data_dir)
    short = Suite(
        "short",
        EPS,
        math.inf,
        (
            paper(EPS, math.inf, 16),
            Attack("PGD-40", PGD(EPS, 0.02, 40)),
            Attack("Square-100", Square(EPS, math.inf, 100), Access.OUTPUTS),
        ),
    )
    found = evaluate(
        CompressedModel.load(path).classifier(),
        data.x_test[:examples],
        data.y_test[:examples],
        suite=short if suite == "short" else standard(EPS, math.inf, 16),
        checkpoint=output,
        verbose=False,
    )
    print(found)


if __name__ == "__main__":
    app()
