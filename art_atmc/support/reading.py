"""Files that somebody else may have written, cut off or changed: what is wrong is one sentence that names the file."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

__all__ = ["FOREIGN", "read_json", "readable", "validated"]

Kind = TypeVar("Kind")

MAX_ERRORS: Final = 100  # to list more takes longer than to find them
# What the readers of JSON, zip, npz, safetensors and torch files raise for content that is none of theirs.
FOREIGN: Final = (
    *(ValueError, LookupError, EOFError, RuntimeError, pickle.UnpicklingError),
    *(zipfile.BadZipFile, zlib.error, SafetensorError),
)


@contextmanager
def readable(path: str | os.PathLike[str], what: str, remedy: str = "write it again") -> Iterator[None]:
    """What a reader raises inside for a damaged or foreign file becomes one sentence.

    :param what: the file ought to be, such as ``"an .npz archive"``.
    :param remedy: what to do about it.
    :raises ValueError: naming the file, what is wrong, and what to do.

    >>> with readable("a.json", "a list of seeds"):
    ...     {}["seeds"]
    Traceback (most recent call last):
    ...
    ValueError: a.json is not a list of seeds, or it is damaged ('seeds'); write it again
    """
    try:
        yield
    except FOREIGN as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not {what}, or it is damaged ({reason}); {remedy}") from None


def read_json(path: str | os.PathLike[str], kind: type[Kind], what: str, remedy: str = "write it again") -> Kind:
    """The content of a JSON file in UTF-8, checked field by field.

    :param kind: what it holds: a dataclass, a pydantic model, ``dict[str, float]`` and so on.
    :param what: the file ought to be, such as ``"the settings of a study"``.
    :param remedy: what to do about a file that is not.
    :raises OSError: when it can't be read.
    :raises ValueError: naming the file, what is wrong, and what to do.
    """
    data = Path(path).read_bytes()
    with readable(path, what, remedy):
        return validated(kind, data)


def validated(kind: type[Kind], text: bytes | str) -> Kind:
    """``text``, which is JSON, as a ``kind``.

    :raises ValueError: naming the first field that is wrong.

    >>> validated(dict[str, int], '{"a": 1, "b": "x"}')
    Traceback (most recent call last):
    ...
    ValueError: wrong at `b`: Input should be a valid integer, unable to parse string as an integer
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_json(text)  # type: ignore[no-any-return]
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            raise ValueError(f"wrong in {error.error_count()} places") from None
        errors = error.errors(include_url=False, include_input=False)
        if any(one["loc"] == ("schema",) for one in errors):
            raise ValueError("another version of art-atmc wrote it, whose fields differ") from None
        place = ".".join(map(str, errors[0]["loc"]))
        raise ValueError(f"wrong at `{place}`: {errors[0]['msg']}" if place else f"wrong: {errors[0]['msg']}") from None
