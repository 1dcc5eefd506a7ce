"""GAN slimming of the teachers that photo_digits.py keeps, against what else one may do: prints a Markdown table.

    python slim_digits.py runs/gan --photos FOLDER --mnist FOLDER --seeds 3

Every way gets the same teacher, the same images and as many steps in all. Runs that are in the folder are not repeated.
With ``--strengths 0.5 1 2`` it prints instead what penalties of these strengths leave of the first teacher.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
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
    parser.add_argument("--strengths", nargs="*", type=float, default=[], help="only try these penalties, on seed 0")
    parser.add_argument("--least", type=int, default=0, help="scales that each layer keeps under those")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = images(options.photos, options.mnist)
    judge = scorer(data, options.output / "scorer.pt")
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        made = teacher(data, judge, options.output / f"teacher-{seed}.pt", seed)
        generator, discriminator = ResidualGenerator(WIDTHS).eval(), PatchDiscriminator()
        generator.load_state_dict(made["generator"])
        discriminator.load_state_dict(made["discriminator"])
        start = Start(generator, discriminator, data, judge, options.output, seed)
        if options.strengths:
            strengths(start, options.strengths, options.least)
            return
        for way in options.ways:
            rows.setdefault(way, []).append(recorded(way, start))
    table(rows)


@dataclasses.dataclass(frozen=True)
class Start:
    """What every way begins with: a trained generator with its discriminator, images, and who scores."""

    generator: nn.Module
    discriminator: nn.Module
    data: dict[str, Digits]
    judge: Scorer
    output: Path
    seed: int

    @property
    def x(self) -> torch.Tensor:
        return self.data["train"].source

    def slimming(self, generator: nn.Module, **options: Any) -> GANSlimming:
        discriminator = options.pop("discriminator", self.discriminator)
        return GANSlimming(generator, discriminator, teacher=self.generator, seed=self.seed, verbose=False, **options)


Way = Callable[[Start], tuple[nn.Module, CompressedModel]]


def slimmed(**options: Any) -> Way:
    def way(start: Start) -> Any:
        slimming = start.slimming(start.generator, **options)
        slimming.fit(start.x, nb_steps=SLIM, fine_tuning_steps=TUNE)
        return slimming.generator, slimming.compress()

    return way


def as_it_is(generator: nn.Module) -> tuple[nn.Module, CompressedModel]:
    return generator, CompressedModel.of(generator, input_shape=(3, 32, 32))


def dense(start: Start) -> Any:
    return as_it_is(start.generator)


def narrow_from_scratch(start: Start) -> Any:
    """A narrow network that never saw the teacher: trained as the teacher was, for as many steps as both take."""
    path = start.output / f"narrow-{start.seed}.pt"
    made = teacher(start.data, start.judge, path, start.seed, 1000 + SLIM + TUNE, NARROW)
    narrow = ResidualGenerator(NARROW)
    narrow.load_state_dict(made["generator"])
    return as_it_is(narrow)


def distilled(start: Start) -> Any:
    """A narrow network from random weights."""
    torch.manual_seed(start.seed)
    slimming = start.slimming(ResidualGenerator(NARROW))
    slimming.fit(start.x, nb_steps=SLIM + TUNE, fine_tuning_steps=0)
    return slimming.generator, slimming.compress()


def pipeline(start: Start) -> Any:
    """Prune once, distil, then quantise."""
    pruned = copy.deepcopy(start.generator)
    scales = channel_scales(pruned, start.x[:2])
    scales.assign_(ScaleSparsity(DENSITY).project(scales.detach()))
    first = start.slimming(remove_channels(pruned, start.x[:16]).model)
    first.fit(start.x, nb_steps=SLIM, fine_tuning_steps=0)
    second = start.slimming(first.generator, discriminator=first.discriminator, bits=8)
    second.fit(start.x, nb_steps=TUNE, fine_tuning_steps=0)
    return second.generator, second.compress()


# In float32 a penalty of 2 leaves the budget's multiply-adds, as `strengths` finds; with 8 bits that takes 2 to 3.
WAYS: dict[str, Way] = {
    "dense": dense,
    "narrow from scratch": narrow_from_scratch,
    "distilled to narrow": distilled,
    "prune, distil, quantise": pipeline,
    "budget": slimmed(density=DENSITY),
    "budget, 8 bits": slimmed(density=DENSITY, bits=8),
    "budget of 0.2, 6 bits": slimmed(density=0.2, bits=6, activation_bits=8),
    "penalty 2 (GS-32)": slimmed(rho=2.0, least=0),
    "penalty 2, 8 bits (GS-8)": slimmed(rho=2.0, least=0, bits=8),
    "penalty 3, 8 bits (GS-8)": slimmed(rho=3.0, least=0, bits=8),
    "penalty 0.3, 8 bits (GS-8)": slimmed(rho=0.3, least=0, bits=8),
}


def strengths(start: Start, rhos: list[float], least: int) -> None:
    """What penalties leave after their steps, without fine-tuning; scored on validation data."""
    for rho in rhos:
        slimming = start.slimming(start.generator, rho=rho, least=least)
        slimming.fit(start.x, nb_steps=SLIM, fine_tuning_steps=0)
        assert slimming.removal is not None
        validation = start.data["validation"]
        score = start.judge.score(translated(slimming.generator, validation.source), validation)
        saved = work(start.generator, start.x) / work(slimming.generator, start.x)
        widths = [after for _, after in slimming.removal.widths.values()]
        print(json.dumps({"rho": rho, "least": least, "multiply-adds /": saved, "widths": widths} | score), flush=True)


def work(network: nn.Module, x: torch.Tensor) -> int:
    """Multiply-adds of one image."""
    return sum(count.dense for count in multiply_adds(network.eval(), x[:2]).values())


def recorded(way: str, start: Start) -> dict[str, Any]:
    """The figures of a run, from the folder where they are there."""
    path = start.output / f"{way.translate(str.maketrans(' ,', '--', '()'))}-{start.seed}.json"
    if path.exists():
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    started = time.process_time()
    small, compressed = WAYS[way](start)
    spent = time.process_time() - started
    figures: dict[str, Any] = {"way": way, "seed": start.seed, "cpu": spent, "file": compressed.file_bytes}
    for part in ("validation", "test"):
        figures[part] = start.judge.score(translated(small, start.data[part].source), start.data[part])
    x = start.data["test"].source
    figures["multiply_adds"] = work(small, x)
    figures["parameters"] = sum(p.numel() for p in small.parameters())
    figures["widths"] = [m.num_features for m in small.modules() if isinstance(m, nn.InstanceNorm2d) and m.affine]
    compressed.save(path.with_suffix(".atmc"))
    path.write_text(json.dumps(figures))
    looks = [x[:16], translated(start.generator, x[:16]), translated(small, x[:16]), start.data["test"].target[:16]]
    sheet(looks, path.with_suffix(".png"))
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
