"""What the installed distributions register under the entry points of our kinds, such as ``art_atmc.constraints``."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, final, overload

from art_atmc.plugins.kinds import KINDS
from art_atmc.plugins.literals import Field, fields_of, literal_call, suggestion, values_of

if TYPE_CHECKING:
    from art_atmc.compression.constraints import Constraint

__all__ = ["Description", "Field", "Plugin", "available", "describe", "from_repr", "listing", "load", "parse"]

SWITCH = "ART_ATMC_PLUGINS"
OURS = "art-atmc"
API_VERSIONS = (1,)
"""The versions of the interfaces, such as :class:`art_atmc.Constraint`, that this release can drive."""


@final
@dataclasses.dataclass(frozen=True)
class Plugin:
    """One registered class, as metadata alone show it.

    ``target`` is ``module:Class``; ``problem`` says why the name can't be asked for, None where nothing is known;
    ``kind`` is ``constraint``, ``attack`` or ``objective``.
    """

    name: str
    distribution: str
    version: str
    target: str
    problem: str | None = None
    kind: str = "constraint"

    @property
    def class_name(self) -> str:
        return self.target.partition(":")[2]

    @property
    def ours(self) -> bool:
        return self.distribution == OURS

    def __str__(self) -> str:
        return f"the plug-in `{self.name}` of {self.distribution} {self.version} ({self.target})"


@final
@dataclasses.dataclass(frozen=True)
class Description:
    """What a plug-in is and takes; ``str()`` of it is a text for people."""

    plugin: Plugin
    summary: str
    fields: tuple[Field, ...]

    def __str__(self) -> str:
        plugin = self.plugin
        lines = [f"{plugin.name} ({plugin.target}, {plugin.distribution} {plugin.version})", self.summary, "fields:"]
        return "\n".join(line for line in lines if line) + "".join(f"\n  {field}" for field in self.fields or ("none",))


def available() -> list[Plugin]:
    """All that is registered, by name, from metadata alone; what is wrong with one stands in its ``problem``.

    A name that two distributions register for one kind belongs to neither, except that our own names stay ours; the
    others are reached as ``distribution/name``.

    :raises ValueError: when ``ART_ATMC_PLUGINS`` is neither ``on`` nor ``off``.

    >>> [plugin.target for plugin in available() if plugin.name == "sparsity"]
    ['art_atmc.compression:Sparsity']
    """
    switch = os.environ.get(SWITCH, "on")
    if switch not in ("on", "off"):
        raise ValueError(f"`{SWITCH}` must be on or off, got {switch!r}")
    return _scanned(ours_only=switch == "off")


def listing() -> list[dict[str, str | None]]:
    """:func:`available` as rows for JSON."""
    return [dataclasses.asdict(plugin) for plugin in available()]


def load(name: str, kind: str = "constraint") -> type[Any]:
    """The class that is registered as ``name``; nothing else is loaded.

    :param name: as listed, or ``distribution/name``.
    :param kind: ``constraint``, ``attack`` or ``objective``.
    :raises ValueError: for an unknown name, with those that are known, and for one that two distributions register.
    :raises ImportError: when the plug-in can't be used, naming its distribution, the cause and the remedy.

    >>> load("sparsity")(density=0.25)
    Sparsity(density=0.25)
    """
    return _loaded(_find(name, kind))


def describe(name: str, kind: str | None = None) -> Description:
    """The summary and the fields of a plug-in; raises as :func:`load` does.

    :param kind: as for :func:`load`; by default the first that has the name, constraints before attacks and objectives.

    >>> [str(field) for field in describe("quantization").fields]
    ['bits: int']
    """
    plugin = _find(name, kind)
    found = _loaded(plugin)
    doc = inspect.cleandoc(found.__doc__ or "")
    if doc.startswith(f"{found.__name__}("):  # what dataclasses write where the author wrote nothing
        doc = ""
    return Description(plugin, " ".join(doc.partition("\n\n")[0].split()), tuple(_fields(plugin, found).values()))


@overload
def parse(text: str) -> Constraint: ...
@overload
def parse(text: str, kind: Literal["constraint"]) -> Constraint: ...
@overload
def parse(text: str, kind: str, **given: Any) -> Any: ...
def parse(text: str, kind: str = "constraint", **given: Any) -> Any:
    """What ``name:field=value,field=value`` stands for, each value read as the type of its field.

    Numbers, ``true`` and ``false``, ``none``, plain text, the choices of a ``Literal``, the names or values of an
    enumeration, and tuples of these as ``(2,4)``.

    :param kind: as for :func:`load`.
    :param given: values of fields that no text says, the ``attack`` or ``attacks`` of an objective.
    :raises ValueError: naming at once every field that is unknown, missing, mistyped or given twice, with all fields;
        for values that the class refuses; and as :func:`load`.
    :raises ImportError: as :func:`load`.

    >>> parse("sparsity:density=0.25")
    Sparsity(density=0.25)
    >>> parse("pgd:eps=0.1,eps_step=0.02,max_iter=7", "attack").max_iter
    7
    """
    name, _, listed = text.partition(":")
    plugin = _find(name.strip(), kind)
    found = _loaded(plugin)
    fields = _fields(plugin, found)
    try:
        values = values_of(listed, fields)
    except ValueError as error:
        raise ValueError(f"`{text}`: {error}") from None
    return _built(found, (), {**given, **values}, text)


def from_repr(text: str) -> Constraint:
    """The constraint whose ``repr`` is ``text``: the class by its name among the plug-ins, its arguments literals.

    Nothing is evaluated, and nothing imported but the plug-in of that name.

    :raises ValueError: for any other text, a class that no plug-in registers, or values that the class refuses.
    :raises ImportError: as :func:`load`.

    >>> from_repr("Sparsity(density=0.05)")
    Sparsity(density=0.05)
    """
    name, args, kwargs = literal_call(text)
    plugins = available()
    matching = [p for p in plugins if p.kind == "constraint" and p.class_name == name]
    # Aliases of one class are one; our own class is not to be replaced by another of its name.
    targets = {(p.distribution, p.target): p for p in matching if p.ours or not any(q.ours for q in matching)}
    if not targets:
        classes = ", ".join(sorted({p.class_name for p in plugins if p.kind == "constraint" and p.class_name}))
        raise ValueError(
            f"no installed plug-in has the constraint class `{name}`; install the one that has it"
            f" (known classes: {classes or 'none'}{_caveats(plugins)})"
        )
    if len(targets) > 1:
        both = " and ".join(sorted(p.distribution for p in targets.values()))
        raise ValueError(f"`{name}` is a class of {both}; uninstall the one that is not meant")
    (plugin,) = targets.values()
    return _built(_loaded(plugin), args, kwargs, text)


def _scanned(ours_only: bool) -> list[Plugin]:
    plugins: list[Plugin] = []
    seen: set[str] = set()
    for distribution in metadata.distributions():
        found = _registered(distribution)
        # A distribution may be found twice, as in its source folder and where it is installed: the first one counts.
        if found and found[0].distribution not in seen and (found[0].ours or not ours_only):
            seen.add(found[0].distribution)
            plugins += found
    order = list(KINDS)
    return sorted(_clashes_marked(plugins), key=lambda p: (order.index(p.kind), p.name, not p.ours, p.distribution))


def _registered(distribution: metadata.Distribution) -> list[Plugin]:
    """The plug-ins of one distribution; one without a name that says so where its metadata can't be read."""
    try:
        if "[art_atmc." not in (distribution.read_text("entry_points.txt") or ""):
            return []  # spares reading the rest of the metadata of nearly every distribution
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        version = distribution.version
        # A target may be followed by extras in brackets, which nothing uses any more.
        return [
            Plugin(point.name, name, version, re.sub(r"\s|\[.*", "", point.value), kind=kind.noun)
            for kind in KINDS.values()
            for point in distribution.entry_points.select(group=kind.group)
        ]
    except Exception as error:
        folder = str(distribution.locate_file(""))
        name = getattr(getattr(distribution, "_path", None), "name", folder)
        return [Plugin("?", name, "?", "?", f"cannot be read ({_cause(error)}); reinstall {name}")]


