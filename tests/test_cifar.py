from __future__ import annotations

import numpy as np
import pytest

from art_atmc.data import load
from art_atmc.data.cifar import CLASSES, RECORD


@pytest.fixture
def binary(tmp_path):
    rng = np.random.default_rng(0)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = rng.integers(0, 256, (20, RECORD), dtype=np.uint8)
        rows[:, 0] = np.arange(20) % 10
        rows[0, 1:] = number
        rows.tofile(tmp_path / f"{name}.bin")
    return tmp_path


@pytest.fixture
def images(tmp_path):
    image = pytest.importorskip("PIL.Image")

    def make(suffix):
        for part in ("train", "test"):
            for label, name in enumerate(CLASSES):
                folder = tmp_path / part / name
                folder.mkdir(parents=True)
                for i in range(2):
                    pixels = np.full((32, 32, 3), 10 * label + i, np.uint8)
                    pixels[0] = (255, 0, 0)
                    image.fromarray(pixels).save(folder / f"{i}{suffix}")
        return tmp_path

    return make


def test_binary_records_are_label_then_planes(binary):
    data = load("cifar10", binary)
    assert data.name == "cifar10"
    assert data.x_train.shape == (100, 3, 32, 32)
    assert data.x_test.shape == (20, 3, 32, 32)
    assert data.y_train[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert data.x_train[20, 0, 0, 0] == pytest.approx(1 / 255)  # the second file begins with ones
    assert data.x_test[0].max() == pytest.approx(5 / 255)
    record = np.fromfile(binary / "data_batch_1.bin", np.uint8)[RECORD + 1 : 2 * RECORD]
    assert data.x_train[1, 2, 31, 30] == pytest.approx(record[2 * 1024 + 31 * 32 + 30] / 255)


def test_png_folders_are_read_by_class(images):
    data = load("cifar10", images(".png"))
    assert data.name == "cifar10"
    assert data.y_train.tolist() == [label for label in range(10) for _ in range(2)]
    assert data.x_train[7, 1, 5, 5] == pytest.approx(31 / 255)
    assert data.x_train[7, :, 0, 9].tolist() == [1, 0, 0]


def test_what_jpeg_lost_is_in_the_name(images):
    assert load("cifar10", images(".jpg")).name == "cifar10-jpeg"


def test_what_is_missing_or_damaged_is_said(binary, tmp_path):
    with pytest.raises(ValueError, match="give `data_dir`"):
        load("cifar10")
    with pytest.raises(FileNotFoundError, match="neither data_batch_1.bin"):
        load("cifar10", tmp_path / "elsewhere")
    (binary / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"test_batch\.bin has 5 bytes, no multiple of 3073"):
        load("cifar10", binary)


def test_images_of_another_size_and_broken_ones_are_refused(images):
    folder = images(".png")
    first = folder / "train" / "airplane" / "0.png"
    from PIL import Image

    Image.new("RGB", (16, 32)).save(first)
    with pytest.raises(ValueError, match="16 x 32 pixels, not 32 x 32"):
        load("cifar10", folder)
    first.write_bytes(b"no image")
    with pytest.raises(ValueError, match="is no image that can be read"):
        load("cifar10", folder)
    for path in (folder / "test" / "dog").glob("*"):
        path.unlink()
    first.unlink()
    with pytest.raises(FileNotFoundError, match="dog holds no .png or .jpg"):
        load("cifar10", folder)
