"""Uniform grids against a free codebook on digits: three seeds each, density 0.05, 30 epochs, the test data used once.

python plugins/art-atmc-uniform/examples/digits.py OUTPUT
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch

from art_atmc.experiments.comparison import compare
from art_atmc.experiments.settings import Settings

STEP = 0.125 / 7  # of the attack in training, and here in the test too
VARIANTS = {
    "codebook of 16 values": "quantization:bits=4",
    "8 bits": "uniform-quantization:bits=8",
    "4 bits": "uniform-quantization:bits=4",
    "4 bits, affine": "uniform-quantization:bits=4,symmetric=false",
    "4 bits, per channel": "uniform-quantization:bits=4,per_channel=true",
    "4 bits, powers of two": "uniform-quantization:bits=4,power_of_two=true",
    "2 bits": "uniform-quantization:bits=2",
    "2 bits, per channel": "uniform-quantization:bits=2,per_channel=true",
}


def main(output: Path) -> None:
    torch.set_num_threads(1)
    print("| grid | clean, % | robust, % | of each seed | training, s |\n|---|---|---|---|---|")
    for name, constraint in VARIANTS.items():
        rows = []
        for seed in range(3):
            folder = output / name.replace(" ", "-").replace(",", "") / str(seed)
            constraints = ("sparsity:density=0.05", constraint)
            settings = Settings.resolved("digits", constraint=constraints, eps_step=STEP, seed=seed)
            rows.append(compare(settings, folder, dense=False, verbose=False)["compressed"])
        clean, robust, seconds = (
            [row[key] for row in rows] for key in ("clean_accuracy", "robust_accuracy", "seconds")
        )
        each = ", ".join(f"{100 * share:.1f}" for share in robust)
        print(
            f"| {name} | {100 * statistics.mean(clean):.1f} | {100 * statistics.mean(robust):.1f} | {each} | "
            f"{statistics.mean(seconds):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
