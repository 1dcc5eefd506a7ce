"""A bit budget against one width for all tensors on digits: three seeds each, 30 epochs, the test data used once.

python plugins/art-atmc-bitbudget/examples/digits.py OUTPUT
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from art_atmc.experiments.comparison import compare
from art_atmc.experiments.settings import Settings

STEP = 0.125 / 7  # of the attack in training, and here in the test too
BUDGET = "bit-budget:total_bits=13600"  # what density 0.05 with 4 bits takes by the paper's count
VARIANTS: dict[str, dict[str, Any]] = {
    "density 0.05, 4 bits": {"constraint": ("sparsity:density=0.05", "quantization:bits=4")},
    "density 0.05, budget": {"constraint": ("sparsity:density=0.05", BUDGET)},
    "density 0.1, budget": {"constraint": ("sparsity:density=0.1", BUDGET)},
    "budget alone": {"constraint": (BUDGET,)},
    "density 0.05, 4 bits, no factors": {
        "constraint": ("sparsity:density=0.05", "quantization:bits=4"),
        "factored": False,
    },
    "density 0.1, budget, no factors": {"constraint": ("sparsity:density=0.1", BUDGET), "factored": False},
    "budget alone, no factors": {"constraint": (BUDGET,), "factored": False},
}


def main(output: Path) -> None:
    torch.set_num_threads(1)
    print("| constraints | non-zeros | bits, paper's count | clean, % | robust, % (seeds) |")
    print("|---|---|---|---|---|")
    for name, settings in VARIANTS.items():
        rows = []
        for seed in range(3):
            folder = output / name.replace(" ", "-").replace(",", "") / str(seed)
            resolved = Settings.resolved("digits", **settings, eps_step=STEP, seed=seed)
            rows.append(compare(resolved, folder, dense=False, verbose=False)["compressed"])
        keys = ("nnz", "paper_bits", "clean_accuracy", "robust_accuracy")
        nnz, bits, clean, robust = (statistics.mean(row[key] for row in rows) for key in keys)
        each = ", ".join(f"{100 * row['robust_accuracy']:.1f}" for row in rows)
        print(f"| {name} | {nnz:,.0f} | {bits:,.0f} | {100 * clean:.1f} | {100 * robust:.1f} ({each}) |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
