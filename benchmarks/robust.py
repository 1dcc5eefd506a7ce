"""Networks robust from recycled perturbations, dense and then small: what docs/results/mnist.md records.

    python benchmarks/robust.py dense --data-dir DIR --network lenet --epochs 40 --output d.atmc
    python benchmarks/robust.py small --data-dir DIR --start d.atmc --density 0.3 --density 0.1 --output s.atmc
    python benchmarks/robust.py attack --data-dir DIR --suite standard --output s-0.1.json s-0.1.atmc

CIFAR-10 with ``--data cifar10 --network wrn-16-1``, shifted and mirrored.

The epoch is chosen on validation images; test images are looked at by ``attack`` alone. One line an epoch, with the
processor's seconds so far.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

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
from art_atmc.data import Dataset, load, split_validation
from art_atmc.evaluation import evaluate, standard
from art_atmc.evaluation.suites import Access, Attack, Suite, paper
from art_atmc.networks import NETWORKS
from art_atmc.training import AveragedWeights, Callback, Hold, OneCycle, Rate, crop_and_flip

EPS = {"mnist": 76 / 255, "cifar10": 8 / 255}
FINE = {"mnist": 0.02, "cifar10": 1 / 255}  # step of PGD-40
app = typer.Typer(add_completion=False)
Data = Annotated[Literal["mnist", "cifar10"], typer.Option(help="The images.")]
DataDir = Annotated[Path, typer.Option(help="Folder of their files.")]
Output = Annotated[Path, typer.Option(help="File of the network.")]
Fresh = Annotated[float, typer.Option(help="Share of the batches whose perturbations begin again.")]
FromImage = Annotated[bool, typer.Option(help="They begin at the image itself, or at a random point.")]
Smoothing = Annotated[float, typer.Option(help="Of the labels.")]
Step = Annotated[float, typer.Option(help="Of the attack, in radii.")]
Images = Annotated[Optional[int], typer.Option(help="Number of training images, for trials.")]  # noqa: UP045
Average = Annotated[Optional[float], typer.Option(help="Decay of the averaged weights.")]  # noqa: UP045
Validation = Annotated[int, typer.Option(help="Training images that are held out to choose the epoch on.")]


class Lines(Callback):
    """The figures of each epoch."""

    def on_epoch_end(self, run: Any, row: Any) -> None:
        figures = {name: round(value, 4) for name, value in row.items()}
        print(json.dumps(figures | {"cpu": round(time.process_time(), 1)}), flush=True)


def trained(
    classifier: PyTorchClassifier,
    data: Dataset,
    rate: Rate,
    attack: Recycled,
    *,
    epochs: int,
    batch_size: int,
    validation: int,
    images: int | None,
    average: float | None,
    seed: int,
    bf16: bool,
    checkpoint: Path,
    **compression: Any,
) -> PyTorchClassifier:
    x, y, x_val, y_val = split_validation(data.x_train, data.y_train, validation / len(data.x_train), seed)
    trainer: Any = ObjectiveTrainer(
        classifier,
        Adversarial(attack),
        callbacks=[*([] if average is None else [AveragedWeights(average)]), Lines()],
        checkpoint=checkpoint,
        seed=seed,
        precision="bf16" if bf16 else None,
        verbose=False,
    )
    if compression:
        trainer = ATMCTrainer(classifier, trainer=trainer, **compression)
    trainer.fit(
        x[:images],
        y[:images],
        validation_data=(x_val, y_val),
        nb_epochs=epochs,
        batch_size=batch_size,
        scheduler=rate,
        augmentation=crop_and_flip if data.x_train.shape[1] == 3 else None,
    )
    return trainer.get_classifier()


def recycled(data: str, max_iter: int, step: float, fresh: float, from_image: bool) -> Recycled:
    """Steps from the last perturbation; first and fresh visits go straight to the border from the image itself, as the
    paper's attack does, or across the ball from a random point."""
    eps = EPS[data]
    first = PGD(eps, (1.25 if from_image else 2.5) * eps / 8, 8, random_start=not from_image)
    return Recycled(PGD(eps, step * eps, max_iter), first=first, fresh=fresh)


def checkpoints(output: Path) -> Path:
    """Where an interrupted training goes on from when the command is given again."""
    return output.with_suffix(".checkpoints")


def new_classifier(model: torch.nn.Module, data: Dataset, lr: float, smoothing: float) -> PyTorchClassifier:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    return PyTorchClassifier(model, loss, data.x_train.shape[1:], 10, optimizer=optimizer, clip_values=(0.0, 1.0))


