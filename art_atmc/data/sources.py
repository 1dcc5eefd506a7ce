"""Where data comes from: scikit-learn, the files of MNIST and CIFAR-10, and archives of one's own."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np

from art_atmc.data.cifar import cifar10
from art_atmc.data.dataset import Array, Dataset, refuse
from art_atmc.data.idx import read_idx
from art_atmc.support.reading import FOREIGN

__all__ = ["load", "require_known", "split_validation"]

NAMES = ("digits", "mnist", "cifar10")
KEYS = ("x_train", "y_train", "x_test", "y_test")
IDX_FILES = MappingProxyType({  # the stem of the name and the number of dimensions
    "x_train": ("train-images", 3), "y_train": ("train-labels", 1), "x_test": ("t10k-images", 3),
    "y_test": ("t10k-labels", 1),
})  # fmt: skip


def load(data: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    r"""Load images, scaled to :math:`[0, 1]`, and their labels.

    * ``"digits"``: scikit-learn's 1797 digits of 8x8 pixels; a fixed, stratified fifth is for testing.
    * ``"mnist"``: the four idx files of MNIST, or of another data set under the same names, gzipped or not.
    * ``"cifar10"``: the binary files of CIFAR-10, or folders of images, see :func:`art_atmc.data.cifar.cifar10`.
    * a path that ends in ``.npz``: an archive of ``x_train``, ``y_train``, ``x_test`` and ``y_test``. Images are
      shaped (N, C, H, W), either uint8 in 0..255 or floating in [0, 1]; labels are integers 0..K-1, shaped (N,), or
      one-hot, (N, K). Pickled objects are never read.

    :param data: which of these.
    :param data_dir: the folder of the files of mnist and cifar10; the others do not need it.
    :raises FileNotFoundError: naming every file that is missing.
    :raises ValueError: for any other ``data``, and for files that are damaged or hold something else.

    >>> digits = load("digits")
    >>> digits.x_train.shape, digits.x_test.shape, digits.nb_classes
    ((1438, 1, 8, 8), (359, 1, 8, 8), 10)
    """
    require_known(data)
    folder = None if data_dir is None else Path(data_dir)
    if data == "digits":
        return _digits()
    if data == "mnist":
        return _mnist(folder)
    if data == "cifar10":
        if folder is None:
            raise ValueError("cifar10 is read from files; give `data_dir`, the folder that holds them")
        return _dataset(*cifar10(folder))
    return _archive(Path(data))


def require_known(data: str) -> None:
    """Refuse a name that :func:`load` can't know.

    :raises ValueError: naming the one that may be meant.

    >>> require_known("digit")
    Traceback (most recent call last):
    ...
    ValueError: `data` must be digits, mnist, cifar10 or the path of an .npz file, got 'digit'; did you mean digits?
    """
    if data in NAMES or data.endswith(".npz"):
        return
    near = difflib.get_close_matches(data.lower(), NAMES, n=1)
    remedy = f"did you mean {near[0]}?" if near else "save other data with numpy.savez"
    raise ValueError(f"`data` must be {', '.join(NAMES)} or the path of an .npz file, got {data!r}; {remedy}")


def split_validation(x: Array, y: Array, share_or_count: float, seed: int) -> tuple[Array, Array, Array, Array]:
    r"""Set examples apart at random, stratified: each class has the same share in both parts, up to rounding.

    :param x: N examples.
    :param y: their labels, shaped (N,).
    :param share_or_count: size of the validation part; a float is a share in (0, 1), an integer a number of examples.
    :param seed: fixes the split.
    :returns: ``x_train, y_train, x_val, y_val``.
    :raises ValueError: when a part would have fewer examples than there are classes, or a class has only one.

    >>> x, y = np.arange(10), np.array([0, 1] * 5)
    >>> x_train, y_train, x_val, y_val = split_validation(x, y, 4, seed=0)
    >>> len(x_train), np.bincount(y_val).tolist()
    (6, [2, 2])
    """
    if np.ndim(y) != 1 or len(x) != len(y):
        raise ValueError(
            f"`x` and `y` must hold one example and one label each, got shapes {np.shape(x)} and "
            f"{np.shape(y)}; give labels shaped (N,)"
        )
    whole = isinstance(share_or_count, (int, np.integer)) and not isinstance(share_or_count, bool)
    if not whole and not (isinstance(share_or_count, (float, np.floating)) and 0 < share_or_count < 1):
        raise ValueError(
            f"`share_or_count` must be a share in (0, 1) or a number of examples, got {share_or_count!r}; "
            "give 0.1 for a tenth"
        )
    count = int(share_or_count) if whole else round(share_or_count * len(y))
    classes, sizes = np.unique(y, return_counts=True)
    if not len(classes) <= count <= len(y) - len(classes):
        raise ValueError(
            f"validation and training both need at least {len(classes)} examples, as many as classes, got "
            f"{count} and {len(y) - count}; give another `share_or_count` or more data"
        )
    if single := classes[sizes < 2].tolist():
        raise ValueError(
            f"the classes {single} have one example each, which can't be in both parts; add examples or "
            "leave these classes out"
        )
    from sklearn.model_selection import train_test_split

    x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=count, random_state=seed, stratify=y)
    return x_train, y_train, x_val, y_val


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    x_train, y_train, x_test, y_test = split_validation(images, digits.target.astype(np.int64), 0.2, seed=0)
    return Dataset("digits", x_train, y_train, x_test, y_test, nb_classes=10)


def _mnist(folder: Path | None) -> Dataset:
    if folder is None:
        raise ValueError("mnist is read from four idx files; give `data_dir`, the folder that holds them")
    names = {
        key: [f"{stem}{dot}idx{dimensions}-ubyte{ending}" for dot in "-." for ending in ("", ".gz")]
        for key, (stem, dimensions) in IDX_FILES.items()
    }
    paths = {key: [folder / name for name in names[key] if (folder / name).is_file()] for key in KEYS}
    if missing := ["any of " + ", ".join(names[key]) for key in KEYS if not paths[key]]:
        raise FileNotFoundError(
            f"mnist is not complete in {folder}; give `data_dir`, the folder that also holds\n  " + "\n  ".join(missing)
        )
    return _dataset("mnist", _each("mnist", lambda key: read_idx(paths[key][0], IDX_FILES[key][1])))


def _archive(path: Path) -> Dataset:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give `data` the path of an .npz file")
    with path.open("rb") as file:  # numpy leaves a file that it can't read open
        try:
            archive = np.load(file, allow_pickle=False)
        except (*FOREIGN, OSError) as error:
            raise ValueError(f"{path} is not an .npz archive ({error}); write it with numpy.savez") from error
        if isinstance(archive, np.ndarray):
            raise ValueError(f"{path} holds a single array; save {', '.join(KEYS)} with numpy.savez")
        if missing := [key for key in KEYS if key not in archive]:
            raise ValueError(
                f"{path} lacks {', '.join(missing)} among {archive.files}; save {', '.join(KEYS)} with numpy.savez"
            )
        return _dataset(path.stem, _each(str(path), lambda key: np.asarray(archive[key])))


def _each(source: str, read: Callable[[str], Array]) -> dict[str, Array]:
    """The four arrays; what is wrong with any of them is raised at once."""
    arrays: dict[str, Array] = {}
    problems: list[str] = []
    for key in KEYS:
        try:
            arrays[key] = read(key)
        except (*FOREIGN, OSError) as error:  # noqa: PERF203
            problems.append(f"`{key}` can't be read: {error}")
    refuse(source, problems)
    return arrays


def _dataset(name: str, arrays: dict[str, Array]) -> Dataset:
    """Bring the arrays of a file to the form of :class:`Dataset`, which refuses what has no such form."""
    x_train, y_train, x_test, y_test = (
        _scaled(arrays[key]) if key.startswith("x") else _indices(arrays[key]) for key in KEYS
    )
    columns = arrays["y_train"].shape[1:]
    if columns in ((), (1,)):
        nb_classes = int(y_train.max()) + 1 if y_train.dtype == np.int64 and y_train.size else 0
    else:
        nb_classes = columns[0]
    return Dataset(name, x_train, y_train, x_test, y_test, nb_classes)


def _scaled(x: Array) -> Array:
    if x.dtype == np.uint8:
        return np.asarray(np.divide(x, np.float32(255), dtype=np.float32))
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
        return x.astype(np.float32, copy=False) if np.issubdtype(x.dtype, np.floating) else x


def _indices(y: Array) -> Array:
    """Labels as int64 indices where they are whole numbers, a column of them, or one-hot; else not changed."""
    if y.dtype.kind not in "biuf":
        return y
    with np.errstate(invalid="ignore"):  # NaN and infinity differ from whatever they are cast to
        whole = y.astype(np.int64)
    if not np.array_equal(whole, y):
        return y
    if whole.ndim == 2 and whole.shape[1] > 1 and np.isin(whole, (0, 1)).all() and (whole.sum(axis=1) == 1).all():
        return np.asarray(whole.argmax(axis=1), np.int64)
    return whole.reshape(-1) if whole.ndim == 2 and whole.shape[1] == 1 else whole
