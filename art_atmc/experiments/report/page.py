"""Pictures, figures and words on one page that needs nothing else: no connection, no script."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from art_atmc._version import __version__
from art_atmc.experiments.paper import curves
from art_atmc.experiments.report import summary
from art_atmc.experiments.report.curves import security, training
from art_atmc.experiments.report.drawing import Picture
from art_atmc.experiments.report.pictures import CODEBOOKS, adversarial, codebooks, densities, examined
from art_atmc.experiments.report.results import LeftOut, Result, lines, results
from art_atmc.experiments.report.tradeoff import tradeoff
from art_atmc.support.atomic import write_file

__all__ = ["write"]


def write(folder: Path, output: Path | None = None) -> Path:
    """Write ``report.html``, one page that needs no other file and no connection, and its pictures beside it.

    They lie in ``figures``, each as PNG, PDF and SVG.

    Points that are incomplete or damaged are left out; the page and a ``UserWarning`` say which and why.

    :param folder: what ``art-atmc sweep`` filled: a subfolder for each trained network.
    :param output: where to write; by default the same folder.
    :returns: the path of the page.
    :raises FileNotFoundError: when the folder holds no points.
    :raises ValueError: when no point is complete, or points differ in data, network or attack, naming which.
    :raises OSError: when it can't be written.
    """
    folder = Path(folder)
    output = folder if output is None else Path(output)
    found, left_out = results(folder)
    if left_out:
        reasons = "; ".join(f"{one.folder} ({one.reason})" for one in left_out)
        warnings.warn(f"left out of the report: {reasons}", stacklevel=2)
    pictures = _pictures(found)
    text = _html(found, left_out, pictures)
    (output / "figures").mkdir(parents=True, exist_ok=True)
    for picture in itertools.chain.from_iterable(pictures.values()):
        for kind, content in picture.files.items():
            write_file(output / "figures" / f"{picture.name}.{kind}", content)
    write_file(output / "report.html", text)
    return output / "report.html"


def _html(found: Sequence[Result], left_out: Sequence[LeftOut], pictures: Mapping[str, Sequence[Picture]]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        files("art_atmc.experiments.report").joinpath("page.html").read_text(encoding="utf-8")
    )
    drawn = lines(found)
    doubts = summary.doubts(found)
    return template.render(
        pictures,
        point=found[0].point,
        headline=summary.headline(found),
        failures=[doubt for doubt in doubts if doubt.failed],
        cautions=[doubt for doubt in doubts if not doubt.failed],
        checks=sum(len(result.evaluation.findings) for result in found),
        left_out=left_out,
        rows=summary.rows(drawn),
        seeds=summary.seeds(drawn),
        of_paper=bool(curves(found[0].point.data, found[0].point.eps, found[0].point.norm)),
        inside=examined(found),
        attacked=_attacked(found),
        most_codebooks=CODEBOOKS,
        versions=_versions(found),
        version=__version__,
    )


def _pictures(found: Sequence[Result]) -> dict[str, list[Picture]]:
    """By section."""
    drawn, made = lines(found), {}
    if inside := examined(found):
        model = inside.model()
        report = model.report()
        network = f"{inside.point.label}, seed {inside.point.seed}: {inside.point.network} on {inside.point.data}"
        made["density"] = [densities(report, network)]
        made["codebooks"] = codebooks(report, model.decoded(), network) if inside.point.bits < 32 else []
    if (attacked := _attacked(found)) and attacked.examples:
        made["adversarial"] = adversarial(attacked.examples, attacked.point)
    return {"tradeoff": tradeoff(drawn), "security": security(drawn), "training": training(drawn), **made}


def _attacked(found: Sequence[Result]) -> Result | None:
    """The network that is looked into, or another one that kept examples, the most robust of them."""
    kept = [result for result in found if result.examples is not None]
    return examined(kept) or max(kept, key=lambda result: result.point.robust.share, default=None)


def _versions(found: Sequence[Result]) -> dict[str, str]:
    """Of the libraries, all of them where points differ."""
    held: dict[str, Any] = {}
    for result in found:
        for name, version in result.point.versions.items():
            held.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in held.items()}