@app.command()
def dense(
    data_dir: DataDir,
    output: Output,
    data: Data = "mnist",
    network: str = "lenet",
    epochs: int = 40,
    batch_size: int = 128,
    lr: float = 2.5e-3,
    max_iter: int = 1,
    step: Step = 1 / 3,
    fresh: Fresh = 0.2,
    from_image: FromImage = True,
    smoothing: Smoothing = 0.0,
    average: Average = None,
    images: Images = None,
    validation: Validation = 2000,
    seed: int = 0,
    bf16: bool = False,
) -> None:
    """Train a dense network."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    loaded = load(data, data_dir)
    classifier = new_classifier(NETWORKS[network](10), loaded, lr, smoothing)
    trained(
        classifier,
        loaded,
        OneCycle(0.2),
        recycled(data, max_iter, step, fresh, from_image),
        epochs=epochs,
        batch_size=batch_size,
        validation=validation,
        images=images,
        average=average,
        seed=seed,
        bf16=bf16,
        checkpoint=checkpoints(output),
    )
    CompressedModel.of(classifier, (), network=network).save(output)


@app.command()
def small(
    data_dir: DataDir,
    output: Output,
    density: Annotated[
        list[float], typer.Option(help="Share of the weights that is kept; of several, each goes on from the last.")
    ],
    data: Data = "mnist",
    bits: Annotated[int, typer.Option(help="Of each codebook.")] = 2,
    start: Annotated[Optional[Path], typer.Option(help="File of a dense network; from scratch without.")] = None,  # noqa: UP045
    network: Annotated[str, typer.Option(help="Where none is given to start from.")] = "lenet",
    epochs: int = 16,
    batch_size: int = 128,
    lr: float = 2e-3,
    max_iter: Annotated[
        int, typer.Option(help="Steps of a batch's attack; perturbations age as the density falls.")
    ] = 2,
    step: Step = 1 / 3,
    support: Annotated[tuple[float, float], typer.Option(help="Shares of the run within which the density falls.")] = (
        0.0,
        0.5,
    ),
    codebook: Annotated[float, typer.Option(help="Share of the run from which the codes act.")] = 0.4,
    average: Average = 0.998,
    equal: Annotated[bool, typer.Option(help="Equalize the layers of the dense network first.")] = False,
    mantissa_bits: Annotated[Optional[int], typer.Option(help="Of biases in the file; all without.")] = 8,  # noqa: UP045
    fresh: Fresh = 0.2,
    from_image: FromImage = True,
    smoothing: Smoothing = 0.0,
    images: Images = None,
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
    loaded = load(data, data_dir)
    attack = recycled(data, max_iter, step, fresh, from_image)  # its perturbations go on too, until an interruption
    for share in density:
        file = output if len(density) == 1 else output.with_stem(f"{output.stem}-{share:g}")
        if file.exists():
            CompressedModel.load(file).restore(model)
            continue
        constraints = [Sparsity(share), Quantization(bits)]
        robust = trained(
            new_classifier(model, loaded, lr, smoothing),
            loaded,
            Hold(0.5),
            attack,
            epochs=epochs,
            batch_size=batch_size,
            validation=validation,
            images=images,
            average=average,
            seed=seed,
            bf16=bf16,
            checkpoint=checkpoints(file),
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
    data: Data = "mnist",
    suite: Annotated[
        Literal["standard", "short", "paper"],
        typer.Option(help="standard, paper (its attack alone), or short: that, PGD-40 and Square-100."),
    ] = "short",
    examples: Annotated[int, typer.Option(help="Test images, the first ones.")] = 10_000,
    validation: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Attack the images that so large a --validation held out in place of test images."),
    ] = None,
    seed: int = 0,
) -> None:
    """Attack a network on test images; goes on where it was interrupted."""
    torch.set_num_threads(1)
    loaded = load(data, data_dir)
    x, y = loaded.x_test, loaded.y_test
    if validation is not None:
        _, _, x, y = split_validation(loaded.x_train, loaded.y_train, validation / len(loaded.x_train), seed)
    eps = EPS[data]
    own = paper(eps, math.inf, 16)
    fine = Attack("PGD-40", PGD(eps, FINE[data], 40))
    suites = {
        "paper": Suite("paper", eps, math.inf, (own,)),
        "short": Suite(
            "short", eps, math.inf, (own, fine, Attack("Square-100", Square(eps, math.inf, 100), Access.OUTPUTS))
        ),
        "standard": standard(eps, math.inf, 16),
    }
    found = evaluate(
        CompressedModel.load(path).classifier(),
        x[:examples],
        y[:examples],
        suite=suites[suite],
        checkpoint=output,
        verbose=False,
    )
    print(found)


if __name__ == "__main__":
    app()
