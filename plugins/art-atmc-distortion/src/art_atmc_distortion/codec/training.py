r"""Training of a codec to a distortion: :math:`\min_\theta R(\theta)` subject to :math:`D(\theta) \le c`."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from art_atmc.support.numbers import Real, Whole, check_numbers
from art_atmc_distortion.codec.network import Architecture, Codec
from art_atmc_distortion.codec.photographs import Photographs
from art_atmc_distortion.lagrangian import Lagrangian
from art_atmc_distortion.multipliers import Rule
from art_atmc_distortion.rules import Multiplicative

__all__ = ["Recipe", "Row", "calibrate", "distortion", "load", "mse", "save", "train"]

OBSERVED: Final = 4
"""Patches a step on which a bound that holds elsewhere is measured."""

Enforced = Callable[[torch.optim.Optimizer], AbstractContextManager[None]]


@final
@dataclasses.dataclass(frozen=True)
class Recipe:
    r"""How a codec is trained.

    :param at_most: c, bound on the mean squared error of values in 0..255, see :func:`mse`.
    :param steps: of Adam.
    :param rule: how the multiplier moves; ``Fixed`` and ``Hinge`` are the baselines.
    :param frozen: share of the steps before it does, in [0, 1).
    :param lr: rate of the networks; that of the steps of quantization is five times it.
    :param decay: share of the steps over which the rate falls to zero, at the end, in (0, 1].
    :param batch: patches a step, of ``side`` pixels, which must be a multiple of 8.
    :param seed: of the order of the patches.
    :raises ValueError: for values out of range.
    """

    at_most: float
    steps: int = 1500
    rule: Rule = Multiplicative(start=0.5)  # noqa: RUF009
    frozen: float = 0.1
    lr: float = 2e-3
    decay: float = 0.4
    batch: int = 6
    side: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [f"`side` must be a multiple of 8, got {self.side}"] if self.side % 8 else []
        count = Whole(1, None, "it counts from one")
        check_numbers(
            self,
            faults,
            at_most=Real("(0, inf)", "60 is about 30 dB; mse(psnr) computes it"),
            steps=count,
            frozen=Real("[0, 1)", "it is a share of the run"),
            lr=Real("(0, inf)", "0.002 is usual"),
            decay=Real("(0, 1]", "it is a share of the run"),
            batch=count,
            side=count,
            seed=Whole(0, None, "it is a seed"),
        )


@final
@dataclasses.dataclass(frozen=True)
class Row:
    """One step of training: bits a pixel, mean squared error, and the multiplier after it."""

    step: int
    rate: float
    distortion: float
    multiplier: float


def mse(psnr: float) -> float:
    """The mean squared error of a peak signal-to-noise ratio in decibels.

    >>> round(mse(30.0), 2)
    65.03
    """
    return 255.0**2 / 10 ** (psnr / 10)


def train(
    codec: Codec,
    photographs: Photographs,
    recipe: Recipe,
    *,
    held_out: Tensor | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
    enforced: Enforced | None = None,
) -> list[Row]:
    """Train in place; a row for each step.

    :param held_out: patches on which the bound is to be met, such as those of :func:`calibrate`: the multiplier is then
        moved by the distortion of a few of them, each step the next. Without them it is moved by that of the batch, and
        the bound is met on the photographs themselves, which may be rougher or smoother than what is held out.
    :param checkpoint: file from which an interrupted training goes on, bit for bit, and which is written every so many
        steps.
    :param enforced: given the optimizer, a block in which constraints on weights are enforced
        (:func:`art_atmc.enforced`).
    :raises FloatingPointError: when rate or distortion are no longer finite.
    :raises ValueError: for a checkpoint of another recipe.
    """
    networks = [p for name, p in codec.named_parameters() if name != "log_step"]
    optimizer = torch.optim.Adam(
        [{"params": networks, "lr": recipe.lr}, {"params": [codec.log_step], "lr": 5 * recipe.lr}]
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    lagrangian = Lagrangian([recipe.at_most], recipe.rule, frozen=int(recipe.frozen * recipe.steps))
    generator = np.random.default_rng(recipe.seed)
    rows: list[Row] = []
    if checkpoint is not None and checkpoint.exists():
        rows = _resumed(checkpoint, recipe, codec, optimizer, lagrangian, generator)
    patches = photographs.batches(recipe.batch, recipe.side, generator)
    codec.train()
    with enforced(optimizer) if enforced else nullcontext():
        for step in range(len(rows), recipe.steps):
            share = min(1.0, (1 - step / recipe.steps) / recipe.decay)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            images = next(patches)
            coded = codec(images)
            error = (coded.images - images).square().mean()
            observed = None if held_out is None else [distortion(codec, _in_turn(held_out, step))[1]]
            loss = lagrangian(coded.rate, [error], observed)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(networks, 1.0)
            optimizer.step()
            rows.append(Row(step + 1, float(coded.rate.detach()), float(error.detach()), lagrangian.values[0]))
            if checkpoint is not None and (step + 1) % every == 0:
                _write(checkpoint, recipe, codec, optimizer, lagrangian, generator, rows)
    codec.eval()
    return rows


def _in_turn(patches: Tensor, step: int) -> Tensor:
    """A few of the patches that are new at each step until all have had their turn."""
    start = step * OBSERVED % len(patches)
    return patches[start : start + OBSERVED]


@torch.inference_mode()
def distortion(codec: Codec, patches: Tensor, size: int = 16) -> tuple[float, float]:
    """Bits a pixel and mean squared error of patches, of images with whole values as they would be shown."""
    codec.eval()
    rates, errors = [], []
    for part in patches.split(size):
        coded = codec(part)
        rates.append(float(coded.rate) * len(part))
        errors.append(float((coded.images.round().clamp(0, 255) - part).square().mean()) * len(part))
    return sum(rates) / len(patches), sum(errors) / len(patches)


def calibrate(codec: Codec, patches: Tensor, at_most: float, *, tolerance: float = 1e-3, tries: int = 20) -> float:
    r"""Meet a bound that training has nearly met, by one factor on all quantization steps.

    The distortion grows with the factor, so that bisection finds the largest one with
    :math:`(1 - \tau)\, c \le D \le c`; the rate is then the least that this network has for the bound.

    :param codec: changed in place: its ``fineness``.
    :param patches: (N, 3, H, W) of the photographs' held-out corners, which training has not seen.
    :param at_most: c.
    :param tolerance: :math:`\tau`.
    :returns: the distortion on the patches.
    :raises ValueError: when no factor from 1/4 to 4 meets the bound.
    """
    before = float(codec.fineness)
    low, high = before / 4, before * 4
    best: tuple[float, float] | None = None
    tried, slope, former = before, 0.7, None
    for _ in range(tries):
        codec.fineness.fill_(tried)
        found = distortion(codec, patches)[1]
        if found <= at_most:
            low, best = tried, (tried, found)
            if found >= (1 - tolerance) * at_most:
                break
        else:
            high = tried
        # A secant of the logarithms: ln step along ln distortion is nearly a line.
        if former is not None and former[1] != found:
            slope = math.log(tried / former[0]) / math.log(found / former[1])
        former = tried, found
        guess = tried * (at_most * (1 - tolerance / 2) / found) ** slope
        tried = guess if low < guess < high else (low * high) ** 0.5
    if best is None:
        codec.fineness.fill_(before)
        raise ValueError(
            f"no quantization step meets the distortion {at_most}: with the finest that was tried it is {found:.3g}; "
            "train to a bound near it"
        )
    codec.fineness.fill_(best[0])
    return best[1]


def save(codec: Codec, path: Path) -> None:
    """Write a codec with its architecture."""
    torch.save({"architecture": dataclasses.asdict(codec.architecture), "weights": codec.state_dict()}, path)


def load(path: Path) -> Codec:
    """Read what :func:`save` wrote; nothing in it is executed.

    :raises ValueError: for any other file.
    """
    try:
        held = torch.load(path, weights_only=True)
        codec = Codec(Architecture(**held["architecture"]))
        codec.load_state_dict(held["weights"])
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is no codec ({type(error).__name__}); give a file of `art-atmc-codec train`"
        ) from None
    return codec.eval()


def _write(
    path: Path, recipe: Recipe, codec: Codec, optimizer: Any, lagrangian: Any, generator: Any, rows: Any
) -> None:
    state = {
        "recipe": repr(recipe),
        "codec": codec.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lagrangian": lagrangian.state_dict(),
        "generator": generator.bit_generator.state,
        "rows": [dataclasses.astuple(row) for row in rows],
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def _resumed(path: Path, recipe: Recipe, codec: Codec, optimizer: Any, lagrangian: Any, generator: Any) -> list[Row]:
    state = torch.load(path, weights_only=True)
    if state["recipe"] != repr(recipe):
        raise ValueError(f"{path} is of {state['recipe']}, this is {recipe}; give another file or the same recipe")
    codec.load_state_dict(state["codec"])
    optimizer.load_state_dict(state["optimizer"])
    lagrangian.load_state_dict(state["lagrangian"])
    generator.bit_generator.state = state["generator"]
    return [Row(*row) for row in state["rows"]]
