"""CIFAR-10 from files on disk: the published binary files, or a folder of images for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["cifar10"]

CLASSES: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD: Final = 1 + 3 * 32 * 32
LOSSY: Final = (".jpg", ".jpeg")


def cifar10(folder: Path) -> tuple[str, dict[str, NDArray[Any]]]:
    """Images as uint8 (N, 3, 32, 32) and labels 0..9 in alphabetical order of the classes.

    * The *binary version*: ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``. (The Python version
      is a pickle, which this package does not open.)
    * ``train/<class>/*`` and ``test/<class>/*``, PNG or JPEG; needs Pillow.

    :returns: the name of the data and the four arrays. Images from JPEG files, which lost something, are called
        ``cifar10-jpeg``, so that no figure passes for one of CIFAR-10.
    :raises FileNotFoundError: naming what was looked for.
    :raises ValueError: for files that hold something else.
    """
    batches = [folder / f"data_batch_{i}.bin" for i in range(1, 6)]
    if batches[0].is_file():
        parts = [_records(path) for path in (*batches, folder / "test_batch.bin")]
        x, y = (np.concatenate([part[i] for part in parts[:5]]) for i in (0, 1))
        return "cifar10", {"x_train": x, "y_train": y, "x_test": parts[5][0], "y_test": parts[5][1]}
    if (folder / "train" / CLASSES[0]).is_dir():
        x_train, y_train, lossy = _images(folder / "train")
        x_test, y_test, lossy_test = _images(folder / "test")
        name = "cifar10-jpeg" if lossy or lossy_test else "cifar10"
        return name, {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    raise FileNotFoundError(
        f"{folder} holds neither data_batch_1.bin (the binary version of CIFAR-10) nor images in train/{CLASSES[0]}/; "
        "give `data_dir`, the folder of either"
    )


def _records(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % RECORD:
        raise ValueError(
            f"{path} has {len(content)} bytes, no multiple of {RECORD}; it is truncated or something else, "
            "fetch it again"
        )
    rows = content.reshape(-1, RECORD)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


def _images(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], bool]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ImportError("image files need Pillow; pip install 'art-atmc[images]'") from None
    images, labels, lossy = [], [], False
    for label, name in enumerate(CLASSES):
        paths = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in (*LOSSY, ".png"))
        if not paths:
            raise FileNotFoundError(f"{folder / name} holds no .png or .jpg images; every class needs some")
        for path in paths:
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"{path} is no image that can be read ({error}); fetch it again") from None
            if pixels.shape != (32, 32, 3):
                raise ValueError(f"{path} has {pixels.shape[1]} x {pixels.shape[0]} pixels, not 32 x 32")
            images.append(pixels.transpose(2, 0, 1))
            lossy |= path.suffix.lower() in LOSSY
        labels += [label] * len(paths)
    return np.stack(images), np.array(labels), lossy
