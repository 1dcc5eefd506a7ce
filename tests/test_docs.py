"""The documentation tells the truth: its code runs, prints what it shows, and leaves out no public name.

After a change that moves what pages print: ``python tests/test_docs.py docs/how-to/evaluation.md`` writes it into them.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*")
# Every page with Python on it; those of the plug-ins are run by the plug-ins' tests.
PAGES = sorted(
    name
    for path in DOCS.rglob("*.md")
    if "```python" in path.read_text(encoding="utf-8")
    and not (name := path.relative_to(DOCS).as_posix()).startswith("how-to/plugins/")
)
NEEDS = {"how-to/compressed-file.md": ["onnxscript"], "how-to/write-a-constraint.md": ["art_atmc_ternary"]}


class Block(NamedTuple):
    line: int
    code: str
    output: str | None


def blocks(text: str) -> list[Block]:
    """The Python blocks of a page, each with the text block that follows it as its output."""
    found = list(FENCED.finditer(text))
    followers = [*found[1:], None]
    return [
        Block(text.count("\n", 0, block.start(2)), block[2], after[2] if after and after[1] == "text" else None)
        for block, after in zip(found, followers, strict=True)
        if block[1] == "python"
    ]


def run(page: str, text: str) -> dict[str, Any]:
    """Run a page's blocks in one namespace from top to bottom; returns the namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(text):
        printed = io.StringIO()
        code = compile("\n" * block.line + block.code, page, "exec")  # so that errors name the line of the page
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        assert_shown(page, block, printed.getvalue())
    return namespace


def assert_shown(page: str, block: Block, printed: str) -> None:
    """Whole numbers and words as shown; fractions near, since they depend on the machine."""
    where = f"{page}, line {block.line + 1}"
    assert (block.output is not None) == bool(printed), f"{where}: prints {printed!r}"
    if block.output is not None:
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", block.output), where
        for ours, shown in zip(NUMBER.findall(printed), NUMBER.findall(block.output), strict=True):
            assert float(ours) == pytest.approx(float(shown), abs=0.2 if "." in shown else 0), where


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that the pages write go to a folder that is thrown away."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("elsewhere")
def test_readme_example_runs_and_keeps_its_promises() -> None:
    from art_atmc import compressible

    text = (ROOT / "README.md").read_text()
    assert text.count("nb_epochs=30") == 1
    robust = run("README.md", text.replace("nb_epochs=30", "nb_epochs=2"))["robust"]
    factors = compressible(robust.model)
    assert 0 < factors.nnz() <= factors.dense_size / 20
    assert all(factor[factor != 0].unique().numel() <= 16 for factor in factors.values())


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("elsewhere")
def test_page_runs_and_prints_what_it_shows(page: str) -> None:
    for needed in NEEDS.get(page, ()):
        pytest.importorskip(needed)
    run(f"docs/{page}", (DOCS / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("printed", ["robust 0.2, nnz 7\n", "robust 0.7, nnz 8\n", "clean 0.7, nnz 7\n", ""])
def test_output_that_differs_is_noticed(printed: str) -> None:
    block = Block(0, "", "robust 0.7, nnz 7\n")
    assert_shown("page", block, "robust 0.71, nnz 7\n")
    with pytest.raises(AssertionError):
        assert_shown("page", block, printed)


def test_every_public_name_is_in_the_reference() -> None:
    import art_atmc

    reference = (DOCS / "reference/api.md").read_text()
    missing = [name for name in dir(art_atmc) if not re.search(rf":: art_atmc\.{name}$", reference, re.MULTILINE)]
    assert not missing


def test_every_option_of_the_command_line_is_in_the_reference() -> None:
    import typer

    from art_atmc.cli import app

    reference = (DOCS / "reference/command-line.md").read_text()
    commands: list[Any] = [typer.main.get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
    options = [o for c in commands for p in c.params for o in [*p.opts, *p.secondary_opts] if o.startswith("--")]
    assert len(options) > 25
    assert not [option for option in options if f"{option}`" not in reference]


def test_links_between_the_pages_lead_somewhere() -> None:
    """Sphinx checks the links inside `docs`; these are the others."""
    for page in (
        *ROOT.glob("*.md"),
        *ROOT.glob("examples/*.md"),
        *ROOT.glob("plugins/*.md"),
        *ROOT.glob("plugins/*/*.md"),
    ):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_built_pages_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("furo")
    (tmp_path / "index.md").write_text("# A page with a formula\n\n$\\sum_l w_l^2$\n")
    built = tmp_path / "html"
    build = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "-c", DOCS, tmp_path, built]
    subprocess.run(build, check=True, capture_output=True)  # type: ignore[arg-type]
    page = (built / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r"<(?:script|link|img)\b[^>]*\b(?:src|href)=\"([^\"]+)\"", page)
    assert any("mathjax" in address for address in loaded)
    assert not [address for address in loaded if not (built / address.split("?")[0]).is_file()]
    embedded = re.compile(r"!\[[^\]]*\]\(\w+:|<(img|script|iframe)\b")
    assert not [source for source in DOCS.rglob("*.md") if embedded.search(source.read_text())]


def test_pages_with_code_are_found() -> None:
    assert {"tutorial/digits.md", "how-to/own-loop.md", "how-to/evaluation.md", "how-to/art.md"} <= set(PAGES)


def test_no_page_disagrees_with_the_records() -> None:
    filled = runpy.run_path(str(DOCS / "results" / "figures.py"))["filled"]()
    assert {"README.md", "benchmarks.md", "digits.md", "choose.md"} <= {path.name for path in filled}
    stale = [path.name for path, text in filled.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run `make figures`"


def test_readme_says_what_every_extra_is_for() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(
        r"^(\w+) = \[", project.split("[project.optional-dependencies]")[1].split("\n[")[0], re.MULTILINE
    )
    assert "report" in extras
    ours = {"bench", "coverage", "dev", "docs", "lint", "test", "types"}  # for work on art-atmc itself
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [extra for extra in extras if extra not in ours and f"| `{extra}` |" not in readme]


def rewritten(page: str, text: str) -> str:
    """The page with what its blocks print now."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * block.line + block.code, page, "exec"), namespace)
        if block.output is not None:
            text = text.replace(f"```text\n{block.output}```", f"```text\n{printed.getvalue()}```", 1)
    return text


if __name__ == "__main__":
    for name in map(Path, sys.argv[1:]):  # type: ignore[assignment]
        text = rewritten(str(name), name.read_text(encoding="utf-8"))  # type: ignore[attr-defined]
        name.write_text(text, encoding="utf-8")  # type: ignore[attr-defined]
