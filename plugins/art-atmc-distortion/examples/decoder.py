"""The decoder of a codec under ATMC's constraints, against the dense one, in bytes that decode.

python plugins/art-atmc-distortion/examples/decoder.py PHOTOGRAPHS IMAGES CODEC OUTPUT

CODEC is one of those that codec.py trains, such as 32.pt. Its decoder (entropy model, synthesis and filter) is trained
on, to the same distortion, with a tenth of its weights in codebooks of 4 bits. Either codec gives two points, by
calibration to two distortions.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch
from art_atmc_distortion.codec import Codec, Coder, Photographs, Recipe, bd_rate, calibrate, load, mse, save, train
from art_atmc_distortion.codec.photographs import read
from art_atmc_distortion.codec.references import coded, over
from art_atmc_distortion.rules import Multiplicative
from torch import nn

from art_atmc import CompressedModel, Quantization, Sparsity, StraightThrough, Tightening, compressible, enforced

QUALITIES = (30.5, 32.0)
STEPS = 200
NAMES = ("astronaut", "chelsea", "coffee", "motorcycle_left")
CONSTRAINTS = (Sparsity(density=0.1), Quantization(bits=4))


def decoder(codec: Codec) -> nn.Module:
    parts = {"prior": codec.prior, "synthesis": codec.synthesis}
    return nn.ModuleDict(parts if codec.filter is None else {**parts, "filter": codec.filter})


def compressed(codec: Codec, data: Photographs, checkpoint: Path) -> None:
    schedule = Tightening(support=(0.0, 0.6), codebook=0.5)
    ramps = schedule.support_ramp(STEPS), schedule.codebook_ramp(STEPS)
    weights = compressible(decoder(codec))
    solvers = [StraightThrough(weights, c, ramp=ramp) for c, ramp in zip(CONSTRAINTS, ramps, strict=True)]

    def within(optimizer: torch.optim.Optimizer) -> contextlib.AbstractContextManager[None]:
        return enforced(optimizer, solvers)

    rule = Multiplicative(start=0.3, rate=0.02)
    recipe = Recipe(mse(QUALITIES[-1]), STEPS, rule, frozen=0.0, lr=1e-3, decay=0.4)
    train(codec, data, recipe, checkpoint=checkpoint, every=10**9, enforced=within)


def main(photographs: Path, images: Path, start: Path, output: Path) -> None:
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    data = Photographs.of(photographs)
    patches = data.held_out(512, 64)
    pictures = read([images / f"{name}.png" for name in NAMES])
    if not (output / "compressed.pt").exists():
        codec = load(start)
        compressed(codec, data, output / "compressed.checkpoint")
        save(codec, output / "compressed.pt")
    curves = []
    for name, file, constraints in (("dense", start, ()), ("compressed", output / "compressed.pt", CONSTRAINTS)):
        codec = load(file)
        model = CompressedModel.of(decoder(codec), constraints)
        curves.append([])
        for quality in QUALITIES:
            calibrate(codec, patches, mse(quality))
            point = over(pictures, coded(Coder(codec)))
            curves[-1].append((point.bpp, point.psnr))
            print(f"{name}: {point.bpp:.3f} bits a pixel, {point.psnr:.2f} dB", flush=True)
        print(f"{name}: {compressible(decoder(codec)).nnz():,} weights in {model.file_bytes:,} bytes", flush=True)
    print(f"BD-rate of the compressed decoder against the dense one: {bd_rate(curves[1], curves[0]):+.1%}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
