"""The decoder of a codec under ATMC's constraints, against the dense one, at the same distortion.

python plugins/art-atmc-distortion/examples/decoder.py PHOTOGRAPHS CODEC OUTPUT

CODEC is one of those that codec.py trains, such as 31.6.pt. Its decoder (entropy model, synthesis and filter) is
trained on, to the same distortion, with a tenth of its weights in codebooks of 4 bits. Rates are ideal ones, on
held-out corners.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch
from art_atmc_distortion.codec import Codec, Photographs, Recipe, calibrate, distortion, load, mse, save, train
from art_atmc_distortion.rules import Multiplicative
from torch import nn

from art_atmc import CompressedModel, Quantization, Sparsity, StraightThrough, Tightening, compressible, enforced

QUALITY = 31.6  # decibels on the held-out corners, which is 60 on the photographs
STEPS = 150
CONSTRAINTS = (Sparsity(density=0.1), Quantization(bits=4))


def decoder(codec: Codec) -> nn.Module:
    parts = {"prior": codec.prior, "synthesis": codec.synthesis}
    return nn.ModuleDict(parts if codec.filter is None else {**parts, "filter": codec.filter})


def compressed(codec: Codec, data: Photographs) -> None:
    schedule = Tightening(support=(0.0, 0.5), codebook=0.5)
    ramps = schedule.support_ramp(STEPS), schedule.codebook_ramp(STEPS)
    weights = compressible(decoder(codec))
    solvers = [StraightThrough(weights, c, ramp=ramp) for c, ramp in zip(CONSTRAINTS, ramps, strict=True)]

    def within(optimizer: torch.optim.Optimizer) -> contextlib.AbstractContextManager[None]:
        return enforced(optimizer, solvers)

    recipe = Recipe(60.0, STEPS, Multiplicative(start=0.15), frozen=0.0, lr=1e-3)
    train(codec, data, recipe, enforced=within)


def main(photographs: Path, start: Path, output: Path) -> None:
    torch.set_num_threads(1)
    data = Photographs.of(photographs)
    patches = data.held_out(512, 64)
    if not output.exists():
        codec = load(start)
        compressed(codec, data)
        calibrate(codec, patches, mse(QUALITY))
        save(codec, output)
    rates = []
    for name, file, constraints in (("dense", start, ()), ("compressed", output, CONSTRAINTS)):
        codec = load(file)
        rate, found = distortion(codec, patches)
        rates.append(rate)
        size = CompressedModel.of(decoder(codec), constraints).file_bytes
        weights = compressible(decoder(codec)).nnz()
        print(f"{name}: {weights:,} weights in {size:,} bytes; {rate:.4f} bits a pixel at D = {found:.2f}", flush=True)
    print(f"rate with the compressed decoder at the same distortion: {rates[1] / rates[0] - 1:+.1%}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
