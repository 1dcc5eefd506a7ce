from __future__ import annotations

import dataclasses
import gzip
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from art_atmc.data import Dataset, load, split_validation

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"
Arrays = dict[str, NDArray[Any]]


# --- digits


def test_digits_are_scaled_images_with_every_class_in_both_parts() -> None:
    digits = load("digits")
    assert digits.name == "digits"
    assert digits.nb_classes == 10
    assert digits.clip_values == (0.0, 1.0)
    for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert x.shape == (len(y), 1, 8, 8)
        assert (x.min(), x.max()) == (0, 1)
        shares = np.bincount(y) / len(y)
        np.testing.assert_allclose(shares, _digit_shares(), atol=1 / len(y))


def _digit_shares() -> NDArray[np.float64]:
    from sklearn.datasets import load_digits

    target = load_digits().target
    return np.bincount(target) / len(target)  # type: ignore[no-any-return]


def test_digits_are_split_without_overlap_or_loss() -> None:
    from sklearn.datasets import load_digits

    digits = load("digits")
    joined = np.concatenate([digits.x_train, digits.x_test]).reshape(-1, 64) * 16
    source = load_digits().data  # no image occurs twice
    assert len(np.unique(joined, axis=0)) == len(joined) == len(source)
    np.testing.assert_array_equal(np.unique(joined, axis=0), np.unique(source, axis=0))
    assert len(digits.x_test) == round(len(source) / 5)


def test_digits_are_the_same_in_every_call() -> None:
    np.random.seed(1)
    first = load("digits")
    np.random.seed(2)
    second = load("digits")
    for key in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(first, key), getattr(second, key))


# --- mnist


def _idx(a: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">u4").tobytes() + a.tobytes()


def _random_mnist() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3": rng.integers(0, 256, (20, 28, 28), np.uint8),
        "train-labels-idx1": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "t10k-labels-idx1": np.arange(5, dtype=np.uint8),
    }


def _write(folder: Path, arrays: Arrays, name: Callable[[str], str] = "{}-ubyte".format) -> None:
    for stem, a in arrays.items():
        content = _idx(a)
        path = folder / name(stem)
        path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(
    "name",
    [
        lambda stem: f"{stem}-ubyte",
        lambda stem: f"{stem}-ubyte.gz",
        lambda stem: f"{stem.replace('-idx', '.idx')}-ubyte",
        lambda stem: f"{stem.replace('-idx', '.idx')}-ubyte.gz",
    ],
    ids=["dash", "dash-gz", "dot", "dot-gz"],
)
def test_mnist_is_read_under_each_usual_name(tmp_path: Path, name: Callable[[str], str]) -> None:
    written = _random_mnist()
    _write(tmp_path, written, name)
    mnist = load("mnist", tmp_path)
    assert mnist.nb_classes == 10
    assert mnist.x_train.dtype == np.float32
    assert mnist.y_train.dtype == np.int64
    np.testing.assert_array_equal(mnist.x_train[:, 0], written["train-images-idx3"] / np.float32(255))
    np.testing.assert_array_equal(mnist.x_test[:, 0], written["t10k-images-idx3"] / np.float32(255))
    np.testing.assert_array_equal(mnist.y_train, written["train-labels-idx1"])
    np.testing.assert_array_equal(mnist.y_test, written["t10k-labels-idx1"])
    assert mnist.x_train.flags.writeable


def test_compression_is_told_by_content_not_name(tmp_path: Path) -> None:
    _write(tmp_path, _random_mnist())
    packed, plain = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    packed.write_bytes(gzip.compress(packed.read_bytes()))
    plain.rename(plain.with_name(plain.name + ".gz"))
    assert load("mnist", tmp_path).x_train.shape == (20, 1, 28, 28)


def test_mnist_without_a_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="give `data_dir`"):
        load("mnist")


