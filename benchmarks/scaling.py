"""What a step costs as the network grows: attack, training pass, projections; CPU time of the process, one thread.

``python benchmarks/scaling.py`` prints the table of docs/explanation/scaling.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_atmc import PGD, Problem, Quantization, Sparsity, compressible, decompose
from art_atmc.classifiers import Network
from art_atmc.compression import project
from art_atmc.networks import lenet, resnet18, resnet34

ROUNDS = 3


class Block(nn.Module):
    """Attention and two linear layers, each after a normalisation and beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 64
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        parts = self.qkv(self.first(x)).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(mixed)
        return x + self.wide(self.second(x))


class ViT(nn.Sequential):
    """A vision transformer on 32 x 32 images in patches of 4 x 4, without places, which cost nothing."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(dim=1))


def cost(function: Callable[[], object]) -> float:
    """Median CPU seconds of a call."""
    function()
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def row(name: str, model: nn.Module, size: tuple[int, ...], batch: int) -> str:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), size, 10, optimizer=optimizer, clip_values=(0, 1))
    x, y = torch.rand(batch, *size), torch.randint(10, (batch,))
    problem = Problem.of(classifier, Network(classifier, x[:2]))
    attack = PGD(0.03, 0.01, 1, random_start=False)

    def passes() -> None:
        problem.network.train()
        optimizer.zero_grad()
        problem.loss(problem.network(x), y).backward()
        optimizer.step()

    weights = compressible(model).detach()
    count = sum(w.numel() for w in weights.values())
    step, whole = cost(lambda: attack(problem, x, y)), cost(passes)
    support = cost(lambda: project(Sparsity(0.05), weights))
    sparse = project(Sparsity(0.05), weights)
    coded = project(Quantization(4), sparse)
    codes = cost(lambda: project(Quantization(4), sparse, coded))
    decompose(model)
    factors = sum(p.numel() for p in compressible(model).values())
    figures = [f"{1e3 * seconds / batch:,.1f}" for seconds in (step, whole)]
    return (
        f"| {name} | {count / 1e6:,.1f} | {factors / count:.2f} | {' | '.join(figures)} | {1e3 * support:,.0f} | "
        f"{1e3 * codes:,.0f} |"
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network | weights (10^6) | factors / weights | attack step, ms an image | training pass, ms an image "
          "| support, ms | codebook, warm, ms |\n|---|---|---|---|---|---|---|")  # fmt: skip
    print(row("LeNet", lenet(10), (1, 28, 28), 64), flush=True)
    print(row("ResNet-18", resnet18(10), (3, 32, 32), 8), flush=True)
    print(row("ResNet-34", resnet34(10), (3, 32, 32), 8), flush=True)
    print(row("ViT, width 192, 12 blocks", ViT(192, 12), (3, 32, 32), 8), flush=True)
    print(row("ViT, width 768, 12 blocks", ViT(768, 12), (3, 32, 32), 4), flush=True)


if __name__ == "__main__":
    main()
