"""The fields of a dataclass and their values from text: as on the command line, or as in a ``repr``."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import enum
import inspect
import math
import types
import typing
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, final

__all__ = ["Field", "fields_of", "literal_call", "split_items", "suggestion", "typed", "values_of"]

LONGEST = 4096  # characters of a `repr`; deep nesting in more than that can exhaust the stack of Python's parser


@final
@dataclasses.dataclass(frozen=True)
class Field:
    """A parameter of a plug-in; ``default`` is None where a value must be given."""

    name: str
    type: str
    default: str | None
    annotation: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.name}: {self.type}" + ("" if self.default is None else f" = {self.default}")


def fields_of(kind: type, without: Iterable[str] = ()) -> dict[str, Field]:
    """What the constructor of a dataclass takes, by name, with the annotations resolved.

    :param without: fields that are left out; their annotations may name what does not exist at run time.
    """
    left = set(without)
    fields = [field for field in dataclasses.fields(kind) if field.init and field.name not in left]
    hints = _hints(kind, {field.name for field in fields}) if left else typing.get_type_hints(kind)
    return {f.name: Field(f.name, _spelling(f.type), _default(f), hints[f.name]) for f in fields}


def values_of(text: str, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The values in ``field=value,field=value``, each read as the type of its field.

    :raises ValueError: naming at once every field that is unknown, missing, mistyped or given more than once.

    >>> values_of("bits=4", {"bits": Field("bits", "int", None, int)})
    {'bits': 4}
    """
    values: dict[str, Any] = {}
    offences: list[str] = []
    given: Counter[str] = Counter()
    for item in split_items(text):
        key, equals, value = (part.strip() for part in item.partition("="))
        given[key] += 1
        if key not in fields:
            offences.append(f"there is no field `{key}`{suggestion(key, fields)}")
        elif not equals:
            offences.append(f"`{key}` has no value; write {key}=VALUE")
        else:
            try:
                values[key] = typed(value, fields[key].annotation)
            except ValueError:
                offences.append(f"`{key}` must be {fields[key].type}, got {value!r}")
    offences += [f"`{key}` is given {n} times" for key, n in given.items() if n > 1 and key in fields]
    offences += [f"`{f.name}` is missing" for f in fields.values() if f.default is None and f.name not in given]
    if offences:
        raise ValueError(f"{'; '.join(offences)}; the fields are: {', '.join(map(str, fields.values())) or 'none'}")
    return values


def suggestion(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is close to a mistyped one; empty where none is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def typed(text: str, annotation: Any) -> Any:
    """The value that ``text`` stands for as a value of type ``annotation``.

    :param annotation: bool, int, float, str, None, an enumeration (by the names or the values of its members),
        ``Literal``, a tuple of these, or a union of these, of which the first arm that fits counts and ``str`` is last.
    :raises ValueError: when it stands for none, or the type is not one of these.

    >>> typed("0.5", float), typed("none", int | None), typed("(2, 4)", tuple[int, ...])
    (0.5, None, (2, 4))
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _first_fitting(text, sorted(args, key=lambda arm: arm is str))
    if origin is typing.Literal:
        return _chosen(text, {str(choice): choice for choice in args})
    if origin is tuple:
        return _tuple(text, args)
    if annotation is bool:
        return _chosen(text.lower(), {"true": True, "false": False})
    if annotation in (None, types.NoneType):
        return _chosen(text.lower(), {"none": None})
    if annotation in (int, float):
        return annotation(text)
    if annotation is str:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _chosen(text, {str(m.value): m for m in annotation} | dict(annotation.__members__))
    raise ValueError(f"a value of type {annotation!r} can't be written as text; build the object in Python")


def split_items(text: str) -> list[str]:
    """The items of a list that is separated by commas, where commas in brackets or quotes separate nothing.

    >>> split_items("a=1, shape=(2,4)")
    ['a=1', 'shape=(2,4)']
    """
    items, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0 and not quote:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items if item.strip()]


def literal_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name, positional and named arguments of a call such as ``Sparsity(density=0.05)``; nothing is evaluated.

    :raises ValueError: when ``text`` is anything but one call whose arguments are literals.

    >>> literal_call("Grid((2, 4), scale=inf)")
    ('Grid', [(2, 4)], {'scale': inf})
    """
    try:
        if len(text) > LONGEST:
            raise ValueError(f"it has more than {LONGEST} characters")
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("it is not a call with plain arguments")
        args = [_literal(node) for node in call.args]
        return ast.unparse(call.func), args, {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        shown = text if len(text) < 100 else f"{text[:97]}..."
        raise ValueError(f"{shown!r} is not of the form `Class(field=literal, ...)`: {error}") from None


class _Infinity(ast.NodeTransformer):
    """``inf`` is the ``repr`` of a float, though not a literal."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(math.inf) if node.id == "inf" else node


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(_Infinity().visit(node))


def _hints(kind: type, names: set[str]) -> dict[str, Any]:
    """The annotations of these fields, each resolved in the module of the class that has it."""
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        own = {name: a for name, a in inspect.get_annotations(base).items() if name in names}
        hints |= typing.get_type_hints(type("_", (), {"__annotations__": own, "__module__": base.__module__}))
    return hints


def _spelling(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return None if field.default is dataclasses.MISSING else repr(field.default)


def _first_fitting(text: str, arms: list[Any]) -> Any:
    for arm in arms:
        with contextlib.suppress(ValueError):
            return typed(text, arm)
    raise ValueError(f"{text!r} fits none of {arms}")


def _chosen(text: str, choices: dict[str, Any]) -> Any:
    if text not in choices:
        raise ValueError(f"{text!r} is none of {', '.join(choices)}")
    return choices[text]


def _tuple(text: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    bracketed = text[:1] + text[-1:] in ("()", "[]")
    items = split_items(text[1:-1] if bracketed else text)
    if args[1:] == (...,):
        args = args[:1] * len(items)
    return tuple(typed(item, kind) for item, kind in zip(items, args, strict=True))
