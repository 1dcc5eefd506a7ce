"""Draw what rules.py wrote: rate, distortion and multiplier over the steps of training.

python plugins/art-atmc-distortion/examples/picture.py OUTPUT PICTURE.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter
from rules import BOUND

SHOWN = {
    "multiplicative": "multiplicative",
    "hinge": "hinge, weight 3",
    "fixed-0.1": "fixed weight 0.1",
}
TOGETHER = 10  # steps a point: batches differ among themselves more than rules do


def main(folder: Path, picture: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for name, label in SHOWN.items():
        rows = np.array(json.loads((folder / f"{name}.json").read_text())["rows"])
        whole = len(rows) // TOGETHER * TOGETHER
        means = rows[:whole].reshape(-1, TOGETHER, 3).mean(axis=1)
        for axis, values in zip(axes, means.T, strict=True):
            axis.plot(TOGETHER * (np.arange(len(values)) + 0.5), values, label=label)
    axes[1].axhline(BOUND, color="black", linestyle="--", linewidth=1, label="bound")
    marks = (
        ("rate, bits a pixel", (0.5, 1, 2)),
        ("distortion", (20, 30, 60, 120)),
        ("multiplier", (0.1, 0.2, 0.5, 1, 3)),
    )
    for axis, (title, ticks) in zip(axes, marks, strict=True):
        axis.set(title=title, xlabel="step", yscale="log")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[1].legend(fontsize=8)
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
