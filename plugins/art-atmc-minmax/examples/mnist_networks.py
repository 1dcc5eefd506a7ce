"""Four unlike networks for MNIST, trained without an attack: a minute each on one core, and once for a folder.

python plugins/art-atmc-minmax/examples/mnist_networks.py DATA OUTPUT
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_atmc.data import Dataset, load
from art_atmc.networks import lenet_relu

IMAGES, EPOCHS, BATCH = 30_000, 4, 128


class Chain(nn.Module):
    """Layers in a row, inside a module: ART would return the outputs of all layers of a bare ``nn.Sequential``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def mlp() -> nn.Module:
    """784 - 128 - 128 - 64 - 10."""
    sizes = [784, 128, 128, 64]
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return Chain(nn.Flatten(), *hidden, nn.Linear(64, 10))


def all_convolutional() -> nn.Module:
    """Three convolutions with strides in place of pooling, then one to the classes, and their mean."""
    return Chain(
        *(nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def lenet5() -> nn.Module:
    """LeCun's, with ReLU and the largest of four."""
    return Chain(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


NETWORKS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"mlp": mlp, "all-conv": all_convolutional, "lenet-5": lenet5, "lenet": lenet_relu}
)


def trained(name: str, data: Dataset, folder: Path, seed: int) -> nn.Module:
    """The network of that name and seed, from its file, or trained by Adam and then written there."""
    torch.manual_seed(seed)
    model, path = NETWORKS[name](), folder / f"{name}-{seed}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    x, y = torch.from_numpy(data.x_train[:IMAGES]), torch.from_numpy(data.y_train[:IMAGES])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = len(x) // BATCH
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x))[: batches * BATCH].split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            rate.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.eval()


def classifiers(data: Dataset, folder: Path, seed: int) -> list[PyTorchClassifier]:
    """The four as ART classifiers."""
    return [
        PyTorchClassifier(
            trained(name, data, folder, seed), nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1),
            device_type="cpu",
        )
        for name in NETWORKS
    ]  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    mnist, output = load("mnist", Path(sys.argv[1])), Path(sys.argv[2])
    x_test, y_test = torch.from_numpy(mnist.x_test), torch.from_numpy(mnist.y_test)
    for seed in range(3):
        for name in NETWORKS:
            began = time.process_time()
            network = trained(name, mnist, output, seed)
            with torch.no_grad():
                right = network(x_test).argmax(1) == y_test
            print(
                f"seed {seed}, {name}: {100 * right.float().mean():.2f} %, {time.process_time() - began:.0f} s",
                flush=True,
            )
