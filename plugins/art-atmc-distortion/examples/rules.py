"""Rules of the multiplier against each other, against the hinge and against fixed weights, on a small codec.

python plugins/art-atmc-distortion/examples/rules.py PHOTOGRAPHS OUTPUT

All are trained to the same distortion for as many steps from the same weights. Figures are of held-out corners; where
matplotlib is installed, OUTPUT/trajectories.png shows rate, distortion and multiplier over the steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from art_atmc_distortion import Additive, Fixed, Hinge, Multiplicative, NuPI
from art_atmc_distortion.codec import Architecture, Codec, Photographs, Recipe, calibrate, distortion, train

BOUND, STEPS = 60.0, 240
SMALL = Architecture(hidden=24, transform=32, filter=8)
RULES = {
    "multiplicative": Multiplicative(start=0.5),
    "hinge": Hinge(3.0),
    **{f"fixed {weight}": Fixed(weight) for weight in (0.1, 0.2, 0.4)},
    "nuPI": NuPI(start=0.5),
    "additive": Additive(start=0.5),
}


def main(photographs: Path, output: Path) -> None:
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    data = Photographs.of(photographs)
    patches = data.held_out(256, 64)
    print("| rule | D/c before | bits a pixel before | bits a pixel at D = c | multiplier, last 100 steps |")
    print("|---|---|---|---|---|")
    for name, rule in RULES.items():
        file = output / f"{name.replace(' ', '-')}.json"
        if not file.exists():
            torch.manual_seed(0)
            codec = Codec(SMALL)
            rows = train(codec, data, Recipe(BOUND, STEPS, rule=rule, batch=4, side=64, lr=4e-3))
            rate, found = distortion(codec, patches)
            calibrate(codec, patches, BOUND)
            kept = {"before": [rate, found], "after": distortion(codec, patches)[0]}
            trajectory = [[row.rate, row.distortion, row.multiplier] for row in rows]
            file.write_text(json.dumps(kept | {"rows": trajectory}))
        kept = json.loads(file.read_text())
        rate, found = kept["before"]
        last = np.array(kept["rows"])[-100:, 2]
        spread = f"{last.min():.3f} to {last.max():.3f}"
        print(f"| {name} | {found / BOUND:.3f} | {rate:.3f} | {kept['after']:.3f} | {spread} |", flush=True)

    drawn(output)


def drawn(output: Path) -> None:
    """Three of them over the steps, averaged over 12."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots(1, 3)
    for name in ("multiplicative", "hinge", "fixed 0.2"):
        rows = np.array(json.loads((output / f"{name.replace(' ', '-')}.json").read_text())["rows"])
        means = rows[: len(rows) // 12 * 12].reshape(-1, 12, 3).mean(axis=1)
        for place, axis in enumerate(axes):
            axis.plot(12 * np.arange(1, len(means) + 1), means[:, place], label=name)
    for axis, title in zip(axes, ("rate, bits a pixel", "distortion", "multiplier"), strict=True):
        axis.set(title=title, xlabel="step", yscale="log")
    axes[1].axhline(BOUND, color="black", linestyle="--", linewidth=1)
    axes[0].legend(fontsize=7)
    figure.savefig(output / "trajectories.png", dpi=110)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
