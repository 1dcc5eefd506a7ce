"""What the installed distributions register under the entry points ``art_atmc.constraints``."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, final

from art_atmc.plugins.literals import Field, fields_of, literal_call, suggestion, values_of

if TYPE_CHECKING:
    from art_atmc.compression.constraints import Constraint

__all__ = ["Description", "Field", "Plugin", "available", "describe", "from_repr", "listing", "load", "parse"]

GROUP = "art_atmc.constraints"
SWITCH = "ART_ATMC_PLUGINS"
OURS = "art-atmc"
API_VERSIONS = (1,)
"""The versions of the interface :class:`art_atmc.Constraint` that this release can drive."""


@final
@dataclasses.dataclass(frozen=True)
class Plugin:
    """One registered constraint, as metadata alone show it.

    ``target`` is ``module:Class``; ``problem`` says why the name can't be asked for, None where nothing is known.
    """

    name: str
    distribution: str
    version: str
    target: str
    problem: str | None = None

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
    """What a constraint is and takes; ``str()`` of it is a text for people."""

    plugin: Plugin
    summary: str
    fields: tuple[Field, ...]

    def __str__(self) -> str:
        plugin = self.plugin
        lines = [f"{plugin.name} ({plugin.target}, {plugin.distribution} {plugin.version})", self.summary, "fields:"]
        return "\n".join(line for line in lines if line) + "".join(f"\n  {field}" for field in self.fields or ("none",))


def available() -> list[Plugin]:
    """All registered constraints by name, from metadata alone; what is wrong with one stands in its ``problem``.

    A name that two distributions register belongs to neither, except that our own names stay ours; the others are
    reached as ``distribution/name``.

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


def load(name: str) -> type[Constraint]:
    """The constraint class that is registered as ``name``; nothing else is loaded.

    :param name: as listed, or ``distribution/name``.
    :raises ValueError: for an unknown name, with those that are known, and for one that two distributions register.
    :raises ImportError: when the plug-in can't be used, naming its distribution, the cause and the remedy.

    >>> load("sparsity")(density=0.25)
    Sparsity(density=0.25)
    """
    return _loaded(_find(name))


def describe(name: str) -> Description:
    """The summary and the fields of a constraint; raises as :func:`load` does.

    >>> [str(field) for field in describe("quantization").fields]
    ['bits: int']
    """
    plugin = _find(name)
    kind = _loaded(plugin)
    doc = inspect.cleandoc(kind.__doc__ or "")
    if doc.startswith(f"{kind.__name__}("):  # what dataclasses write where the author wrote nothing
        doc = ""
    return Description(plugin, " ".join(doc.partition("\n\n")[0].split()), tuple(_fields(plugin, kind).values()))


def parse(text: str) -> Constraint:
    """A constraint from ``name:field=value,field=value``, each value read as the type of its field.

    Numbers, ``true`` and ``false``, ``none``, plain text, the choices of a ``Literal``, the names or values of an
    enumeration, and tuples of these as ``(2,4)``.

    :raises ValueError: naming at once every field that is unknown, missing, mistyped or given twice, with all fields;
        for values that the constraint refuses; and as :func:`load`.
    :raises ImportError: as :func:`load`.

    >>> parse("sparsity:density=0.25")
    Sparsity(density=0.25)
    """
    name, _, listed = text.partition(":")
    plugin = _find(name.strip())
    kind = _loaded(plugin)
    fields = _fields(plugin, kind)
    try:
        values = values_of(listed, fields)
    except ValueError as error:
        raise ValueError(f"`{text}`: {error}") from None
    return _built(kind, (), values, text)


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
    matching = [p for p in plugins if p.class_name == name]
    # Aliases of one class are one; our own class is not to be replaced by another of its name.
    targets = {(p.distribution, p.target): p for p in matching if p.ours or not any(q.ours for q in matching)}
    if not targets:
        classes = ", ".join(sorted({p.class_name for p in plugins if p.class_name}))
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
    return sorted(_clashes_marked(plugins), key=lambda p: (p.name, not p.ours, p.distribution))


def _registered(distribution: metadata.Distribution) -> list[Plugin]:
    """The plug-ins of one distribution; one without a name that says so where its metadata can't be read."""
    try:
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            return []  # spares reading the rest of the metadata of nearly every distribution
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        version = distribution.version
        points = distribution.entry_points.select(group=GROUP)
        # A target may be followed by extras in brackets, which nothing uses any more.
        return [Plugin(point.name, name, version, re.sub(r"\s|\[.*", "", point.value)) for point in points]
    except Exception as error:
        folder = str(distribution.locate_file(""))
        name = getattr(getattr(distribution, "_path", None), "name", folder)
        return [Plugin("?", name, "?", "?", f"cannot be read ({_cause(error)}); reinstall {name}")]