def test_a_folder_may_be_a_string(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mnist is not complete"):
        load("mnist", str(tmp_path))


def test_missing_idx_files_are_all_named(tmp_path: Path) -> None:
    arrays = _random_mnist()
    del arrays["train-labels-idx1"], arrays["t10k-images-idx3"]
    _write(tmp_path, arrays)
    with pytest.raises(FileNotFoundError, match="give `data_dir`") as error:
        load("mnist", tmp_path)
    for name in ("train-labels-idx1-ubyte", "train-labels-idx1-ubyte.gz", "train-labels.idx1-ubyte",
                 "train-labels.idx1-ubyte.gz", "t10k-images-idx3-ubyte"):  # fmt: skip
        assert name in str(error.value)
    assert "train-images" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda content: content[:-1], "must have 15696 bytes for the shape (20, 28, 28), got 15695"),
        (lambda content: content + b"\0", "got 15697"),
        (lambda content: content[:9], "truncated or damaged"),
        (lambda _: b"", "magic number 00000803, got nothing"),
        (lambda content: b"\0\0\x08\x01" + content[4:], "magic number 00000803, got 00000801"),
        (lambda content: b"\0\0\x0d\x03" + content[4:], "magic number 00000803, got 00000d03"),
        (lambda content: gzip.compress(content)[:-20], "truncated or damaged"),
        (lambda content: gzip.compress(content)[:-8] + b"\0" * 8, "truncated or damaged"),
        (lambda content: content[:4] + b"\xff" * 12, "for the shape (4294967295, 4294967295, 4294967295)"),
        (lambda content: content[:4] + bytes(12) + content[16:], "must have 16 bytes for the shape (0, 0, 0)"),
    ],
    ids=["cut", "longer", "header", "empty", "labels", "floats", "gzip-cut", "gzip-sum", "huge", "zeros"],
)
def test_damaged_idx_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], text: str) -> None:
    _write(tmp_path, _random_mnist())
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(text)) as error:
        load("mnist", tmp_path)
    assert str(path) in str(error.value)
    assert "fetch it again" in str(error.value)


def test_empty_idx_file_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, _random_mnist() | {"t10k-images-idx3": np.zeros((0, 28, 28), np.uint8)})
    with pytest.raises(ValueError, match=r"`x_test` must be .* of shape \(0, 1, 28, 28\)"):
        load("mnist", tmp_path)


def test_all_damaged_idx_files_are_named_at_once(tmp_path: Path) -> None:
    arrays = _random_mnist()
    _write(tmp_path, arrays)
    for stem in arrays:
        (tmp_path / f"{stem}-ubyte").write_bytes(b"no")
    with pytest.raises(ValueError, match="mnist can't be used") as error:
        load("mnist", tmp_path)
    assert all(stem in str(error.value) for stem in arrays)


def test_idx_files_of_different_lengths_are_refused(tmp_path: Path) -> None:
    arrays = _random_mnist()
    arrays["train-labels-idx1"] = arrays["train-labels-idx1"][:-1]
    _write(tmp_path, arrays)
    with pytest.raises(ValueError, match="`x_train` and `y_train` must match"):
        load("mnist", tmp_path)


def test_real_mnist_is_read_whole() -> None:
    if not MNIST.is_dir():
        pytest.skip("there is no MNIST in ../shared/data/mnist")
    mnist = load("mnist", MNIST)
    assert mnist.x_train.shape == (60000, 1, 28, 28)
    assert mnist.x_test.shape == (10000, 1, 28, 28)
    assert (mnist.x_train.min(), mnist.x_train.max()) == (0, 1)
    assert mnist.y_train[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert np.bincount(mnist.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.x_train.mean(dtype=np.float64) == pytest.approx(0.1307, abs=1e-4)


# --- archives


def _arrays() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.random((12, 3, 8, 8), np.float32),
        "y_train": np.arange(12) % 4,
        "x_test": rng.random((5, 3, 8, 8), np.float32),
        "y_test": np.arange(5) % 4,
    }


def _load(folder: Path, arrays: Arrays) -> Dataset:
    path = folder / "images.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return load(str(path))


def test_archive_is_read(tmp_path: Path) -> None:
    arrays = _arrays()
    dataset = _load(tmp_path, arrays)
    assert dataset.name == "images"
    assert dataset.nb_classes == 4
    for key, a in arrays.items():
        np.testing.assert_array_equal(getattr(dataset, key), a)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.dtype(">f4")])
def test_floating_images_become_float32(tmp_path: Path, dtype: Any) -> None:
    arrays = _arrays()
    arrays["x_train"] = arrays["x_train"].astype(dtype)
    x = _load(tmp_path, arrays).x_train
    assert x.dtype == np.float32
    assert x.dtype.isnative
    np.testing.assert_array_equal(x, arrays["x_train"].astype(np.float32))


def test_uint8_images_are_scaled(tmp_path: Path) -> None:
    arrays = _arrays()
    arrays["x_train"] = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), np.uint8)
    arrays["x_train"][0, 0, 0, :2] = 0, 255
    x = _load(tmp_path, arrays).x_train
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (0, 1)
    np.testing.assert_allclose(x * 255, arrays["x_train"], atol=1e-4)


