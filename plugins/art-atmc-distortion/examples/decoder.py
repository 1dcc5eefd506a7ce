"""The decoder of a codec under ATMC's constraints, against the dense one, at the same distortion.

python plugins/art-atmc-distortion/examples/decoder.py PHOTOGRAPHS CODEC OUTPUT

CODEC is one of those that codec.py trains, such as 31.6.pt; where there is no such file, a shorter training writes it.
Its decoder (entropy model, synthesis and filter) is trained on, to the same distortion, with a tenth of its weights in
codebooks of 4 bits: a tenth of all together, or of each layer. The dense one is trained on for as many steps. Rates are
ideal ones, on held-out corners.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import torch
from art_atmc_distortion.codec import Codec, Photographs, Recipe, calibrate, distortion, load, mse, save, train
from art_atmc_distortion.rules import Multiplicative
from torch import nn

from art_atmc import (
    CompressedModel,
    Quantization,
    Sparsity,
    StraightThrough,
    Tightening,
    Weights,
    compressible,
    enforced,
)
from art_atmc.compression import Solver

BOUND = mse(31.6)  # on the held-out corners, which is about 60 on the photographs
START, STEPS = 400, 200
PATCHES = {"batch": 4, "side": 64}
CONSTRAINTS = (Sparsity(density=0.1), Quantization(bits=4))


def decoder(codec: Codec) -> nn.Module:
    parts = {"prior": codec.prior, "synthesis": codec.synthesis}
    return nn.ModuleDict(parts if codec.filter is None else {**parts, "filter": codec.filter})


def solvers(weights: Weights, each: bool) -> list[Solver]:
    """A tenth of ``each`` layer or of all together, then the codebooks."""
    schedule = Tightening(support=(0.0, 0.5), codebook=0.5)
    parts = [Weights({name: weight}) for name, weight in weights.items()] if each else [weights]
    sparse = [StraightThrough(part, CONSTRAINTS[0], ramp=schedule.support_ramp(STEPS)) for part in parts]
    return [*sparse, StraightThrough(weights, CONSTRAINTS[1], ramp=schedule.codebook_ramp(STEPS))]


def trained_on(codec: Codec, data: Photographs, held_out: torch.Tensor, each: bool | None) -> float:
    """Rate and distortion of the last steps, as one number of which less is better."""

    def within(optimizer: torch.optim.Optimizer) -> contextlib.AbstractContextManager[None]:
        if each is None:
            return contextlib.nullcontext()
        return enforced(optimizer, solvers(compressible(decoder(codec)), each))

    recipe = Recipe(BOUND, STEPS, Multiplicative(start=0.3), frozen=0.0, lr=1e-3, **PATCHES)
    rows = train(codec, data, recipe, held_out=held_out, enforced=within)[-50:]
    return sum(row.rate for row in rows) / len(rows)


def main(photographs: Path, start: Path, output: Path) -> None:
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    data = Photographs.of(photographs)
    patches = data.held_out(232, 64)
    if not start.exists():
        torch.manual_seed(0)
        codec = Codec()
        train(codec, data, Recipe(BOUND, START, **PATCHES), held_out=patches)
        save(codec, start)
    rates = {}
    for name, each in (("dense", None), ("together", False), ("each", True)):
        file, began = output / f"{name}.pt", time.process_time()
        if not file.exists():
            codec = load(start)
            trained = trained_on(codec, data, patches, each)
            calibrate(codec, patches, BOUND)
            save(codec, file)
            print(f"{name}: {trained:.4f} bits a pixel in training, {time.process_time() - began:.0f} s", flush=True)
        codec = load(file)
        rates[name], found = distortion(codec, patches)
        weights = compressible(decoder(codec))
        size = CompressedModel.of(decoder(codec), () if each is None else CONSTRAINTS).file_bytes
        print(f"{name}: {weights.nnz():,} weights in {size:,} bytes; {rates[name]:.4f} bits a pixel at D = {found:.2f}")
        print(f"against the dense one: {rates[name] / rates['dense'] - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
