"""A fit that was interrupted goes on to the same bits."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from art_atmc_gan import Features, GANSlimming, PatchDiscriminator, Pixels, ResidualGenerator
from art_atmc_gan.distillation import Distance
from torch import Tensor, nn

from art_atmc import Quantization, Sparsity
from art_atmc.training import Interrupted

X = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
STEPS = {"nb_steps": 5, "fine_tuning_steps": 4, "batch_size": 8}


class Interrupting(Distance):
    """A distance that interrupts the step in which it is called for the n-th time."""

    def __init__(self, at: int, by: signal.Signals | None) -> None:
        self.left, self.by = at, by

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            if self.by is None:
                raise KeyboardInterrupt
            signal.raise_signal(self.by)
        return Pixels()(student, teacher)


def slimming(folder: Path | None, distance: Distance, **options: Any) -> GANSlimming:
    torch.manual_seed(0)
    generator, discriminator = ResidualGenerator((4, 6, 8), stream=6), PatchDiscriminator(4)
    generator.blocks.append(nn.Dropout(0.1))  # draws from torch's own generator, which has a state too
    return GANSlimming(
        generator, discriminator, distance=distance, verbose=False, checkpoint=folder, checkpoint_every=1, **options
    )


def everything(run: GANSlimming) -> list[Any]:
    networks = [run.generator.state_dict(), run.discriminator.state_dict()]
    return [run.removal and run.removal.widths, run.history, *({k: v.tolist() for k, v in n.items()} for n in networks)]


@pytest.mark.parametrize(
    ("at", "by"),
    [(3, None), (5, signal.SIGTERM), (7, None), (9, signal.SIGINT)],
    ids=["slimming", "its-last-step", "tuning", "the-last-step"],
)
@pytest.mark.parametrize(
    "options",
    [
        {"density": 0.5, "bits": 8},
        {"rho": 5.0, "least": 1},
        {"constraints": [Sparsity(density=0.3), Quantization(bits=3)]},
    ],
    ids=["budget", "penalty", "atmc"],
)
def test_interrupted_it_ends_on_the_same_bits(
    tmp_path: Path, options: dict[str, Any], at: int, by: signal.Signals | None
) -> None:
    whole = slimming(None, Interrupting(99, None), **options)
    whole.fit(X, **STEPS)
    with pytest.raises(KeyboardInterrupt if by is None else Interrupted):
        slimming(tmp_path, Interrupting(at, by), **options).fit(X, **STEPS)
    again = slimming(tmp_path, count := Interrupting(99, None), **options)
    again.fit(X, **STEPS)
    assert everything(again) == everything(whole)
    assert 99 - count.left == 9 - at + (by is None)  # a step that a signal met was finished and kept


def test_a_finished_fit_is_not_trained_again_and_a_second_one_has_its_own_folder(tmp_path: Path) -> None:
    runs = []
    for at in (99, 1):  # the second time a step would be interrupted
        runs.append(slimming(tmp_path, Interrupting(at, None), density=0.6, bits=8))
        runs[-1].fit(X, **STEPS)
        runs[-1].fit(X, **STEPS)
    assert everything(runs[0]) == everything(runs[1])
    assert (tmp_path / "fit-2").is_dir()


def test_another_fit_is_refused_with_all_that_differs(tmp_path: Path) -> None:
    slimming(tmp_path, Pixels(), density=0.5).fit(X, **STEPS)
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="holds checkpoints of another fit") as refusal:
        slimming(tmp_path, Features(network, ["0"]), density=0.6, seed=1).fit(-X, **STEPS | {"nb_steps": 6})
    lines = [line.strip().partition(":")[0] for line in str(refusal.value).splitlines()[1:-1]]
    assert lines == ["density", "distance", "images", "nb_steps", "seed"]
    with pytest.raises(ValueError, match="checkpoint_every"):
        GANSlimming(ResidualGenerator(), PatchDiscriminator(), checkpoint=tmp_path, checkpoint_every=0)
