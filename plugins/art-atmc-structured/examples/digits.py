"""Every kind of structured sparsity on scikit-learn's digits, against the dense network: prints a Markdown table.

    python examples/digits.py runs/structured --seeds 3

Each is trained against PGD with eps 0.1 and 7 steps for 30 epochs, and tested once. Nothing is chosen between them.
Where whole filters or channels are zero they are taken out, and both networks are timed at a batch of 64.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from art_atmc_structured import remove_filters

from art_atmc import CompressedModel
from art_atmc.evaluation.latency import latency
from art_atmc.experiments.comparison import compare
from art_atmc.experiments.settings import Settings
from art_atmc.networks import digits_cnn

STEP = 0.125 / 7  # of the attack in training, and here in the test too
CONSTRAINTS = (
    "filter-sparsity:density=0.5",
    "filter-sparsity:density=0.25",
    "filter-sparsity:density=0.25,per_layer=true",
    "channel-sparsity:density=0.5",
    "column-sparsity:density=0.25",
    "kernel-sparsity:density=0.25",
    "block-sparsity:density=0.25,rows=4,columns=4",
    "n-m-sparsity:n=2,m=4",
    "sparsity:density=0.25",
)


def shrunk(folder: Path) -> dict[str, Any]:
    """The network without its zero filters, and the share of the dense one's time that it takes."""
    model = CompressedModel.load(folder / "compressed.atmc").restore()
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    removal = remove_filters(model, x)
    dense, small = digits_cnn().eval(), removal.model
    with torch.inference_mode():
        times = latency({"dense": lambda: dense(x), "small": lambda: small(x)}, seconds=0.5)
        same = bool((small(x).argmax(1) == model(x).argmax(1)).all())
    widths = [removal.widths.get(f"layers.{n}", (w, w))[1] for n, w in (("conv1", 32), ("conv2", 64), ("fc1", 128))]
    return {
        "widths": widths,
        "parameters": removal.parameters[1],
        "difference": removal.difference,
        "same": same,
        "time": times["small"].median / times["dense"].median,
    }


def measured(constraint: str, seed: int, output: Path) -> dict[str, Any]:
    folder = output / constraint.translate(str.maketrans(":,=", "---")) / str(seed)
    settings = Settings.resolved("digits", constraint=(constraint,), eps_step=STEP, factored=False, seed=seed)
    metrics = compare(settings, folder, dense=constraint == CONSTRAINTS[0], verbose=False)
    return metrics | {"small": shrunk(folder)}


def row(name: str, runs: list[dict[str, Any]]) -> str:
    cells = [f"{100 * mean(run[key] for run in runs):.1f}" for key in ("clean_accuracy", "robust_accuracy")]
    robust = ", ".join(f"{100 * run['robust_accuracy']:.1f}" for run in runs)
    return f"| {name} | {mean(run['nnz'] for run in runs):,.0f} | {cells[0]} | {cells[1]} ({robust}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="folder for the runs; those that are there are not repeated")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| constraint | non-zeros | clean, % | robust, % (seeds) | widths left | parameters | time |")
    print("|---|---|---|---|---|---|---|")
    for number, constraint in enumerate(CONSTRAINTS):
        runs = [measured(constraint, seed, options.output) for seed in range(options.seeds)]
        if number == 0:
            print(row("none, dense", [run["dense"] for run in runs]), "32, 64, 128 | 53,002 | 1.00 |")
        small = [run["small"] for run in runs]
        assert all(s["same"] for s in small), "the smaller network must predict the same"
        widths = ", ".join(f"{mean(s['widths'][i] for s in small):.0f}" for i in range(3))
        parameters, time = mean(s["parameters"] for s in small), mean(s["time"] for s in small)
        print(
            row(f"`{constraint}`", [run["compressed"] for run in runs]), f"{widths} | {parameters:,.0f} | {time:.2f} |"
        )


if __name__ == "__main__":
    main()
