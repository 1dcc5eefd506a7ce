"""GAN slimming of the teachers that photo_digits.py keeps, against what else one may do: prints a Markdown table.

    python slim_digits.py runs/gan --photos FOLDER --mnist FOLDER --seeds 3

Every way gets the same teacher, the same images and as many steps in all. Runs that are in the folder are not repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from art_atmc_gan import (
    GANSlimming,
    PatchDiscriminator,
    ResidualGenerator,
    ScaleSparsity,
    channel_scales,
    remove_channels,
)
from photo_digits import WIDTHS, Digits, Scorer, images, scorer, sheet, teacher, translated
from torch import nn

from art_atmc import CompressedModel
from art_atmc.inference import multiply_adds

SLIM, TUNE = 240, 160  # steps with the penalty or the budget, and after it
DENSITY = 0.25
NARROW = (4, 6, 8, 9, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = images(options.photos, options.mnist)
    judge = scorer(data, options.output / "scorer.pt")
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        dense = teacher(data, judge, options.output / f"teacher-{seed}.pt", seed)
        for way in options.ways:
            rows.setdefault(way, []).append(recorded(way, dense, data, judge, options.output, seed))
    table(rows)


Way = Callable[[nn.Module, nn.Module, torch.Tensor, int], tuple[nn.Module, CompressedModel]]


def slimmed(**options: Any) -> Way:
    def way(generator: nn.Module, discriminator: nn.Module, x: torch.Tensor, seed: int) -> Any:
        slimming = GANSlimming(generator, discriminator, seed=seed, verbose=False, **options)
        slimming.fit(x, nb_steps=SLIM, fine_tuning_steps=TUNE)
        return slimming.generator, slimming.compress()

    return way


def dense(generator: nn.Module, *_: Any) -> Any:
    return generator, CompressedModel.of(generator, input_shape=(3, 32, 32))


def distilled(generator: nn.Module, discriminator: nn.Module, x: torch.Tensor, seed: int) -> Any:
    """A narrow network from random weights."""
    torch.manual_seed(seed)
    narrow = ResidualGenerator(NARROW)
    slimming = GANSlimming(narrow, discriminator, teacher=generator, seed=seed, verbose=False)
    slimming.fit(x, nb_steps=SLIM + TUNE, fine_tuning_steps=0)
    return slimming.generator, slimming.compress()


def pipeline(generator: nn.Module, discriminator: nn.Module, x: torch.Tensor, seed: int) -> Any:
    """Prune once, distil, then quantise."""
    pruned = copy.deepcopy(generator)
    scales = channel_scales(pruned, x[:2])
    scales.assign_(ScaleSparsity(DENSITY).project(scales.detach()))
    small = remove_channels(pruned, x[:16]).model
    first = GANSlimming(small, discriminator, teacher=generator, seed=seed, verbose=False)
    first.fit(x, nb_steps=SLIM, fine_tuning_steps=0)
    second = GANSlimming(first.generator, first.discriminator, teacher=generator, bits=8, seed=seed, verbose=False)
    second.fit(x, nb_steps=TUNE, fine_tuning_steps=0)
    return second.generator, second.compress()


WAYS: dict[str, Way] = {
    "dense": dense,
    "budget": slimmed(density=DENSITY),
    "budget, 8 bits": slimmed(density=DENSITY, bits=8),
    "budget of 0.2, 6 bits": slimmed(density=0.2, bits=6, activation_bits=8),
    "penalty 1 (GS-32)": slimmed(rho=1.0, least=0),
    "penalty 0.3, 8 bits (GS-8)": slimmed(rho=0.3, least=0, bits=8),
    "penalty 1, 8 bits (GS-8)": slimmed(rho=1.0, least=0, bits=8),
    "distilled to narrow": distilled,
    "prune, distil, quantise": pipeline,
}


def recorded(
    way: str, made: dict[str, Any], data: dict[str, Digits], judge: Scorer, output: Path, seed: int
) -> dict[str, Any]:
    """The figures of a run, from the folder where they are there."""
    path = output / f"{way.translate(str.maketrans(' ,', '--', '()'))}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    generator, discriminator = ResidualGenerator(WIDTHS), PatchDiscriminator()
    generator.load_state_dict(made["generator"])
    discriminator.load_state_dict(made["discriminator"])
    generator.eval()
    started = time.process_time()
    small, compressed = WAYS[way](generator, discriminator, data["train"].source, seed)
    spent = time.process_time() - started
    x = data["test"].source
    small.eval()
    figures: dict[str, Any] = {"way": way, "seed": seed, "cpu": spent, "file": compressed.file_bytes}
    for part in ("validation", "test"):
        figures[part] = judge.score(translated(small, data[part].source), data[part])
    small.eval(), generator.eval()
    figures["multiply_adds"] = sum(count.dense for count in multiply_adds(small, x[:2]).values())
    figures["parameters"] = sum(p.numel() for p in small.parameters())
    figures["widths"] = [m.num_features for m in small.modules() if isinstance(m, nn.InstanceNorm2d) and m.affine]
    compressed.save(path.with_suffix(".atmc"))
    path.write_text(json.dumps(figures))
    sheet(
        [x[:16], translated(generator, x[:16]), translated(small, x[:16]), data["test"].target[:16]],
        path.with_suffix(".png"),
    )
    print(json.dumps(figures), flush=True)
    return figures


def table(rows: dict[str, list[dict[str, Any]]]) -> None:
    def spread(values: list[float]) -> str:
        return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"

    whole = rows.get("dense", next(iter(rows.values())))
    print("| way | multiply-adds / | file, kB | / | labels, % | distance | kernel distance | s |")
    print("|---|---|---|---|---|---|---|---|")
    for way, runs in rows.items():
        saved = mean(d["multiply_adds"] / r["multiply_adds"] for d, r in zip(whole, runs, strict=False))
        bytes_saved = mean(d["parameters"] * 4 / r["file"] for d, r in zip(whole, runs, strict=False))
        scores = [spread([r["test"][key] for r in runs]) for key in ("labels", "distance", "kernel")]
        print(
            f"| {way} | {saved:.2f} | {mean(r['file'] for r in runs) / 1000:.1f} | {bytes_saved:.1f} | "
            f"{' | '.join(scores)} | {mean(r['cpu'] for r in runs):.0f} |"
        )


if __name__ == "__main__":
    main()
