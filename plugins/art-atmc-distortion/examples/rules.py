"""Rules of the multiplier against each other, against the hinge and against five fixed weights, on a small codec.

python plugins/art-atmc-distortion/examples/rules.py PHOTOGRAPHS OUTPUT

All are trained to the same distortion for as many steps from the same weights. Figures are of held-out corners: as
trained, and after calibration to exactly the bound. Each run is a file of OUTPUT, and none is trained again; picture.py
draws them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from art_atmc_distortion import Additive, AugmentedLagrangian, Fixed, Hinge, Multiplicative, NuPI, Rule
from art_atmc_distortion.codec import Architecture, Codec, Photographs, Recipe, calibrate, distortion, train

BOUND, STEPS = 60.0, 160
SMALL = Architecture(hidden=24, transform=32, filter=8)
RULES: dict[str, Rule] = {
    "multiplicative": Multiplicative(start=0.2),
    "hinge": Hinge(3.0),
    "fixed 0.1": Fixed(0.1),
    "nuPI": NuPI(start=0.2),
    "fixed 0.2": Fixed(0.2),
    "additive": Additive(start=0.2),
    "fixed 0.05": Fixed(0.05),
    "fixed 0.4": Fixed(0.4),
    "fixed 0.8": Fixed(0.8),
    "augmented Lagrangian": AugmentedLagrangian(start=0.2, penalty=0.05),
}


def trained(rule: Rule, data: Photographs, patches: torch.Tensor) -> dict[str, Any]:
    began = time.process_time()
    torch.manual_seed(0)
    codec = Codec(SMALL)
    rows = train(codec, data, Recipe(BOUND, STEPS, rule=rule, batch=4, side=64, lr=4e-3))
    seconds = time.process_time() - began
    before = distortion(codec, patches)
    calibrate(codec, patches, BOUND)
    return {
        "before": before,
        "after": distortion(codec, patches),
        "seconds": seconds,
        "rows": [[row.rate, row.distortion, row.multiplier] for row in rows],
    }


def main(photographs: Path, output: Path) -> None:
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    data = Photographs.of(photographs)
    patches = data.held_out(116, 64)  # four of each of 29 photographs
    print("| rule | D/c as trained | bits a pixel as trained | bits a pixel at D = c | last multiplier | seconds |")
    print("|---|---|---|---|---|---|")
    for name, rule in RULES.items():
        file = output / f"{name.replace(' ', '-')}.json"
        if not file.exists():
            file.write_text(json.dumps(trained(rule, data, patches)))
        kept = json.loads(file.read_text())
        rate, found = kept["before"]
        print(
            f"| {name} | {found / BOUND:.3f} | {rate:.3f} | {kept['after'][0]:.3f} | {kept['rows'][-1][2]:.3f} | "
            f"{kept['seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