def _clashes_marked(plugins: Sequence[Plugin]) -> Iterator[Plugin]:
    for plugin in plugins:
        rivals = [p for p in plugins if p.name == plugin.name and p is not plugin]
        if plugin.problem or not rivals or plugin.ours:
            yield plugin
        elif any(p.ours for p in rivals):
            problem = f"is hidden by our own of that name; write `{plugin.distribution}/{plugin.name}`"
            yield dataclasses.replace(plugin, problem=problem)
        else:
            owners = " and ".join(sorted(f"{p.distribution} {p.version}" for p in (plugin, *rivals)))
            remedy = f"uninstall one of them, or write `{plugin.distribution}/{plugin.name}`"
            yield dataclasses.replace(plugin, problem=f"is registered by {owners}; {remedy}")


def _find(name: str) -> Plugin:
    plugins = available()
    exact = [p for p in plugins if f"{p.distribution}/{p.name}" == name]
    same = exact or [p for p in plugins if p.name == name]
    usable = exact if len(exact) == 1 else [p for p in same if p.problem is None]
    if usable:
        return usable[0]
    if same:
        raise ValueError(f"the constraint `{name}` {same[0].problem}")
    known = [p.name for p in plugins if p.problem is None]
    raise ValueError(
        f"there is no constraint `{name}`{suggestion(name, known)}; installed are: {', '.join(known) or 'none'}"
        + _caveats(plugins)
    )


def _caveats(plugins: Sequence[Plugin]) -> str:
    """Why a plug-in that the user knows to be installed may be missing."""
    off = [f"; `{SWITCH}=off` hides those of other distributions"] if os.environ.get(SWITCH) == "off" else []
    lost = [] if any(p.ours for p in plugins) else [f"; {OURS} itself is not installed: `pip install {OURS}`"]
    return "".join([*off, *lost, *(f"; {p.distribution} {p.problem}" for p in plugins if p.name == "?")])


def _loaded(plugin: Plugin) -> type[Constraint]:
    try:
        kind = metadata.EntryPoint(plugin.name, plugin.target, GROUP).load()
    except (Exception, SystemExit) as error:
        remedy = f"upgrade or reinstall {plugin.distribution} and what it depends on, or uninstall it"
        raise ImportError(f"{plugin} cannot be imported: {_cause(error)}; {remedy}") from error
    if offence := _offence(plugin, kind):
        raise ImportError(f"{plugin} {offence}")
    return kind


def _offence(plugin: Plugin, kind: Any) -> str | None:
    """Why what was loaded can't be used, with the remedy; None where it can."""
    from art_atmc._version import __version__
    from art_atmc.compression.constraints import Constraint

    report = f"report it to the authors of {plugin.distribution}"
    if not (isinstance(kind, type) and issubclass(kind, Constraint)):
        return f"is not a class that derives from art_atmc.Constraint but {kind!r}; {report}"
    if kind.api_version not in API_VERSIONS:
        newer = isinstance(kind.api_version, int) and kind.api_version > max(API_VERSIONS)
        supported = ", ".join(map(str, API_VERSIONS))
        return (
            f"is written for version {kind.api_version!r} of the constraint interface, {OURS} {__version__} supports "
            f"{supported}; upgrade {OURS if newer else plugin.distribution}"
        )
    if inspect.isabstract(kind):
        return f"leaves {', '.join(sorted(kind.__abstractmethods__))} abstract; {report}"
    if kind.__qualname__ != plugin.class_name:
        return f"calls itself {kind.__qualname__}, so its `repr` could not be read back; {report}"
    return None


def _fields(plugin: Plugin, kind: type[Constraint]) -> dict[str, Field]:
    try:
        return fields_of(kind)
    except Exception as error:
        raise ImportError(
            f"the types of the fields of {plugin} cannot be read: {_cause(error)}; its module must import at run time "
            "what its annotations name"
        ) from error


def _built(kind: type[Constraint], args: Sequence[Any], kwargs: Mapping[str, Any], text: str) -> Constraint:
    try:
        return kind(*args, **kwargs)
    except Exception as error:
        cause = str(error) if isinstance(error, ValueError) else _cause(error)
        raise ValueError(f"`{text}`: {cause}") from error


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _root(path: str) -> str:
    return path.partition(":")[0].partition(".")[0]