def _clashes_marked(plugins: Sequence[Plugin]) -> Iterator[Plugin]:
    for plugin in plugins:
        rivals = [p for p in plugins if (p.kind, p.name) == (plugin.kind, plugin.name) and p is not plugin]
        if plugin.problem or not rivals or plugin.ours:
            yield plugin
        elif any(p.ours for p in rivals):
            problem = f"is hidden by our own of that name; write `{plugin.distribution}/{plugin.name}`"
            yield dataclasses.replace(plugin, problem=problem)
        else:
            owners = " and ".join(sorted(f"{p.distribution} {p.version}" for p in (plugin, *rivals)))
            remedy = f"uninstall one of them, or write `{plugin.distribution}/{plugin.name}`"
            yield dataclasses.replace(plugin, problem=f"is registered by {owners}; {remedy}")


def _find(name: str, kind: str | None) -> Plugin:
    everything = available()
    plugins = [p for p in everything if kind in (None, p.kind)]
    exact = [p for p in plugins if f"{p.distribution}/{p.name}" == name]
    same = exact or [p for p in plugins if p.name == name]
    usable = exact if len(exact) == 1 else [p for p in same if p.problem is None]
    if usable:
        return usable[0]
    noun = kind or "plug-in"
    if same:
        raise ValueError(f"the {same[0].kind} `{name}` {same[0].problem}")
    known = [p.name for p in plugins if p.problem is None]
    raise ValueError(
        f"there is no {noun} `{name}`{suggestion(name, known)}; installed are: {', '.join(known) or 'none'}"
        + _caveats(everything)
    )


