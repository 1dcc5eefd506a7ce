"""Numbers of configurations: whatever kind of scalar is given, a plain Python number within its range is kept."""

from __future__ import annotations

import abc
import dataclasses
import math
import numbers
from collections.abc import Iterable
from typing import Any, final

__all__ = ["Flag", "Real", "Scalar", "Whole", "check_numbers", "keep_plain"]


class Scalar(abc.ABC):
    """What a number must be."""

    @abc.abstractmethod
    def plain(self, name: str, value: Any) -> Any:
        """``value`` as a plain Python number.

        :param name: what the error message calls it.
        :raises ValueError: when it is no such number, or outside its range.
        """


@final
@dataclasses.dataclass(frozen=True)
class Real(Scalar):
    """A real number; kept as a ``float``. ``"inf"`` is read as infinity, as ART writes norms.

    :param within: an interval as it is written, such as ``"(0, 1]"``, or the values that are allowed.
    :param remedy: what to do where it is anything else; the end of the error message.
    :param optional: whether None is allowed too.

    >>> import numpy as np
    >>> Real("(0, 1]", "give a share").plain("density", np.float64(0.25))
    0.25
    """

    within: str | tuple[float, ...]
    remedy: str
    optional: bool = False

    def plain(self, name: str, value: Any) -> Any:
        if value is None and self.optional:
            return None
        given = math.inf if isinstance(value, str) and value == "inf" else _scalar(value)
        if not isinstance(given, numbers.Real) or not _holds(given, self.within):
            raise ValueError(f"`{name}` must be {self._range()}, got {value!r}; {self.remedy}")
        return float(given)

    def _range(self) -> str:
        if isinstance(self.within, tuple):
            *most, last = (f"{value:g}" for value in self.within)
            return f"{', '.join(most)} or {last}"
        known = {"(0, inf)": "positive and finite", "[0, inf)": "finite and at least 0"}
        return known.get(self.within, f"in {self.within}")


@final
@dataclasses.dataclass(frozen=True)
class Whole(Scalar):
    """A whole number; kept as an ``int``.

    :param least: the smallest that is allowed.
    :param most: the largest one, None for no limit.
    :param remedy: what to do where it is anything else; the end of the error message.
    :param optional: whether None is allowed too.

    >>> import numpy as np
    >>> Whole(1, 16, "give a width").plain("bits", np.int64(4))
    4
    """

    least: int
    most: int | None
    remedy: str
    optional: bool = False

    def plain(self, name: str, value: Any) -> Any:
        if value is None and self.optional:
            return None
        given = _scalar(value)
        most = math.inf if self.most is None else self.most
        if not isinstance(given, numbers.Integral) or not self.least <= int(given) <= most:
            within = f"of at least {self.least}" if self.most is None else f"in {self.least}..{self.most}"
            raise ValueError(f"`{name}` must be an integer {within}, got {value!r}; {self.remedy}")
        return int(given)


@final
@dataclasses.dataclass(frozen=True)
class Flag(Scalar):
    """True or False; kept as a ``bool``."""

    def plain(self, name: str, value: Any) -> Any:
        given = _item(value)
        if not isinstance(given, bool):
            raise ValueError(f"`{name}` must be True or False, got {value!r}")
        return given


def check_numbers(configuration: object, faults: Iterable[str] = (), **fields: Scalar) -> None:
    """Check the numbers of a frozen dataclass, all at once, and keep them as plain Python numbers.

    For ``__post_init__``. A plain number has a ``repr`` that can be read back, which ``np.float64(0.3)`` is not.

    :param configuration: the frozen dataclass.
    :param faults: what else is wrong with it.
    :param fields: what each field must be.
    :raises ValueError: naming every fault.

    >>> import numpy as np
    >>> @dataclasses.dataclass(frozen=True)
    ... class Ball:
    ...     eps: float
    ...     def __post_init__(self) -> None:
    ...         check_numbers(self, eps=Real("(0, inf)", "give the radius"))
    >>> Ball(np.float32(0.5))
    Ball(eps=0.5)
    """
    wrong = [fault for name, scalar in fields.items() if (fault := _kept_plain(configuration, name, scalar))]
    if wrong := [*wrong, *faults]:
        raise ValueError("; ".join(wrong))


def keep_plain(configuration: Any) -> None:
    """Put plain Python numbers in place of numpy's scalars, and of arrays and tensors without dimensions, in the fields
    of a frozen dataclass; for ``__post_init__``, where the ranges are nobody's business."""
    for field in dataclasses.fields(configuration):
        value = getattr(configuration, field.name)
        plain = tuple(map(_item, value)) if type(value) is tuple else _item(value)
        object.__setattr__(configuration, field.name, plain)


def _kept_plain(configuration: object, name: str, scalar: Scalar) -> str | None:
    """What is wrong with a field; None where it holds a plain number now."""
    try:
        object.__setattr__(configuration, name, scalar.plain(name, getattr(configuration, name)))
    except ValueError as error:
        return str(error)
    return None


def _item(value: Any) -> Any:
    """The Python object in a numpy scalar, or in an array or tensor without dimensions; else the value itself."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _scalar(value: Any) -> Any:
    """The number; None for True and False, which Python counts among the integers."""
    given = _item(value)
    return None if isinstance(given, bool) else given


def _holds(value: Any, within: str | tuple[float, ...]) -> bool:
    if isinstance(within, tuple):
        return value in within
    low, high = (float(end) for end in within[1:-1].split(","))
    above = value >= low if within[0] == "[" else value > low
    below = value <= high if within[-1] == "]" else value < high
    return bool(above and below)
