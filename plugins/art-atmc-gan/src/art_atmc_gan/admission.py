"""What is refused before a generator is slimmed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_atmc.classifiers import evaluating

__all__ = ["Images", "check_networks", "checked_images"]

Images = np.ndarray[Any, Any] | Tensor


def checked_images(x: Images, clip_values: tuple[float, float]) -> Tensor:
    """``x`` as a tensor, refused with a ``ValueError`` unless it is a batch of images in the range."""
    images = torch.as_tensor(x)
    if images.dim() != 4 or not images.is_floating_point() or not len(images):
        raise ValueError(
            f"images must be floating numbers of shape (N, C, H, W), got {images.dtype} of {tuple(images.shape)}"
        )
    low, high = clip_values
    least, most = float(images.amin()), float(images.amax())
    if not (low <= least and most <= high):  # NaN is not within either
        raise ValueError(
            f"images must lie in [{low:g}, {high:g}], got values from {least:.3g} to {most:.3g}; scale them, or give "
            "`clip_values`"
        )
    return images


@torch.no_grad()
def check_networks(
    generator: nn.Module, discriminator: nn.Module, teacher: nn.Module, x: Tensor, clip_values: tuple[float, float]
) -> None:
    """Refuse, with a ``ValueError``, networks that do not fit each other, on two images."""
    low, high = clip_values
    with evaluating(generator), evaluating(discriminator):
        made, real = generator(x), teacher(x)
        if made.shape != real.shape:
            raise ValueError(
                f"the student's images have shape {tuple(made.shape)} and the teacher's {tuple(real.shape)}; give a "
                "teacher of the same task"
            )
        if not (low <= float(real.amin()) and float(real.amax()) <= high):
            raise ValueError(
                f"the teacher's images leave [{low:g}, {high:g}]; give the `clip_values` of its last activation"
            )
        scores = discriminator(torch.cat([real, x]) if x.shape == real.shape else real)
    if not scores.isfinite().all():
        raise ValueError("the discriminator's scores are not finite; train one first, or begin with a fresh one")
    if len(scores) > 2 and torch.equal(scores[0], scores[2]) and not torch.equal(real[0], x[0]):
        raise ValueError(
            "the discriminator gives the same scores to a source image and to the teacher's: it has collapsed; "
            "begin with a fresh one"
        )