@pytest.mark.parametrize(
    "form",
    [
        lambda y: np.eye(4)[y],
        lambda y: np.eye(4, dtype=bool)[y],
        lambda y: np.eye(4, dtype=np.int64)[y],
        lambda y: y[:, None],
        lambda y: y.astype(np.uint8),
        lambda y: y.astype(np.float32),
        lambda y: y.astype(">i4"),
    ],
    ids=["one-hot", "one-hot-bool", "one-hot-int", "column", "uint8", "whole-float", "big-endian"],
)
def test_labels_become_int64_indices(tmp_path: Path, form: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    arrays = _arrays()
    dataset = _load(tmp_path, arrays | {key: form(arrays[key]) for key in ("y_train", "y_test")})
    assert dataset.nb_classes == 4
    assert dataset.y_train.dtype == dataset.y_test.dtype == np.int64
    np.testing.assert_array_equal(dataset.y_train, arrays["y_train"])
    np.testing.assert_array_equal(dataset.y_test, arrays["y_test"])


def test_missing_arrays_are_all_named(tmp_path: Path) -> None:
    arrays = _arrays()
    with pytest.raises(ValueError, match=r"lacks y_train, x_test among \['x_train', 'y_test', 'extra'\]"):
        _load(tmp_path, {"x_train": arrays["x_train"], "y_test": arrays["y_test"], "extra": np.zeros(1)})


def test_further_arrays_are_left_alone(tmp_path: Path) -> None:
    assert _load(tmp_path, _arrays() | {"extra": np.zeros(1)}).nb_classes == 4


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    trap = np.array([_Trap()], dtype=object)
    with pytest.raises(ValueError, match=r"`y_train` can't be read: .*allow_pickle=False"):
        _load(tmp_path, _arrays() | {"y_train": trap})
    assert not _Trap.sprung


class _Trap:
    sprung = False

    def __setstate__(self, state: Any) -> None:
        _Trap.sprung = True

    def __getstate__(self) -> int:
        return 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x04K\x01.", b"text"])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"images\.npz is not an \.npz archive"):
        load(str(path))


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    _load(tmp_path, _arrays())
    path = tmp_path / "images.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is not an \.npz archive"):
        load(str(path))


def test_archive_with_flipped_bytes_is_refused(tmp_path: Path) -> None:
    arrays = _arrays()
    _load(tmp_path, arrays)
    path = tmp_path / "images.npz"
    content = path.read_bytes()
    path.write_bytes(content.replace(arrays["x_test"].tobytes(), bytes(arrays["x_test"].nbytes)))
    with pytest.raises(ValueError, match="`x_test` can't be read"):
        load(str(path))


def test_single_array_under_the_name_of_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="holds a single array"):
        load(str(path))


def test_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.npz"))):
        load(str(tmp_path / "none.npz"))


def test_unknown_data_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`data` must be digits, mnist, cifar10 or the path of an \.npz file, got 'cifar'"
    ):
        load("cifar")


def _changed(a: NDArray[Any], at: Any, value: Any) -> NDArray[Any]:
    a = a.copy()
    a[at] = value
    return a


@pytest.mark.parametrize(
    ("key", "change", "text"),
    [
        ("x_train", lambda x: x[:, 0], "`x_train` must be float32 images in [0, 1] shaped (N, C, H, W), got float32 "
                                       "of shape (12, 8, 8)"),
        ("x_train", lambda x: x.transpose(0, 2, 3, 1), "got (12, 8, 8, 3), which has its channels last"),
        ("x_train", lambda x: x.astype(np.int64), "got int64 of shape (12, 3, 8, 8)"),
        ("x_train", lambda x: x[:0], "of shape (0, 3, 8, 8)"),
        ("x_train", lambda x: np.float32(0), "of shape ()"),
        ("x_train", lambda x: 255 * x, "`x_train` must be in [0, 1], got values from"),
        ("x_test", lambda x: x - 1, "`x_test` must be in [0, 1], got values from -"),
        ("x_train", lambda x: _changed(x, (slice(2, 4), 0, 0, 0), np.nan), "NaN or infinity in 2 of 12 images"),
        ("x_test", lambda x: _changed(x, (0, 0, 0, 0), -np.inf), "NaN or infinity in 1 of 5 images"),
        ("x_test", lambda x: _changed(x.astype(np.float64), (0, 0, 0, 0), 1e300), "NaN or infinity in 1 of 5 images"),
        ("x_test", lambda x: x[..., :7], "images of one shape, got (3, 8, 8) and (3, 8, 7)"),
        ("x_train", lambda x: x[:-1], "`x_train` and `y_train` must match, got shapes (11, 3, 8, 8) and (12,)"),
        ("y_test", lambda y: y[:-1], "`x_test` and `y_test` must match"),
        ("y_train", lambda y: y + 0.5, "`y_train` must be int64 labels from 0 shaped (N,), got float64"),
        ("y_train", lambda y: _changed(y.astype(float), 3, np.nan), "`y_train` must be int64 labels"),
        ("y_train", lambda y: _changed(y.astype(float), 3, 1e300), "`y_train` must be int64 labels"),
        ("y_train", lambda y: y.astype(str), "got <U21 of shape (12,)"),
        ("y_train", lambda y: np.maximum(np.eye(4)[y], np.eye(4)[0]), "`y_train` must be int64 labels"),
        ("y_train", lambda y: np.eye(4)[y] - np.eye(4)[y[0]] * (y[:, None] == y[0]), "`y_train` must be int64 labels"),
        ("y_train", lambda y: np.eye(4)[y] * 0.9 + 0.025, "`y_train` must be int64 labels"),
        ("y_train", lambda y: y + 1, "must hold all labels 0..K-1 of at least 2 classes, got none of [0]"),
        ("y_train", lambda y: 2 * y, "got none of [1, 3, 5]"),
        ("y_train", lambda y: _changed(y, 3, 2**62), "got none of [4, 5, 6, 7, 8]"),
        ("y_train", lambda y: 0 * y, "of at least 2 classes, got none of [1]"),
        ("y_train", lambda y: y - 1, "`y_train` must be labels in 0..K-1 of K = 3 classes, got -1 to 2"),
        ("y_test", lambda y: y + 1, "`y_test` must be labels in 0..K-1 of K = 4 classes, got 1 to 4"),
    ],
)  # fmt: skip
def test_bad_array_is_named(
    tmp_path: Path, key: str, change: Callable[[NDArray[Any]], NDArray[Any]], text: str
) -> None:
    arrays = _arrays()
    with pytest.raises(ValueError, match=re.escape(text)):
        _load(tmp_path, arrays | {key: change(arrays[key])})


