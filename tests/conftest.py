"""What all tests share: one thread, and a small trained problem with an ART classifier around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

torch.set_num_threads(1)  # small networks run many times slower on two


class Net(nn.Module):
    """A convolution and a linear layer on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 9, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        return self.fc(torch.flatten(x, 1))


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images[:, None] / 16).astype(np.float32), data.target.astype(np.int64)


@pytest.fixture
def make_classifier():
    """A function that builds an ART classifier with an optimizer, from a seed."""
    from art.estimators.classification import PyTorchClassifier

    def make(seed: int = 0, model: nn.Module | None = None, **options):
        torch.manual_seed(seed)
        model = Net() if model is None else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        settings = {"clip_values": (0.0, 1.0), "optimizer": optimizer, "device_type": "cpu"} | options
        return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, **settings)

    return make
