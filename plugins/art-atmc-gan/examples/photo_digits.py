"""MNIST digits to photo digits, unpaired: the images, a classifier that scores, and a dense teacher.

Photo digits follow the recipe of MNIST-M (Ganin & Lempitsky 2015): |patch of a photo - digit|, 32 x 32 pixels, colour,
here in [-1, 1]. Labels are known, so that a classifier of real photo digits tells whether a translation keeps its
digit, and its features how far translations are from real ones.

    python photo_digits.py runs/gan --photos FOLDER --seed 0

trains a teacher and keeps it in ``teacher-0.pt``. FOLDER holds JPEG files, of any sizes.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art_atmc_gan.distances import frechet_distance, kernel_distance
from art_atmc_gan.networks import PatchDiscriminator, ResidualGenerator
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from art_atmc.data import load

SIDE = 32
WIDTHS = (16, 32, 32, 32, 16)
BACK = 5.0  # the weight of the way back


@dataclasses.dataclass(frozen=True)
class Digits:
    """``source`` and ``labels`` are to be translated; ``target`` is what translations should look like."""

    source: Tensor
    labels: Tensor
    target: Tensor
    target_labels: Tensor


def photos(folder: Path) -> list[Tensor]:
    """Photos with a short side of 256 pixels, values in [0, 1]."""
    found = []
    for path in sorted(folder.rglob("*.jpg")):
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        found.append(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255)
    if not found:
        raise SystemExit(f"there is no JPEG file below {folder}")
    return found


def photo_digits(digits: Tensor, pictures: list[Tensor], generator: torch.Generator) -> Tensor:
    """``digits`` in [0, 1], shape (N, 1, 32, 32), each as the inversion of a random patch."""
    patches = []
    for _ in range(len(digits)):
        picture = pictures[int(torch.randint(len(pictures), (), generator=generator))]
        top = int(torch.randint(picture.shape[1] - SIDE + 1, (), generator=generator))
        left = int(torch.randint(picture.shape[2] - SIDE + 1, (), generator=generator))
        patches.append(picture[:, top : top + SIDE, left : left + SIDE])
    return (torch.stack(patches) - digits).abs() * 2 - 1


def images(folder: Path, mnist: Path) -> dict[str, Digits]:
    """Training, validation and test; no digit is in two of them, and source and target share none."""
    pictures, generator = photos(folder), torch.Generator().manual_seed(0)
    data = load("mnist", mnist)
    x = functional.pad(torch.from_numpy(data.x_train).reshape(-1, 1, 28, 28), (2, 2, 2, 2))
    y = torch.from_numpy(data.y_train)
    xt = functional.pad(torch.from_numpy(data.x_test).reshape(-1, 1, 28, 28), (2, 2, 2, 2))
    yt = torch.from_numpy(data.y_test)

    def of(x: Tensor, y: Tensor, source: slice, target: slice) -> Digits:
        plain = (x[source] * 2 - 1).expand(-1, 3, -1, -1).contiguous()
        return Digits(plain, y[source], photo_digits(x[target], pictures, generator), y[target])

    return {
        "train": of(x, y, slice(0, 6000), slice(6000, 12000)),
        "scorer": of(x, y, slice(0, 1), slice(20000, 40000)),
        "validation": of(x, y, slice(12000, 14000), slice(14000, 16000)),
        "test": of(xt, yt, slice(0, 2000), slice(2000, 4000)),
    }


class Scorer(nn.Module):
    """A classifier of photo digits.

    Distances are measured in the mean and the standard deviation over positions of its 112 feature maps, each divided
    by the standard deviation that it has among real photo digits. The features before its last layer would not do: they
    are trained to see the digit only, and plain digits came out nearer to photo digits than any translation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, padding=2, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, 128),
            nn.ReLU(),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x))
        return y

    @torch.no_grad()
    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and features, shape (N,) and (N, 224)."""
        labels, statistics = [], []
        for part in x.split(250):
            h, maps = part, []
            for layer in self.features:
                h = layer(h)
                if isinstance(layer, nn.ReLU) and h.dim() == 4:
                    maps += [h.mean((2, 3)), h.std((2, 3))]
            labels.append(self.head(h).argmax(1))
            statistics.append(torch.cat(maps, 1))
        return torch.cat(labels), torch.cat(statistics)

    def score(self, translated: Tensor, digits: Digits) -> dict[str, float]:
        """Label accuracy in %, and distances of the features from those of the target."""
        labels, features = self.both(translated)
        _, real = self.both(digits.target)
        spread = real.std(0)
        a, b = (features / spread).numpy(), (real / spread).numpy()
        accuracy = 100 * float((labels == digits.labels).float().mean())
        return {"labels": accuracy, "distance": frechet_distance(a, b), "kernel": kernel_distance(a, b)}


def scorer(data: dict[str, Digits], path: Path, epochs: int = 8) -> Scorer:
    """The trained one, from ``path`` where it is there."""
    torch.manual_seed(0)
    network = Scorer()
    if path.exists():
        network.load_state_dict(torch.load(path))
        return network.eval()
    x, y = data["scorer"].target, data["scorer"].target_labels
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
    for epoch in range(epochs):
        for index in torch.randperm(len(x)).split(64)[: len(x) // 64]:
            optimizer.zero_grad()
            functional.cross_entropy(network(x[index]), y[index]).backward()
            optimizer.step()
            schedule.step()
        labels, _ = network.eval().both(data["validation"].target)
        network.train()
        print(
            f"scorer, epoch {epoch}: {100 * float((labels == data['validation'].target_labels).float().mean()):.1f} %"
        )
    torch.save(network.state_dict(), path)
    return network.eval()


def batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(n, generator=generator).split(size)[: n // size]


@torch.no_grad()
def translated(network: nn.Module, x: Tensor) -> Tensor:
    network.eval()
    out = torch.cat([network(part) for part in x.split(100)])
    network.train()
    return out


def average_(average: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, p in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(p, 1 - decay)


def teacher(
    data: dict[str, Digits], judge: Scorer, path: Path, seed: int, steps: int = 1000, widths: Sequence[int] = WIDTHS
) -> dict[str, Any]:
    """The generator G that a second network F can translate back, F(G(x)) = x, under a discriminator of the target.

    Only this direction is asked to close: the other would ask for the photo that a plain digit can't hold. GAN training
    swings, so weights are averaged, and of three such averages the best on validation data is kept.
    """
    if path.exists():
        return torch.load(path)  # type: ignore[no-any-return]
    torch.manual_seed(seed)
    generator, inverse = ResidualGenerator(widths), ResidualGenerator((16, 32, 16))
    discriminator = PatchDiscriminator()
    average, best, started = copy.deepcopy(generator), None, time.process_time()
    g = torch.optim.Adam([*generator.parameters(), *inverse.parameters()], lr=4e-4, betas=(0.5, 0.999))
    d = torch.optim.Adam(discriminator.parameters(), lr=4e-4, betas=(0.5, 0.999))
    rng = torch.Generator().manual_seed(seed)
    train, validation = data["train"], data["validation"]
    sources, targets = batches(len(train.source), 16, rng), batches(len(train.target), 16, rng)
    for step in range(1, steps + 1):
        x, y = train.source[next(sources)], train.target[next(targets)]
        fake = generator(x)
        discriminator.requires_grad_(False)
        loss = (discriminator(fake) - 1).square().mean() + BACK * (inverse(fake) - x).abs().mean()
        g.zero_grad()
        loss.backward()
        g.step()
        discriminator.requires_grad_(True)
        real, made = discriminator(y), discriminator(fake.detach())
        d.zero_grad()
        (0.5 * ((real - 1).square().mean() + made.square().mean())).backward()
        d.step()
        average_(average, generator, 0.98)
        if step in (steps * 6 // 10, steps * 8 // 10, steps):
            score = judge.score(translated(average, validation.source), validation)
            spent = time.process_time() - started
            print(
                json.dumps({"seed": seed, "step": step, "loss": float(loss.detach()), **score, "cpu": spent}),
                flush=True,
            )
            if best is None or merit(score) > merit(best["validation"]):
                best = {
                    "generator": copy.deepcopy(average.state_dict()),
                    "discriminator": copy.deepcopy(discriminator.state_dict()),
                    "step": step,
                    "validation": score,
                }
    assert best is not None
    best |= {"cpu": time.process_time() - started}
    torch.save(best, path)
    return best


def merit(score: dict[str, float]) -> tuple[float, float]:
    """The least distance among those that keep four digits of five, else the most digits."""
    return min(score["labels"], 80.0), -score["distance"]


def sheet(rows: list[Tensor], path: Path) -> None:
    """Images as a PNG, a row for each tensor."""
    grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    pixels = ((grid + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    data = images(options.photos, options.mnist)
    judge = scorer(data, options.output / "scorer.pt")
    labels, _ = judge.both(data["test"].target)
    print(f"scorer on the test's target: {100 * float((labels == data['test'].target_labels).float().mean()):.1f} %")
    print("target of validation against that of the test:", judge.score(data["validation"].target, data["test"]))
    print("source of validation:", judge.score(data["validation"].source, data["validation"]))
    path = options.output / f"teacher-{options.seed}.pt"
    best = teacher(data, judge, path, options.seed, options.steps)
    print({key: best[key] for key in ("step", "validation", "cpu")})


if __name__ == "__main__":
    main()
