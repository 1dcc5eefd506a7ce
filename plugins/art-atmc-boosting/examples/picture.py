"""Draw what digits.py wrote: robust accuracy against bytes and against seconds, stages marked, single networks beside.

python plugins/art-atmc-boosting/examples/picture.py OUTPUT PICTURE.png
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

BOOSTED = {"average": "four boosted members", "average-4-bits": "the same, density 0.2 and 4 bits"}
SINGLE = {
    "wide": "one network",
    "wide-4-bits": "one network, density 0.2 and 4 bits",
    "independent": "four independent",
}


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-[0-9].json"))]


def mean(values: Any) -> float:
    return float(statistics.mean(values))


def main(folder: Path, picture: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for name, label in BOOSTED.items():
        if not (found := rows(folder, name)):
            continue
        worst = [100 * mean(row["prefixes"][k][1] for row in found) for k in range(len(found[0]["prefixes"]))]
        spent = [mean(part) for part in zip(*(itertools.accumulate(r["seconds a stage"]) for r in found), strict=True)]
        size = mean(row["bytes"] for row in found)
        sizes = [size * (k + 1) / len(worst) for k in range(len(worst))]
        for axis, values in zip(axes, (sizes, spent), strict=True):
            axis.plot(values, worst, marker="o", label=label)
            for k, point in enumerate(zip(values, worst, strict=True), 1):
                axis.annotate(str(k), point, textcoords="offset points", xytext=(4, -11), fontsize=8)
    for name, label in SINGLE.items():
        if found := rows(folder, name):
            worst = 100 * mean(row["prefixes"][-1][1] for row in found)
            for axis, key in zip(axes, ("bytes", "seconds"), strict=True):
                axis.plot(mean(row[key] for row in found), worst, marker="s", linestyle="", label=label)
    axes[0].set(xscale="log", xlabel="bytes of the file, those of prefixes in proportion", ylabel="worst case, %")
    axes[1].set(xscale="log", xlabel="seconds of training")
    for axis, ticks in zip(axes, ((1_000, 3_000, 10_000, 30_000), (5, 10, 20, 50)), strict=True):
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes[1].legend(fontsize=8)
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
