from __future__ import annotations

import numpy as np
import pytest
import torch

from art_atmc import PGD, Natural, ObjectiveTrainer
from art_atmc.training.augmentation import CropAndFlip, ShiftAndMirror, crop_and_flip
from art_atmc.training.batches import ArrayBatches
from art_atmc.training.objectives import Adversarial


def shifted(image, top, left, mirrored, padding):
    """One image by the definition, pixel by pixel."""
    channels, height, width = image.shape
    moved = torch.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                row, column = i + top - padding, (width - 1 - j if mirrored else j) + left - padding
                if 0 <= row < height and 0 <= column < width:
                    moved[c, i, j] = image[c, row, column]
    return moved


def test_every_image_is_one_of_the_possible_shifts_and_mirrors():
    x = torch.rand(20, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    out = CropAndFlip(padding=1)(x, torch.Generator().manual_seed(1))
    kinds = set()
    for before, after in zip(x, out, strict=True):
        found = [
            (top, left, mirrored)
            for top in range(3) for left in range(3) for mirrored in (False, True)
            if torch.equal(after, shifted(before, top, left, mirrored, 1))
        ]  # fmt: skip
        assert len(found) == 1
        kinds.add(found[0])
    assert len(kinds) > 8


def test_undo_puts_the_visible_pixels_back_and_keeps_the_others():
    x = torch.rand(30, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    motion = CropAndFlip(padding=2).draw(30, torch.Generator().manual_seed(1))
    visible = motion.undo(motion(torch.ones_like(x)), torch.zeros_like(x)) == 1
    assert 0 < visible.float().mean() < 1
    back = motion.undo(motion(x), onto=x + 10)
    assert torch.equal(back, torch.where(visible, x, x + 10))
    # Each pixel that is shown once goes back once.
    assert int(visible.sum()) == int(motion(torch.ones_like(x)).sum())


def test_batches_say_which_rows_they_hold_and_how_they_moved():
    x, y = torch.rand(7, 1, 4, 4), torch.arange(7)
    plain = ArrayBatches(x, y, 3)
    for batch in plain.epoch(torch.Generator().manual_seed(0)):
        assert torch.equal(x[batch.rows.index], batch.x)
        assert torch.equal(y[batch.rows.index], batch.y)
        assert batch.rows.motion is None
        assert batch.rows.total == 7
    moved = ArrayBatches(x, y, 3, CropAndFlip(padding=1))
    for batch in moved.epoch(torch.Generator().manual_seed(0)):
        assert isinstance(batch.rows.motion, ShiftAndMirror)
        assert torch.equal(batch.rows.motion(x[batch.rows.index]), batch.x)
    unknown = ArrayBatches(x, y, 3, lambda batch, generator: batch)
    assert all(batch.rows is None for batch in unknown.epoch(torch.Generator().manual_seed(0)))


def test_the_generator_decides():
    x = torch.rand(6, 1, 8, 8)
    first, again, other = (crop_and_flip(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_only_shuffled_batches_are_augmented():
    x, y = torch.rand(6, 1, 4, 4), torch.zeros(6).long()
    batches = ArrayBatches(x, y, 6, lambda batch, generator: batch + 1)
    assert torch.equal(next(batches.epoch(None))[0], x)
    ((changed, *_),) = batches.epoch(torch.Generator().manual_seed(0))
    assert changed.min() >= 1


@pytest.mark.parametrize("objective", [Natural(), Adversarial(PGD(0.1, 0.1, 1))])
def test_training_sees_augmented_images(make_classifier, digits, objective):
    x, y = digits[0][:64], digits[1][:64]
    seen = []

    def spy(batch, generator):
        seen.append(len(batch))
        return CropAndFlip(padding=1)(batch, generator)

    trainer = ObjectiveTrainer(make_classifier(), objective, verbose=False)
    trainer.fit(x, y, validation_data=(x, y), nb_epochs=1, batch_size=32, augmentation=spy)
    assert seen[-2:] == [32, 32]
    assert np.isfinite(trainer.history[0]["loss"])
    if objective.attack is None:
        assert trainer.history[0]["robust_accuracy"] == trainer.history[0]["clean_accuracy"]
