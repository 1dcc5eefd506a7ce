r"""GAN slimming: distillation, channel sparsity and quantisation of a generator as one minimax problem."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from art_atmc_structured import Removal
from art_atmc_uniform import UniformQuantization
from torch import Tensor, nn

from art_atmc import (
    CompressedModel,
    Constraint,
    ProjectedGradient,
    Ramp,
    Solver,
    StraightThrough,
    compressible,
)
from art_atmc.classifiers import evaluating
from art_atmc.support.numbers import Real, Whole
from art_atmc_gan.activations import activation_ranges, calibrate_, clipped, quantize_activations_, quantizers
from art_atmc_gan.admission import Images, check_networks, checked_images
from art_atmc_gan.distillation import Distance, Pixels
from art_atmc_gan.phase import Batches, Phase
from art_atmc_gan.play import Game, Rates
from art_atmc_gan.progress import Progress, fingerprint
from art_atmc_gan.proximal import Proximal
from art_atmc_gan.removal import remove_channels
from art_atmc_gan.scales import ScaleSparsity, channel_scales, coupled_scales

__all__ = ["GANSlimming"]


@final
class GANSlimming:
    r"""Makes a trained generator narrow and quantised, in one problem.

    .. math:: \min_{W, \gamma} \max_\theta \; L_{GAN}\bigl(D_\theta, G_0(x), G_q(x; W, \gamma)\bigr)
              + \beta\, d\bigl(G_q(x; W, \gamma), G_0(x)\bigr) + \rho \|\gamma\|_1

    with the dense generator :math:`G_0`, whose images are the real ones for the discriminator D; the student G with
    quantised weights and activations; least-squares losses :math:`L_{GAN}`; and :math:`\gamma`, the scales of
    normalisation layers. In place of the penalty there may be a budget, at most a share ``density`` of all scales.

    Each step takes Adam on W, gradient descent with momentum on :math:`\gamma` with the penalty or the budget, and Adam
    on D. After ``nb_steps`` channels of scale zero are taken out, and the narrow network is trained on,
    without penalty, for ``fine_tuning_steps``. What is returned is the average of the weights, on all constraints.

    :param generator: a trained network of images, the student's start; left as it is.
    :param discriminator: gives real scores of any shape, best the one that was trained with the generator; left as it
        is.
    :param teacher: :math:`G_0`, by default the generator as it is.
    :param rho: the penalty's factor; or None.
    :param density: the budget, a share of all scales in (0, 1]; or None. With neither no channel goes.
    :param least: scales that each layer keeps. The paper's penalty, which closes layers, has 0.
    :param beta: the factor of the distance, at least 0.
    :param distance: d.
    :param bits: of weights, in 2..16, on a uniform grid for each tensor whose step is a power of two; None for float32.
    :param activation_bits: of activations; by default ``bits``.
    :param constraints: more constraints on the weights, such as ``Sparsity`` or ``Quantization``; each acts through its
        projection from the start, and in full for the last two fifths of the steps.
    :param rates: learning rates.
    :param average: decay of the average of the weights, in [0, 1); 0 for the last ones.
    :param clip_values: the range of images.
    :param seed: of the order of images.
    :param checkpoint: folder of this fit's checkpoints, from which an interrupted fit goes on, bit for bit, when it is
        called again in the same way; one that is finished is not trained again. SIGTERM and Ctrl-C end the step, write
        one and raise :class:`art_atmc.training.Interrupted`.
    :param checkpoint_every: steps between two of them; None for one when the channels go and one at the end.
    :param verbose: print a line now and then.
    :raises TypeError: when a network is no module.
    :raises ValueError: when a number is out of range, for ``rho`` and ``density`` together, and for networks whose
        activations are quantised already.

    Source: Wang et al. 2020 (https://arxiv.org/abs/2008.11062). ``density`` and ``least`` are ours.

    >>> from art_atmc_gan import PatchDiscriminator, ResidualGenerator
    >>> networks = ResidualGenerator((4, 4, 4), 4), PatchDiscriminator(4)
    >>> slimming = GANSlimming(*networks, density=0.5, bits=8, verbose=False)
    >>> slimming.fit(torch.rand(16, 3, 32, 32), nb_steps=2, fine_tuning_steps=1, batch_size=8)
    >>> sum(after for _, after in slimming.removal.widths.values())
    6
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        teacher: nn.Module | None = None,
        rho: float | None = None,
        density: float | None = None,
        least: int = 2,
        beta: float = 20.0,
        distance: Distance | None = None,
        bits: int | None = None,
        activation_bits: int | None = None,
        constraints: Sequence[Constraint] = (),
        rates: Rates | None = None,
        average: float = 0.98,
        clip_values: tuple[float, float] = (-1.0, 1.0),
        seed: int = 0,
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        verbose: bool = True,
    ) -> None:
        for name, network in (("generator", generator), ("discriminator", discriminator), ("teacher", teacher)):
            if not (isinstance(network, nn.Module) or (name == "teacher" and network is None)):
                raise TypeError(f"`{name}` must be a torch module, got {type(network).__name__}")
        if rho is not None and density is not None:
            raise ValueError("give `rho` for the penalty or `density` for the budget, not both")
        if present := list(quantizers(generator)) or list(quantizers(teacher or generator)):
            raise ValueError(f"{present} have quantised activations already; begin with the network as it was")
        self.rho = Real("[0, inf)", "0 is no penalty", optional=True).plain("rho", rho)
        self.density = Real("(0, 1]", "give the share of scales to keep", optional=True).plain("density", density)
        self.least: int = Whole(0, None, "0 lets layers close").plain("least", least)
        self.beta: float = Real("[0, inf)", "0 is no distillation").plain("beta", beta)
        width = Whole(2, 16, "8 is usual, None leaves float32", optional=True)
        self.bits: int | None = width.plain("bits", bits)
        self.activation_bits: int | None = width.plain("activation_bits", activation_bits) or self.bits
        self.average: float = Real("[0, 1)", "0 takes the last weights").plain("average", average)
        self.distance = distance or Pixels()
        self.constraints = [*constraints]
        if self.bits is not None:
            self.constraints.append(UniformQuantization(bits=self.bits, power_of_two=True))
        self.rates = rates or Rates()
        self.clip_values = (float(clip_values[0]), float(clip_values[1]))
        self.seed, self.verbose = seed, verbose
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        every = Whole(1, None, "it counts steps; None for the end of each phase", optional=True)
        self.checkpoint_every: int | None = every.plain("checkpoint_every", checkpoint_every)
        self.teacher = copy.deepcopy(generator if teacher is None else teacher).eval().requires_grad_(False)
        self.generator = copy.deepcopy(generator).requires_grad_(True)
        self.discriminator = copy.deepcopy(discriminator).requires_grad_(True)
        self.removal: Removal | None = None
        self.history: list[dict[str, float]] = []
        self._input_shape: tuple[int, ...] | None = None
        self._fits = 0

    def fit(self, x: Images, *, nb_steps: int = 400, fine_tuning_steps: int = 200, batch_size: int = 16) -> None:
        """Slim the generator on images of its source; then ``generator`` is the narrow one, in evaluation mode.

        :param x: images, shape (N, C, H, W), within ``clip_values``.
        :param nb_steps: steps with the penalty or the budget.
        :param fine_tuning_steps: steps of the narrow network.
        :param batch_size: images in a step, at most N.
        :raises ValueError: for images of another shape or range, networks that do not fit them or each other, and
            what :func:`~art_atmc_gan.channel_scales` refuses; for checkpoints of a fit under other conditions, with all
            that differs.
        :raises FloatingPointError: when a loss is not finite; the networks are those before that step.
        :warns UserWarning: when the discriminator has collapsed, or more than 1 % of what a layer reads is clipped.
        """
        images = self._taken(x)
        nb_steps = Whole(1, None, "each is one batch").plain("nb_steps", nb_steps)
        fine_tuning_steps = Whole(0, None, "0 for none").plain("fine_tuning_steps", fine_tuning_steps)
        batch_size = Whole(1, len(images), "a batch holds images of `x`").plain("batch_size", batch_size)
        sample = images[:64]
        check_networks(self.generator, self.discriminator, self.teacher, sample[:2], self.clip_values)
        if self.activation_bits is not None and not quantizers(self.generator):
            quantize_activations_(self.generator, self.activation_bits, sample)
        asked = {"nb_steps": nb_steps, "fine_tuning_steps": fine_tuning_steps, "batch_size": batch_size}
        with self._progress(images, asked) as progress:
            self._phase(progress, images, nb_steps, batch_size, sparse=True)
            if self.rho is not None or self.density is not None:
                self.removal = remove_channels(self.generator, sample)
                self.generator = self.removal.model
            if fine_tuning_steps or self.removal is not None:
                # A layer that took over what constants added may have left the grid.
                self._phase(progress, images, max(fine_tuning_steps, 1), batch_size, sparse=False)
        calibrate_(self.generator, sample)
        self._warn_of_clipping(images[-64:])

    def predict(self, x: Images, batch_size: int = 128) -> np.ndarray[Any, Any]:
        """The images that the generator makes of ``x``."""
        with torch.no_grad(), evaluating(self.generator):
            return torch.cat([self.generator(part) for part in self._taken(x).split(batch_size)]).cpu().numpy()

    def compress(self, metrics: dict[str, Any] | None = None) -> CompressedModel:
        """The generator as a file, whose metrics hold the ranges of its activations.

        :func:`~art_atmc_gan.restore_narrow` gives it back.
        """
        ranges: dict[str, Any] = {}
        if self.activation_bits is not None:
            ranges = {"activation_bits": self.activation_bits, "activation_ranges": activation_ranges(self.generator)}
        return CompressedModel.of(
            self.generator, self.constraints, metrics=ranges | (metrics or {}), input_shape=self._input_shape
        )

    def _progress(self, images: Tensor, asked: dict[str, int]) -> Progress:
        """A second fit has a folder of its own in that of the first."""
        self._fits += 1
        folder = (
            self.checkpoint if self.checkpoint is None or self._fits == 1 else self.checkpoint / f"fit-{self._fits}"
        )
        names = ("rho", "density", "least", "beta", "distance", "bits", "activation_bits", "constraints", "rates")
        settings = {name: getattr(self, name) for name in (*names, "average", "clip_values", "seed")} | asked
        # Of an object that does not describe itself its class counts, not its place in memory.
        conditions = {name: re.sub(r" at 0x[0-9a-f]+", "", repr(value)) for name, value in settings.items()}
        if folder is not None:
            networks = {name: getattr(self, name) for name in ("generator", "discriminator", "teacher")}
            conditions |= {name: fingerprint(part) for name, part in ({"images": images} | networks).items()}
        rng = torch.Generator().manual_seed(self.seed)
        progress = Progress(folder, self.checkpoint_every, conditions, rng, self.history)
        if progress.taken_up and self.verbose:
            print(f"going on from {folder}")
        return progress

    def _phase(self, progress: Progress, images: Tensor, nb_steps: int, batch_size: int, *, sparse: bool) -> None:
        game = Game(self.generator, self.discriminator, self.teacher, self.beta, self.distance, self.rates, nb_steps)
        ramp = Ramp(0, math.ceil(0.6 * nb_steps)) if sparse else Ramp()
        weights = compressible(self.generator)
        on_weights: list[Solver] = [StraightThrough(weights, c, ramp=ramp) for c in self.constraints]
        on_scales: list[Solver] = []
        if sparse and (self.rho is not None or self.density is not None):
            on_scales.append(self._solver(images[:2], game.scales, ramp))
        batches = Batches(len(images), batch_size, progress.rng)
        phase = Phase(game, on_weights, on_scales, batches, nb_steps, self.average)

        def settled(figures: dict[str, float]) -> None:
            if phase.step % 50 == 0 or phase.step == nb_steps:
                self.history.append({"step": float(phase.step), "sparse": float(sparse)} | figures)
                if self.verbose:
                    print(", ".join(f"{key} {value:.4g}" for key, value in self.history[-1].items()))
            progress.settle(phase)

        if not progress.resume(phase):
            phase.play(images, settled)
            progress.finish(phase)

    def _solver(self, sample: Tensor, optimizer: torch.optim.Optimizer, ramp: Ramp) -> Solver:
        scales = channel_scales(self.generator, sample)
        if self.density is None:
            assert self.rho is not None
            return Proximal(scales, optimizer, rho=self.rho, least=self.least)
        coupled = coupled_scales(self.generator, sample)
        constraint = ScaleSparsity(self.density, least=max(self.least, 1), coupled=coupled)
        return ProjectedGradient(scales, constraint, ramp=ramp)

    def _taken(self, x: Images) -> Tensor:
        images = checked_images(x, self.clip_values)
        self._input_shape = tuple(images.shape[1:])
        return images.to(next(self.generator.parameters()))

    def _warn_of_clipping(self, sample: Tensor) -> None:
        if many := {name: share for name, share in clipped(self.generator, sample).items() if share > 0.01}:
            warnings.warn(f"the ranges of activations saturate: shares clipped {many}", stacklevel=3)