def test_all_bad_arrays_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images can't be used") as error:
        _load(tmp_path, {key: a - 9 for key, a in _arrays().items()})
    assert all(f"`{key}` must be" in str(error.value) for key in _arrays())


def test_dataset_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("digits").nb_classes = 3  # type: ignore[misc]


# --- validation split


@given(sizes=st.lists(st.integers(5, 30), min_size=2, max_size=5), share=st.floats(0.2, 0.8), seed=st.integers(0, 99))
def test_split_is_a_stratified_partition(sizes: list[int], share: float, seed: int) -> None:
    y = np.repeat(np.arange(len(sizes)), sizes)
    x = np.arange(len(y))
    x_train, y_train, x_val, y_val = split_validation(x, y, share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([x_train, x_val])), x)
    np.testing.assert_array_equal(y[x_train], y_train)
    np.testing.assert_array_equal(y[x_val], y_val)
    assert len(x_val) == round(share * len(x))
    counts = np.bincount(y_val, minlength=len(sizes))
    np.testing.assert_allclose(counts, len(x_val) / len(x) * np.array(sizes), atol=1)


def test_split_depends_on_the_seed_alone() -> None:
    x, y = np.arange(100), np.arange(100) % 4
    assert np.array_equal(split_validation(x, y, 20, 5)[2], split_validation(x, y, 0.2, 5)[2])
    assert not np.array_equal(split_validation(x, y, 20, 5)[2], split_validation(x, y, 20, 6)[2])


@pytest.mark.parametrize("share_or_count", [0.0, 1.0, -0.5, 1.5, float("nan"), True, "0.1"])
def test_impossible_share_is_refused(share_or_count: float) -> None:
    with pytest.raises(ValueError, match=r"`share_or_count` must be a share in \(0, 1\) or a number of examples"):
        split_validation(np.arange(20), np.arange(20) % 2, share_or_count, 0)


@pytest.mark.parametrize("share_or_count", [1, 19, 25, 0, -1, 0.01, 0.99])
def test_split_with_too_few_examples_is_refused(share_or_count: float) -> None:
    with pytest.raises(ValueError, match="both need at least 2 examples"):
        split_validation(np.arange(20), np.arange(20) % 2, share_or_count, 0)


def test_smallest_split_is_accepted() -> None:
    assert split_validation(np.arange(20), np.arange(20) % 2, 2, 0)[3].tolist() in ([0, 1], [1, 0])


def test_class_of_one_example_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the classes \[1\] have one example"):
        split_validation(np.arange(9), np.array([0] * 8 + [1]), 3, 0)


@pytest.mark.parametrize("y", [np.arange(9) % 2, np.eye(2)[np.arange(10) % 2]])
def test_split_of_unfit_labels_is_refused(y: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"give labels shaped \(N,\)"):
        split_validation(np.arange(10), y, 4, 0)


def test_import_leaves_scikit_learn_and_torch_alone() -> None:
    code = "import sys, art_atmc.data; sys.exit(bool({'sklearn', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
