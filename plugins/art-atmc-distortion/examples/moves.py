"""Short moves of a codec to other qualities: by what the multiplier is moved, the batches or the held-out corners.

python plugins/art-atmc-distortion/examples/moves.py PHOTOGRAPHS CODEC

CODEC is what decoder.py begins with, at 31.6 dB on the held-out corners.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from art_atmc_distortion.codec import Codec, Photographs, Recipe, calibrate, distortion, load, mse, train
from art_atmc_distortion.rules import Multiplicative

START, STEPS, LAST = 31.6, 80, 20
QUALITIES = 29.2, 33.8


def move(codec: Codec, quality: float, data: Photographs, held_out: torch.Tensor, by_held_out: bool) -> float:
    """Train to another quality; the distortion of the batches, over the last steps."""
    codec.fineness *= (mse(quality) / mse(START)) ** 0.7  # about where it will be
    recipe = Recipe(mse(quality), STEPS, Multiplicative(start=0.3), frozen=0.0, lr=1e-3, decay=1.0, batch=4, side=64)
    rows = train(codec, data, recipe, held_out=held_out if by_held_out else None)
    return sum(row.distortion for row in rows[-LAST:]) / LAST


def main(photographs: Path, start: Path) -> None:
    torch.set_num_threads(1)
    data = Photographs.of(photographs)
    patches = data.held_out(232, 64)
    print("| dB | multiplier moved by | D/c on batches | D/c held out | bits a pixel, calibrated | seconds |")
    print("|---|---|---|---|---|---|")
    for quality in QUALITIES:
        for by_held_out in (False, True):
            codec, began = load(start), time.process_time()
            batches = move(codec, quality, data, patches, by_held_out) / mse(quality)
            before = distortion(codec, patches)[1] / mse(quality)
            calibrate(codec, patches, mse(quality))
            rate, seconds = distortion(codec, patches)[0], time.process_time() - began
            by = "held-out corners" if by_held_out else "batches"
            print(f"| {quality:g} | {by} | {batches:.3f} | {before:.3f} | {rate:.4f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
