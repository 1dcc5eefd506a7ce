"""The layout: every folder imports only from folders above it, and the public names stay where they are.

After a wanted change of the public names: ``python tests/test_layout.py``, and a news entry.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "art_atmc"
SURFACE = ROOT / "tests" / "api_surface.json"
# From the ground up; what stands in one line may import what stands before it.
ORDER = (
    "_version", "support", "compression", "networks", "data", "plugins", "classifiers", "attacks",
    "inference", "files", "training", "testing", "trainer", "evaluation", "experiments", "cli",
)  # fmt: skip
NEVER = [("compression", "art"), ("evaluation", "art_atmc.training"), ("files", "art_atmc.attacks")]


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names]
            yield from (f"{node.module}.{name}" for name in names) if node.module == "art_atmc" else [node.module]


def modules() -> Iterator[tuple[str, Path]]:
    """The folder or file of the first level, and each module in it; the front door stands outside."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if place != "__init__":
            yield place, path


def offences(order: tuple[str, ...]) -> list[str]:
    """Imports from a place below, or from the front door."""
    wrong = []
    for place, path in modules():
        for module in imported(path):
            package, _, rest = module.partition(".")
            if package != "art_atmc":
                continue
            home = rest.partition(".")[0]
            if home not in order or order.index(home) > order.index(place):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    return wrong


def test_every_folder_has_a_place():
    assert {place for place, _ in modules()} == set(ORDER)


def test_imports_point_one_way():
    assert offences(ORDER) == []
    assert offences(tuple(reversed(ORDER)))  # the question can be answered with no


@pytest.mark.parametrize(("place", "stranger"), NEVER)
def test_folders_keep_apart(place, stranger):
    found = [m for home, path in modules() if home == place for m in imported(path)]
    assert not [m for m in found if m == stranger or m.startswith(f"{stranger}.")]


def surface() -> list[str]:
    """The public names: those of the front door and of each folder, and every one that the reference page documents."""
    documented = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    names = set(re.findall(r"auto(?:class|function|data):: (art_atmc[\w.]*)", documented))
    folders = [f"art_atmc.{place}" for place in ORDER if (PACKAGE / place).is_dir()]
    for module in ["art_atmc", *folders, *re.findall(r"automodule:: (art_atmc[\w.]*)", documented)]:
        names |= {f"{module}.{name}" for name in getattr(importlib.import_module(module), "__all__", ())}
    return sorted(names)


def test_public_names_are_pinned():
    pinned = json.loads(SURFACE.read_text(encoding="utf-8"))
    assert surface() == pinned
    for name in pinned:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_plugins_import_public_names_only():
    pinned = set(json.loads(SURFACE.read_text(encoding="utf-8")))
    used = set()
    for path in sorted((ROOT / "plugins").glob("*/src/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and re.match(r"art_atmc(\.|$)", node.module or ""):
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert used
    assert used <= pinned


if __name__ == "__main__":
    SURFACE.write_text(json.dumps(surface(), indent=1) + "\n", encoding="utf-8")