def _caveats(plugins: Sequence[Plugin]) -> str:
    """Why a plug-in that the user knows to be installed may be missing."""
    off = [f"; `{SWITCH}=off` hides those of other distributions"] if os.environ.get(SWITCH) == "off" else []
    lost = [] if any(p.ours for p in plugins) else [f"; {OURS} itself is not installed: `pip install {OURS}`"]
    return "".join([*off, *lost, *(f"; {p.distribution} {p.problem}" for p in plugins if p.name == "?")])


def _loaded(plugin: Plugin) -> type[Any]:
    try:
        found = metadata.EntryPoint(plugin.name, plugin.target, KINDS[plugin.kind].group).load()
    except (Exception, SystemExit) as error:
        remedy = f"upgrade or reinstall {plugin.distribution} and what it depends on, or uninstall it"
        raise ImportError(f"{plugin} cannot be imported: {_cause(error)}; {remedy}") from error
    if offence := _offence(plugin, found):
        raise ImportError(f"{plugin} {offence}")
    return found


def _offence(plugin: Plugin, found: Any) -> str | None:
    """Why what was loaded can't be used, with the remedy; None where it can."""
    from art_atmc._version import __version__

    report, kind = f"report it to the authors of {plugin.distribution}", KINDS[plugin.kind]
    if not kind.holds(found):
        return f"is not a class that derives from {kind.public} but {found!r}; {report}"
    version = getattr(found, "api_version", 1)
    if version not in API_VERSIONS:
        newer = isinstance(version, int) and version > max(API_VERSIONS)
        supported = ", ".join(map(str, API_VERSIONS))
        return (
            f"is written for version {version!r} of the {kind.noun} interface, {OURS} {__version__} supports "
            f"{supported}; upgrade {OURS if newer else plugin.distribution}"
        )
    if inspect.isabstract(found):
        return f"leaves {', '.join(sorted(found.__abstractmethods__))} abstract; {report}"
    if found.__qualname__ != plugin.class_name:
        return f"calls itself {found.__qualname__}, so its `repr` could not be read back; {report}"
    return None


def _fields(plugin: Plugin, found: type[Any]) -> dict[str, Field]:
    try:
        return fields_of(found, without=KINDS[plugin.kind].given)
    except Exception as error:
        raise ImportError(
            f"the types of the fields of {plugin} cannot be read: {_cause(error)}; its module must import at run time "
            "what its annotations name"
        ) from error


def _built(found: type[Any], args: Sequence[Any], kwargs: Mapping[str, Any], text: str) -> Any:
    try:
        return found(*args, **kwargs)
    except Exception as error:
        cause = str(error) if isinstance(error, ValueError) else _cause(error)
        raise ValueError(f"`{text}`: {cause}") from error


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _root(path: str) -> str:
    return path.partition(":")[0].partition(".")[0]
