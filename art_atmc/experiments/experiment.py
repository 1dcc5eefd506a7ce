"""One experiment from data to figures: a dense and a compressed network under the same attack and epochs."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from scipy.stats import binomtest
from torch import nn

from art_atmc._version import __version__
from art_atmc.attacks.base import Problem
from art_atmc.attacks.pgd import PGD
from art_atmc.classifiers.inputs import arrays
from art_atmc.classifiers.network import Network
from art_atmc.compression.constraints import Constraint, Quantization, Sparsity
from art_atmc.compression.paper_size import paper_bits, tensor_sizes
from art_atmc.compression.weights import compressible
from art_atmc.data import Dataset, load, split_validation
from art_atmc.networks.by_name import build, import_network, is_ours, require_fit
from art_atmc.plugins import parse
from art_atmc.trainer import ATMCTrainer
from art_atmc.training.augmentation import crop_and_flip
from art_atmc.training.batches import ArrayBatches
from art_atmc.training.loop import ObjectiveTrainer, accuracy
from art_atmc.training.objectives import Adversarial

__all__ = ["Experiment"]

# What suits a data set where the user says nothing: network and radius (of the paper, for MNIST).
DEFAULTS: dict[str, tuple[str | None, float]] = {
    "digits": ("digits-cnn", 0.1),
    "mnist": ("lenet", 76 / 255),
    "cifar10": ("resnet18", 8 / 255),
}


@final
@dataclasses.dataclass(frozen=True)
class Experiment:
    """The settings of ``art-atmc train``; see its ``--help`` for their meaning and ranges.

    :raises ValueError: for settings out of range, before any data is read.
    """

    data: str
    data_dir: Path | None = None
    network: str | None = None
    eps: float | None = None
    eps_step: float | None = None
    max_iter: int = 7
    test_max_iter: int | None = None
    norm: str = "inf"
    clean_share: float = 0.0
    density: float | None = None
    bits: int | None = None
    constraint: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    factored: bool = True
    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.05
    validation: float = 0.1
    augment: bool | None = None
    seed: int = 0
    dense: bool = True

    def __post_init__(self) -> None:
        network, eps = DEFAULTS.get(self.data, (None, 8 / 255))
        defaults = {"network": network, "eps": eps, "test_max_iter": self.max_iter, "augment": self.data == "cifar10"}
        if not self.constraint:
            defaults |= {"density": 0.05, "bits": 4}
        elif not self.density is self.bits is None:
            raise ValueError(
                "give either `--constraint`, or `--density` and `--bits`, which stand for "
                "--constraint sparsity:density=... --constraint quantization:bits=..."
            )
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if not is_ours(self.network):
            import_network(str(self.network))  # now, before any data is read
        if self.epochs < 1 or not self.lr > 0 or not 0 < self.validation < 1:
            raise ValueError(
                f"`--epochs` must be at least 1, `--lr` positive and `--validation` in (0, 1), got "
                f"{self.epochs}, {self.lr} and {self.validation}"
            )
        self.constraints()
        Adversarial(self.attack(), self.clean_share)
        self.test_attack()

    def constraints(self) -> list[Constraint]:
        if self.density is None or self.bits is None:
            return [parse(text) for text in self.constraint]
        return [Sparsity(self.density), *([] if self.bits == 32 else [Quantization(self.bits)])]

    def attack(self) -> PGD:
        """For training: PGD with a random start; the step is the paper's, 1.25 eps / n, where none is given."""
        return self._pgd(self.max_iter, 1.25)

    def test_attack(self) -> PGD:
        """For the test: steps of 2.5 eps / n, which reach the far side of the ball from wherever they start."""
        assert self.test_max_iter is not None
        return self._pgd(self.test_max_iter, 2.5)

    def _pgd(self, steps: int, reach: float) -> PGD:
        if self.norm not in ("inf", "1", "2"):
            raise ValueError(f"`--norm` must be inf, 2 or 1, got {self.norm}")
        assert self.eps is not None
        step = reach * self.eps / max(steps, 1) if self.eps_step is None else self.eps_step
        return PGD(self.eps, step, steps, float(self.norm))

    def run(self, output: Path, *, overwrite: bool = False, verbose: bool = True) -> dict[str, Any]:
        """Train, test once, and write ``metrics.json``, ``history.jsonl`` and the networks.

        :param output: the folder; made where it is missing.
        :returns: the content of ``metrics.json``.
        :raises FileExistsError: when the folder holds results and ``overwrite`` is not set.
        """
        if (output / "metrics.json").exists() and not overwrite:
            raise FileExistsError(f"{output} holds the results of another run; choose another --output or --overwrite")
        dataset = load(self.data, self.data_dir)
        self.check_fit(dataset)
        self._trainer("compressed", dataset, verbose=False)  # refuses what does not fit before anything is trained
        split = split_validation(dataset.x_train, dataset.y_train, self.validation, self.seed)
        metrics: dict[str, Any] = {
            "schema": 1,
            "settings": self._settings(),
            "machine": _machine(),
            "data": _shares(dataset, split),
        }
        output.mkdir(parents=True, exist_ok=True)
        (output / "metrics.json").unlink(missing_ok=True)  # it says that the other files belong together
        history = output / "history.jsonl"
        history.write_text("")
        for kind in ("dense", "compressed") if self.dense else ("compressed",):
            if verbose:
                Console(stderr=True).print(f"[bold]{kind}[/bold] network, {self.epochs} epochs")
            trainer = self._trainer(kind, dataset, verbose)
            seconds = self.fit(trainer, split)
            classifier = trainer.get_classifier()
            with history.open("a") as file:
                file.writelines(json.dumps({"model": kind, **row}) + "\n" for row in trainer.history)
            tested = self._tested(classifier, dataset)
            metrics[kind] = tested | self._size(kind, classifier) | {"seconds": seconds}
            metrics[kind]["file_bytes"] = self._save(trainer, tested, output / kind)
        (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        Console().print(_table(metrics))
        return metrics

    def check_fit(self, dataset: Dataset) -> None:
        assert self.network is not None
        require_fit(self.network, dataset.x_train.shape[1:], dataset.nb_classes, dataset.name)

    def model(self, dataset: Dataset) -> nn.Module:
        """The network as it is before training; the same for the same seed."""
        assert self.network is not None
        torch.manual_seed(self.seed)
        return build(self.network, dataset.nb_classes)

    @property
    def network_name(self) -> str | None:
        """What files may name: None for a network of the user's, since reading a file never imports code."""
        return self.network if is_ours(self.network) else None

    def classifier(self, dataset: Dataset, model: nn.Module) -> PyTorchClassifier:
        """An ART classifier round ``model`` with an optimizer over its parameters, on a GPU where there is one."""
        return PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            dataset.x_train.shape[1:],
            dataset.nb_classes,
            optimizer=torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4),
            clip_values=dataset.clip_values,
            preprocessing=None,
        )

    def objective(self) -> Adversarial:
        return Adversarial(self.attack(), self.clean_share)

    def _trainer(self, kind: str, dataset: Dataset, verbose: bool) -> ObjectiveTrainer | ATMCTrainer:
        classifier, objective = self.classifier(dataset, self.model(dataset)), self.objective()
        if kind == "dense":
            return ObjectiveTrainer(classifier, objective, seed=self.seed, verbose=verbose)
        return ATMCTrainer(
            classifier,
            objective,
            self.constraints(),
            ignore=self.ignore,
            factored=self.factored,
            seed=self.seed,
            verbose=verbose,
        )

    def fit(self, trainer: ObjectiveTrainer | ATMCTrainer, split: tuple[np.ndarray, ...]) -> float:
        """Train; returns the seconds it took."""
        x_train, y_train, x_val, y_val = split
        optimizer = trainer.classifier.optimizer
        started = time.perf_counter()
        trainer.fit(
            x_train,
            y_train,
            validation_data=(x_val, y_val),
            nb_epochs=self.epochs,
            batch_size=self.batch_size,
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs),
            augmentation=crop_and_flip if self.augment else None,
        )
        return round(time.perf_counter() - started, 1)

    def _save(self, trainer: ObjectiveTrainer | ATMCTrainer, tested: dict[str, Any], path: Path) -> int:
        """Write the network, dense or compressed, and return the size of the file."""
        if isinstance(trainer, ATMCTrainer):
            return trainer.compress(network=self.network_name, metrics=tested).save(path.with_suffix(".atmc"))
        state = {name: tensor.contiguous() for name, tensor in trainer.get_classifier().model.state_dict().items()}
        save_file(state, path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors").stat().st_size

    def _tested(self, classifier: PyTorchClassifier, dataset: Dataset) -> dict[str, Any]:
        """The one use of the test data."""
        x, y = arrays(classifier, dataset.x_test, dataset.y_test, "test")
        batches = ArrayBatches(x, y, 500)
        network = Network(classifier, batches.sample().to(classifier.device))
        problem = Problem.of(classifier, network, torch.Generator(classifier.device).manual_seed(self.seed))
        attack = self.test_attack()
        clean, robust = accuracy(problem, batches), accuracy(problem, batches, attack)
        return {
            "clean_accuracy": clean,
            "clean_interval": _interval(clean, len(x)),
            "robust_accuracy": robust,
            "robust_interval": _interval(robust, len(x)),
            "attack": {"name": "PGD", **_jsonable(dataclasses.asdict(attack))},
        }

    def _size(self, kind: str, classifier: PyTorchClassifier) -> dict[str, Any]:
        weights = compressible(classifier.model, self.ignore if kind == "compressed" else ())
        figures: dict[str, Any] = {"nnz": weights.nnz(), "dense_size": weights.dense_size}
        if kind == "dense":
            return figures | {"paper_bits": 32 * weights.dense_size}
        constraints = self.constraints()
        budgets = [c.budget(weights) for c in constraints if isinstance(c, Sparsity)]
        bits = paper_bits(weights) if any(c.coded for c in constraints) else 32 * weights.nnz()
        return figures | {
            "k": budgets[0] if budgets else weights.dense_size,
            "paper_bits": bits,
            "paper_ratio": bits / (32 * weights.dense_size),
            "tensors": [dataclasses.asdict(size) for size in tensor_sizes(weights)],
        }

    def _settings(self) -> dict[str, Any]:
        return _jsonable(dataclasses.asdict(self)) | {"constraints": [repr(c) for c in self.constraints()]}


def _interval(share: float, n: int) -> list[float]:
    """Wilson's 95 % interval."""
    low, high = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return [round(float(low), 4), round(float(high), 4)]


def _shares(dataset: Dataset, split: tuple[np.ndarray, ...]) -> dict[str, Any]:
    return {"name": dataset.name, "train": len(split[0]), "validation": len(split[2]), "test": len(dataset.x_test)}


def _machine() -> dict[str, Any]:
    packages = ("adversarial-robustness-toolbox", "torch", "numpy")
    return {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "art-atmc": __version__,
        **{name: version(name) for name in packages},
    }


def _jsonable(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows neither paths nor infinity."""
    return {key: str(value) if isinstance(value, Path) or value == math.inf else value for key, value in values.items()}


def _table(metrics: dict[str, Any]) -> Table:
    """One row a network; fits a terminal of 80 columns."""
    attack = (metrics.get("dense") or metrics["compressed"])["attack"]
    table = Table(
        title=f"{metrics['data']['name']}, {metrics['data']['test']} test images, PGD eps {attack['eps']:.3g}, "
        f"{attack['max_iter']} steps, norm {attack['norm']}",
        caption="codes: most non-zero values in a tensor; paper: its count, without positions\n"
        "robust: against this attack alone; art-atmc evaluate has stronger ones",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("network", "clean", "robust", "non-zeros", "codes", "paper", "file", "seconds"):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for kind in ("dense", "compressed"):
        if kind in metrics:
            row = metrics[kind]
            codes = str(max((t["distinct"] for t in row["tensors"]), default=0)) if "tensors" in row else ""
            table.add_row(
                kind,
                f"{row['clean_accuracy']:.1%}",
                f"{row['robust_accuracy']:.1%}",
                f"{row['nnz']:,}",
                codes,
                f"{row['paper_bits'] / 8000:,.1f} kB",
                f"{row['file_bytes'] / 1000:,.1f} kB",
                f"{row['seconds']:,.0f}",
            )
    return table
