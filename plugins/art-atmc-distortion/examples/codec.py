"""A codec of several qualities against JPEG and WebP, in bytes that decode.

python plugins/art-atmc-distortion/examples/codec.py PHOTOGRAPHS IMAGES OUTPUT

PHOTOGRAPHS is a folder to train on, such as the photographs of the Debian packages lomiri-wallpapers-16.04,
lomiri-wallpapers-20.04 and mate-backgrounds (nature); IMAGES one with astronaut.png, chelsea.png, coffee.png and
motorcycle_left.png out of the wheel of scikit-image 0.26. Training goes on where it was interrupted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from art_atmc_distortion.codec import (
    Codec,
    Coder,
    Photographs,
    Recipe,
    bd_rate,
    calibrate,
    distortion,
    load,
    mse,
    save,
    train,
)
from art_atmc_distortion.codec.photographs import read
from art_atmc_distortion.codec.references import QUALITIES, coded, jpeg, over, webp
from art_atmc_distortion.rules import Multiplicative

# By decibels on the held-out corners, which are smoother than the photographs: there the start has about 31.6.
STEPS = {31.6: 0, 36.0: 80, 33.8: 80, 29.2: 80}
NAMES = ("astronaut", "chelsea", "coffee", "motorcycle_left")


def main(photographs: Path, images: Path, output: Path) -> None:
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    data = Photographs.of(photographs)
    start = output / "start.pt"
    if not start.exists():
        torch.manual_seed(0)
        codec = Codec()
        rows = train(codec, data, Recipe(at_most=60.0, steps=1500), checkpoint=output / "start.checkpoint")
        save(codec, start)
        (output / "start.json").write_text(json.dumps([[r.rate, r.distortion, r.multiplier] for r in rows]))
    patches = data.held_out(512, 64)
    for quality, steps in STEPS.items():
        file = output / f"{quality:g}.pt"
        if not file.exists():
            began = time.process_time()
            codec = load(start)
            if steps:
                codec.fineness *= (mse(quality) / mse(31.6)) ** 0.7  # about where it will be
                recipe = Recipe(mse(quality), steps, Multiplicative(start=0.3), frozen=0.0, lr=1e-3, decay=1.0)
                train(codec, data, recipe, held_out=patches, checkpoint=output / f"{quality:g}.checkpoint")
            before = distortion(codec, patches)[1]
            after = calibrate(codec, patches, mse(quality))
            save(codec, file)
            print(
                f"{quality:g} dB: D/c {before / mse(quality):.3f}, calibrated {after / mse(quality):.4f}, "
                f"{time.process_time() - began:.0f} s",
                flush=True,
            )
    pictures = read([images / f"{name}.png" for name in NAMES])
    measured = output / "points.json"
    ours = json.loads(measured.read_text()) if measured.exists() else {}
    for quality in STEPS:
        if f"{quality:g}" not in ours:
            point = over(pictures, coded(Coder(load(output / f"{quality:g}.pt"))))
            ours[f"{quality:g}"] = [point.bpp, point.psnr]
            measured.write_text(json.dumps(ours))
        bpp, decibels = ours[f"{quality:g}"]
        print(f"{quality:g} dB: {bpp:.3f} bits a pixel, {decibels:.2f} dB", flush=True)
    curve = [(bpp, decibels) for bpp, decibels in ours.values()]
    for name, reference in (("JPEG", jpeg), ("WebP", webp)):
        other = [(p.bpp, p.psnr) for p in (over(pictures, reference(quality)) for quality in QUALITIES)]
        for within in ((30.0, 34.0), (27.5, 34.0)):
            print(f"BD-rate against {name}, {within[0]:g} to {within[1]:g} dB: {bd_rate(curve, other, within):+.1%}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
