"""What the distributions promise about each other: bounds that are tested, and a licence in each."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
ROOT = Path(__file__).parent.parent
PLUGINS = sorted(ROOT.glob("plugins/*/pyproject.toml"))
FOR_DEVELOPERS = {"bench", "coverage", "dev", "docs", "lint", "types"}  # tested with what constraints.txt holds only


def requirements(project: Path) -> list[Requirement]:
    """What the distribution needs, and what its tests need, less the distributions of this repository."""
    described = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = described.get("optional-dependencies", {})
    wanted = described["dependencies"] + [r for name in extras.keys() - FOR_DEVELOPERS for r in extras[name]]
    return [requirement for requirement in map(Requirement, wanted) if "art-atmc" not in requirement.name]


def lowest(requirement: Requirement) -> Version:
    (bound,) = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
    return bound


@pytest.mark.parametrize("project", [ROOT / "pyproject.toml", *PLUGINS], ids=lambda path: path.parent.name)
def test_lower_bounds_are_those_that_are_tested(project: Path) -> None:
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    tested = {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}
    promised = {canonicalize_name(r.name): lowest(r) for r in requirements(project)}
    assert promised == {name: tested.get(name) for name in promised}


@pytest.mark.parametrize("project", PLUGINS, ids=lambda path: path.parent.name)
def test_each_plug_in_carries_the_licence(project: Path) -> None:
    assert (project.parent / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")
