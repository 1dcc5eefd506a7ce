"""Photos from half their resolution, slimmed: a task with a ground truth, so that PSNR and SSIM measure it.

    python super_resolution.py runs/gan --photos FOLDER --seeds 3

The dense network is trained by regression; then as in slim_digits.py. Training patches come
from the left three quarters of each photo, test patches from the rest.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from art_atmc_gan import GANSlimming, PatchDiscriminator, ResidualGenerator, psnr, ssim
from photo_digits import SIDE, WIDTHS, photos, sheet, translated
from torch import Tensor, nn
from torch.nn.functional import interpolate

from art_atmc import CompressedModel

STEPS, SLIM, TUNE = 400, 240, 160
WAYS: dict[str, dict[str, Any]] = {"budget, 8 bits": {"density": 0.25, "bits": 8}}


def patches(pictures: list[Tensor], number: int, part: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Patches of so many places, in [-1, 1], and what bicubic interpolation makes of half their resolution."""
    found = []
    for _ in range(number):
        picture = pictures[int(torch.randint(len(pictures), (), generator=generator))]
        border = picture.shape[2] * 3 // 4
        picture = picture[:, :, :border] if part == "train" else picture[:, :, border:]
        top = int(torch.randint(picture.shape[1] - SIDE + 1, (), generator=generator))
        left = int(torch.randint(picture.shape[2] - SIDE + 1, (), generator=generator))
        found.append(picture[:, top : top + SIDE, left : left + SIDE])
    true = torch.stack(found) * 2 - 1
    half = interpolate(true, scale_factor=0.5, mode="bicubic", antialias=True)
    return interpolate(half, scale_factor=2.0, mode="bicubic").clamp(-1, 1), true


class Correction(nn.Module):
    """What is added to the interpolated image, at most a tenth of the image's own contrast.

    Normalisation within the network takes the contrast out, and details are as strong as it is. Without the tenth a
    step of the optimizer changes the image by more than is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = ResidualGenerator(WIDTHS)
        last = self.network.decoder[3]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)  # so that training starts at the interpolation

    def forward(self, x: Tensor) -> Tensor:
        contrast = x.std((1, 2, 3), keepdim=True)
        return (x + 0.1 * contrast * self.network(x)).clamp(-1, 1)


def regression(coarse: Tensor, true: Tensor, seed: int) -> Correction:
    torch.manual_seed(seed)
    network = Correction()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        index = torch.randint(len(true), (16,))
        optimizer.zero_grad()
        (network(coarse[index]) - true[index]).abs().mean().backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def scores(made: Tensor, true: Tensor) -> dict[str, float]:
    return {"psnr": psnr(made, true, data_range=2), "ssim": ssim(made, true, data_range=2)}


def size(compressed: CompressedModel, started: float) -> dict[str, float]:
    """With the seconds of the processor since then."""
    work = compressed.report().totals["multiply_adds"]
    return {"file": compressed.file_bytes, "multiply_adds": work, "cpu": time.process_time() - started}


def measured(pictures: list[Tensor], output: Path, seed: int) -> dict[str, dict[str, float]]:
    path = output / f"super-resolution-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    generator = torch.Generator().manual_seed(seed)
    coarse, true = patches(pictures, 4000, "train", generator)
    coarse_test, true_test = patches(pictures, 1000, "test", generator)
    started = time.process_time()
    dense = regression(coarse, true, seed)
    rows = [coarse_test[:12], translated(dense, coarse_test[:12])]
    figures = {"bicubic": scores(coarse_test, true_test), "dense": scores(translated(dense, coarse_test), true_test)}
    figures["dense"] |= size(CompressedModel.of(dense, input_shape=(3, SIDE, SIDE)), started)
    for way, options in WAYS.items():
        started = time.process_time()
        slimming = GANSlimming(dense.eval(), PatchDiscriminator(), seed=seed, verbose=False, **options)
        slimming.fit(coarse, nb_steps=SLIM, fine_tuning_steps=TUNE)
        made = torch.from_numpy(slimming.predict(coarse_test))
        figures[way] = scores(made, true_test) | size(slimming.compress(), started)
        rows.append(made[:12])
    sheet([*rows, true_test[:12]], path.with_suffix(".png"))
    path.write_text(json.dumps(figures))
    print(json.dumps(figures), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    pictures = photos(options.photos)
    runs = [measured(pictures, options.output, seed) for seed in range(options.seeds)]
    print("| | PSNR, dB | SSIM | multiply-adds, M | file, kB | s |")
    print("|---|---|---|---|---|---|")
    for way in runs[0]:
        cells = []
        for key in ("psnr", "ssim"):
            values = [run[way][key] for run in runs]
            cells.append(f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else ""))
        for key, unit in (("multiply_adds", 1e6), ("file", 1e3), ("cpu", 1.0)):
            cells.append(f"{mean(run[way][key] for run in runs) / unit:.1f}" if key in runs[0][way] else "")
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
