"""The report: one page that says what the points say, and is read without a network, on paper and on a telephone."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("matplotlib")

from art_atmc import CompressedModel, Quantization, Sparsity, compressible, decompose
from art_atmc.compression.paper_size import paper_bits
from art_atmc.evaluation.result import AttackResult, Evaluation, Finding, Severity
from art_atmc.evaluation.suites import Access
from art_atmc.experiments.paper import curves
from art_atmc.experiments.point import Accuracy, Curve, Examples, Point
from art_atmc.experiments.report import summary, write
from art_atmc.experiments.report.drawing import looks
from art_atmc.experiments.report.pictures import examined
from art_atmc.experiments.report.results import lines, results
from art_atmc.experiments.report.tradeoff import side_by_side
from art_atmc.networks import digits_cnn
from art_atmc.support.statistics import Spread

TEST = 200
RADII = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
BARE: dict[str, Any] = {"curve": None, "examples": False}  # fewer pictures to draw
PASSED = (Finding("gradients", Severity.PASSED, "no gradient vanishes"),)


def network(recipe: str, density: float, bits: int, seed: int) -> CompressedModel:
    """A network that obeys its constraints; not a trained one."""
    torch.manual_seed(seed)
    model = digits_cnn()
    if recipe.startswith("ATMC"):
        decompose(model)
        with torch.no_grad():
            for tensor in compressible(model).values():
                tensor.add_(0.03 * torch.randn_like(tensor))
    constraints = [*([Sparsity(density)] if density < 1 else []), *([Quantization(bits)] if bits < 32 else [])]
    weights = compressible(model)
    for constraint in constraints:
        weights.assign_(constraint.project(weights))
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    return CompressedModel.of(classifier, constraints, network="digits-cnn")


def make_point(output: Path, recipe: str, density: float = 1.0, bits: int = 32, seed: int = 0, **changes) -> Point:
    """A point's folder with all its files; the figures are random."""
    findings, examples = changes.pop("findings", PASSED), changes.pop("examples", True)
    folder = output / f"{re.sub('[^A-Za-z0-9-]', '_', recipe)}-d{density:g}-b{bits}-s{seed}"
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, round(1000 * density), bits, sum(map(ord, recipe))])
    model = network(recipe, density, bits, seed)
    file_bytes = model.save(folder / "model.atmc")
    weights = model.weights()
    chance = 0.55 + 0.42 * density**0.2
    clean = rng.random(TEST) < chance
    robust = clean & (rng.random(TEST) < chance)
    epochs, own = 30, 30 if density == 1 else 15
    rows = [
        {
            "stage": recipe,
            "epoch": i + 1,
            "loss": 2.3 / (1 + 0.3 * i) + 0.1 * rng.random(),
            "train_robust_accuracy": 0.8 * chance,
            "clean_accuracy": chance * (1 - 0.6 ** (i + 1)),
            "robust_accuracy": 0.85 * chance * (1 - 0.7 ** (i + 1)),
            "learning_rate": 0.05,
            "seconds": 1.2,
        }
        | ({"violation": 0.3 * 0.6**i if i < own - 1 else 0.0} if density < 1 else {})
        for i in range(own)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    attacks = {"PGD-7": robust, "paper": robust | (clean & (rng.random(TEST) < 0.05))}
    Evaluation(
        *("test", 0.1, "inf", seed, 64, "data", "model", {}, clean),
        tuple(AttackResult(n, Access.GRADIENTS, True, 1, {"type": "PGD"}, c, 0, 1.0) for n, c in attacks.items()),
        *((), (), findings, {"torch": "2.13"}),
    ).save(folder / "evaluation.json")
    if examples:
        x = rng.random((6, 1, 8, 8)).astype(np.float32)
        x_adv = (x + 0.1 * rng.choice([-1, 1], x.shape)).clip(0, 1).astype(np.float32)
        y = np.arange(6)
        Examples(x, x_adv, y, y, (y + np.arange(6) % 2) % 10).save(folder)
    figures: dict[str, Any] = {
        "recipe": recipe,
        "density": density,
        "bits": bits,
        "seed": seed,
        "schedule": "matched",
        "stages": (("DA", 30),) if density == 1 else (("DA", 15), (recipe, 15)),
        "epochs": epochs,
        "data": "digits",
        "train_examples": 1257,
        "validation_examples": 140,
        "network": "digits-cnn",
        "eps": 0.1,
        "norm": "inf",
        "attack": "Adversarial(PGD(eps=0.1, eps_step=0.0179, max_iter=7, norm=inf), clean_share=0.0)",
        "validation": (0.9, 0.8),
        "clean": Accuracy(int(clean.sum()), TEST),
        "robust": Accuracy(int(robust.sum()), TEST),
        "attacks": {name: Accuracy(int(correct.sum()), TEST) for name, correct in attacks.items()},
        "nnz": weights.nnz(),
        "dense_size": weights.dense_size,
        "paper_ratio": (paper_bits(weights) if bits < 32 else 32 * weights.nnz()) / (32 * weights.dense_size),
        "file_bytes": file_bytes,
        "dense_bytes": 4 * sum(tensor.numel() for tensor in model.state_dict().values()),
        "seconds": 18.0,
        "curve": Curve("PGD-20", RADII, tuple(int(TEST * chance / (1 + (5 * e) ** 2 * 4)) for e in RADII), TEST),
        "versions": {"torch": "2.13", "art-atmc": "0"},
    }
    point = Point(**figures | changes)
    point.save(folder)
    return point


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A sweep with two seeds of one size, one recipe without examples and one without a security curve."""
    folder = tmp_path_factory.mktemp("sweep")
    make_point(folder, "DA")
    for density in (0.2, 0.05):
        make_point(folder, "AL0", density, examples=False)
        make_point(folder, "ATMC-b", density, 4)
    make_point(folder, "ATMC-b", 0.05, 4, seed=1)
    make_point(folder, "ATMC-b", 0.05, 8)
    make_point(folder, "AP", 0.05, curve=None)
    return folder


class Page(html.parser.HTMLParser):
    """What is on a page: its tags, images, links, text, and the cells of its tables row by row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: set[str] = set()
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.links += [given[name] for name in ("href", "src", "srcset", "data", "action", "style") if name in given]
        if tag == "img":
            self.images.append(given)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("img", "meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data

    def box(self, kind: str) -> str:
        """Text of the first box of this kind, as HTML; empty where there is none."""
        found = re.search(f'<section class="box {kind}".*?</section>', self.source, re.DOTALL)
        return found.group() if found else ""

    def row(self, recipe: str, density: float, bits: int) -> list[str]:
        [row] = [row for row in self.tables[0] if row[:3] == [recipe, f"{density:g}", str(bits)]]
        return row


@pytest.fixture(scope="module")
def page(swept) -> Page:
    return Page(write(swept))


def points_of(folder: Path) -> list[Point]:
    return [result.point for result in results(folder)[0]]


def test_each_picture_is_in_the_page_with_a_text_and_as_a_file(swept, page):
    files = {path.read_bytes() for path in (swept / "figures").glob("*.png")}
    assert len(page.images) == len(files) > 15
    for image in page.images:
        kind, _, data = image["src"].partition(",")
        png = base64.b64decode(data)
        assert kind == "data:image/png;base64"
        assert png in files
        assert png.startswith(b"\x89PNG")
        assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (
            int(image["width"]),
            int(image["height"]),
        )
        assert len(image["alt"]) > 40


def test_each_picture_is_a_file_of_every_format_too(swept, page):
    names = {kind: {path.stem for path in (swept / "figures").glob(f"*.{kind}")} for kind in ("png", "pdf", "svg")}
    assert names["png"] == names["pdf"] == names["svg"]
    assert {path.suffix for path in (swept / "figures").iterdir()} == {".png", ".pdf", ".svg"}
    for path in (swept / "figures").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    for path in (swept / "figures").glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        assert b"CreationDate" not in content
        assert b"/Type3" not in content  # fonts that printers refuse


def test_page_needs_nothing_else(page):
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not page.tags & {"script", "link", "iframe", "object", "base", "form"}
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "default-src 'none'" in page.source


def test_table_says_what_the_points_say(swept, page):
    points = [p for p in points_of(swept) if (p.series, p.density) != ("ATMC-4", 0.05)]
    assert len(page.tables[0]) == 2 + len(points) + 1
    for point in points:
        row = page.row(point.series, point.density, point.bits)
        for cell, accuracy in ((row[3], point.clean), (row[4], point.robust)):
            low, high = accuracy.interval
            assert cell == f"{accuracy.correct / TEST:.1%}{low:.1%} to {high:.1%}"
        assert int(row[5].replace(",", "")) == point.nnz
        assert float(row[6]) == pytest.approx(point.paper_ratio, rel=0.005)
        assert int(row[7].replace(",", "")) == point.file_bytes
        assert float(row[8]) == pytest.approx(point.file_bytes / point.dense_bytes, rel=0.005)
        assert row[9:] == ["1", "30"]


def test_seeds_are_one_row_and_a_row_each(swept, page):
    points = [p for p in points_of(swept) if (p.series, p.density) == ("ATMC-4", 0.05)]
    assert [p.seed for p in points] == [0, 1]
    row = page.row("ATMC-4", 0.05, 4)
    spread = Spread.of([p.robust.share for p in points])
    assert row[4] == f"{spread.mean:.1%} ± {spread.std:.1%}{spread.min:.1%} to {spread.max:.1%}"
    assert row[9] == "2"
    assert len(page.tables) == 2
    assert [cells[9] for cells in page.tables[1][2:]] == ["0", "1"]
    for cells, point in zip(page.tables[1][2:], points, strict=True):
        assert cells[3].startswith(f"{point.clean.share:.1%}")


def test_headline_is_made_of_the_figures(swept, page):
    best = max((p for p in points_of(swept) if p.bits < 32), key=lambda p: p.robust.share)
    lead = re.search('<p class="lead">(.*?)</p>', page.source, re.DOTALL).group(1)
    for told in ("8 digits-cnn networks on digits", "2 seeds (0, 1)", "200 examples", "PGD-7 and paper", "eps 0.1"):
        assert told in lead
    for told in (best.series, f"{best.density:g}", f"{best.robust.share:.1%}", f"{best.file_bytes:,} bytes"):
        assert told in lead


def test_network_to_look_into_is_the_most_robust_with_a_codebook(swept):
    found = results(swept)[0]
    coded = [result for result in found if result.point.bits < 32]
    assert examined(found).point.robust.share == max(result.point.robust.share for result in coded)
    sparse = [result for result in found if result.point.bits == 32 and result.point.density < 1]
    assert examined(sparse).point.robust.share == max(result.point.robust.share for result in sparse)
    assert examined([result for result in found if result.point.density == 1]) is None


@pytest.mark.parametrize(("share", "file_bytes"), [(150, 900), (120, 10)])
def test_network_to_look_into_is_the_smaller_file_among_equals(swept, share, file_bytes):
    large = next(result for result in results(swept)[0] if result.point.bits == 4)
    best = {"robust": Accuracy(share, TEST), "file_bytes": file_bytes, "density": 0.01}
    small = dataclasses.replace(large, point=dataclasses.replace(large.point, **best))
    other = dataclasses.replace(large.point, robust=Accuracy(min(share, 120), TEST), file_bytes=1000)
    assert examined([dataclasses.replace(large, point=other), small]) is small


def test_pictures_tell_what_they_show(swept, page):
    told = " ".join(image["alt"] for image in page.images)
    best = examined(results(swept)[0])
    for weight in best.model().report().weights:
        nnz = sum(tensor.nnz for tensor in weight.tensors)
        assert f"{weight.name.removesuffix('.weight')} {nnz / np.prod(weight.shape):.2%} ({nnz:,})" in told
    assert "predicted 1 (correct)" in told
    assert "afterwards predicted 2 (misclassified)" in told
    curve = best.point.curve
    assert f"{curve.correct[4] / TEST:.1%} at 0.1" in told
    assert not list((swept / "figures").glob("security-AP*"))  # the one without a security curve


def test_weights_of_several_attacks_are_drawn_and_told(tmp_path):
    make_point(tmp_path, "DA")
    history = tmp_path / "DA-d1-b32-s0" / "history.jsonl"
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    history.write_text("".join(json.dumps(row | {"weight_inf": 0.75, "weight_2": 0.25}) + "\n" for row in rows))
    told = " ".join(image["alt"] for image in Page(write(tmp_path)).images)
    assert "Weights of the attacks: density 1 inf 0.75, 2 0.25" in told
    history.write_text("".join(json.dumps(row | {"weight_inf": 1.5}) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"weight_inf is 1\.5"):
        write(tmp_path)


def test_dense_points_alone_make_a_page(tmp_path):
    make_point(tmp_path, "DA", **BARE)
    page = Page(write(tmp_path, tmp_path / "out"))
    assert len(page.images) == 5
    assert "Codebooks" not in page.text
    assert (tmp_path / "out" / "figures" / "tradeoff-clean-file.png").exists()
    assert not (tmp_path / "report.html").exists()


def test_paper_stands_behind_its_own_data_only(tmp_path, page):
    assert curves("mnist", 76 / 255, "inf")
    assert not curves("digits", 0.1, "inf")
    make_point(tmp_path, "AP", 0.05, data="mnist", eps=76 / 255, **BARE)
    assert "points of the ATMC paper" in Page(write(tmp_path)).text
    assert "points of the ATMC paper" not in page.text


def test_names_are_text_and_nothing_else(tmp_path):
    nasty = '<script>alert("$x_{$")</script>'
    make_point(tmp_path, nasty, 0.1, **BARE, data='"><img src=x>', network="{{ 7 * 7 }}")
    finding = Finding("<b>", Severity.FAILED, "<i>&amp;")
    make_point(tmp_path, "DA", data='"><img src=x>', network="{{ 7 * 7 }}", findings=(finding,), **BARE)
    page = Page(write(tmp_path))
    assert page.tags.isdisjoint({"script", "b", "i"})
    assert nasty in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "<i>&amp;" in page.text
    assert all(image["src"].startswith("data:") for image in page.images)
    assert all(re.fullmatch(r"[\w.-]+\.(png|pdf|svg)", path.name) for path in (tmp_path / "figures").iterdir())


def test_failed_checks_stand_in_front(tmp_path, page):
    failed = Finding("vanishing gradients", Severity.FAILED, "31 % of the gradients are zero")
    warned = Finding("steps", Severity.WARNING, "more steps find 3 examples more")
    make_point(tmp_path, "DA", **BARE)
    for density in (0.1, 0.05):  # the same is said once
        make_point(tmp_path, "AL0", density, findings=(failed, warned, *PASSED), **BARE)
    doubted = Page(write(tmp_path))
    assert "31 % of the gradients are zero" in doubted.box("alarm")
    assert "(AL0 0.1, seed 0; AL0 0.05, seed 0)" in doubted.box("alarm")
    assert "more steps" not in doubted.box("alarm")
    assert "more steps" in doubted.box("care")
    assert doubted.source.index("31 %") < doubted.source.index("<table>")
    assert [cells[0] for cells in doubted.tables[0][2:] if "check failed" in cells[0]] == ["AL0 ⚠check failed"] * 2
    assert len(re.findall("<li>", doubted.box("alarm"))) == 1
    assert not page.box("alarm")
    assert not page.box("care")
    assert "All 8 self-checks of the evaluations passed." in page.text


def test_doubts_of_the_training_are_told_once(tmp_path):
    failed = Finding("steps", Severity.FAILED, "the gradients lead nowhere")
    doubts = ("no weight is left in conv1; raise the density", f"self-check failed, steps: {failed.sentence}")
    make_point(tmp_path, "AL0", 0.1, findings=(failed,), doubts=doubts, **BARE)
    page = Page(write(tmp_path))
    assert "<strong>training</strong>: no weight is left in conv1" in page.box("care")
    assert page.source.count(failed.sentence) == 1
    assert not Page(write(tmp_path)).box("care").count("self-check failed")


def damage_history(folder: Path) -> None:
    (folder / "history.jsonl").write_text('{"epoch": 1')


def empty_history(folder: Path) -> None:
    (folder / "history.jsonl").write_text("")


def cut_model(folder: Path) -> None:
    path = folder / "model.atmc"
    path.write_bytes(path.read_bytes()[:-7])


def other_model(folder: Path) -> None:
    network("AL0", 0.3, 32, 5).save(folder / "model.atmc")


def change_point(**changes):
    def change(folder: Path) -> None:
        path = folder / "point.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def change_epoch(**changes):
    def change(folder: Path) -> None:
        path = folder / "history.jsonl"
        rows = [json.loads(row) for row in path.read_text().splitlines()]
        rows[2] |= changes
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return change


def change_examples(**changes):
    def change(folder: Path) -> None:
        arrays = vars(Examples.load(folder))
        np.savez(folder / "examples.npz", **arrays | {name: change(arrays[name]) for name, change in changes.items()})

    return change


def no_examples(folder: Path) -> None:
    np.savez(folder / "examples.npz", **{name: array[:0] for name, array in vars(Examples.load(folder)).items()})


def other_evaluation(folder: Path) -> None:
    evaluation = Evaluation.load(folder / "evaluation.json")
    dataclasses.replace(evaluation, clean=np.ones(TEST, bool)).save(folder / "evaluation.json")


@pytest.fixture(scope="module")
def two_points(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    make_point(folder, "DA")
    make_point(folder, "AL0", 0.1)
    return folder


@pytest.mark.parametrize(
    ("break_", "reason"),
    [
        (lambda folder: (folder / "model.atmc").unlink(), "No such file.*model.atmc"),
        (lambda folder: (folder / "evaluation.json").unlink(), "No such file.*evaluation.json"),
        (lambda folder: (folder / "evaluation.json").write_text("{}"), "evaluation.json is not an evaluation"),
        (lambda folder: (folder / "point.json").write_text("{}"), "point.json is not a point.*recipe"),
        (lambda folder: (folder / "examples.npz").write_bytes(b"PK\3\4"), "examples.npz is damaged"),
        (damage_history, "history.jsonl is damaged"),
        (empty_history, "history.jsonl is empty"),
        (cut_model, "model.atmc"),
        (other_model, "disagree .bytes of model.atmc"),
        (other_evaluation, "disagree .clean examples"),
        (change_point(density=0), "point.json is damaged: density is 0"),
        (change_point(density=math.nan, bits=0), "density is nan; bits is 0"),
        (change_point(dense_bytes=0), "dense_bytes is 0"),
        (change_point(paper_ratio=0), "paper_ratio is 0"),
        (change_point(paper_ratio=1e308), "paper_ratio is 1e"),
        (change_point(nnz=10**40), "nnz is 10000"),
        (change_point(epochs=10**12), "epochs is 1000000000000"),
        (change_point(eps=math.inf), "eps is inf"),
        (change_point(clean={"correct": 5, "n": 0}), "clean is"),
        (change_point(robust={"correct": 9, "n": 5}), "robust is"),
        (change_point(attacks={"PGD-7": {"correct": -1, "n": 5}}), "PGD-7 is"),
        (change_point(curve={"attack": "P", "eps": [0.1], "correct": [], "n": 5}), "curve is"),
        (change_point(curve={"attack": "P", "eps": [], "correct": [], "n": 5}), "curve is"),
        (change_point(curve={"attack": "P", "eps": [math.nan], "correct": [1], "n": 5}), "curve is"),
        (change_point(curve={"attack": "P", "eps": [0.2, 0.1], "correct": [1, 1], "n": 5}), "curve is"),
        (change_epoch(clean_accuracy=math.nan), "history.jsonl is damaged: in epoch 3 clean_accuracy is nan"),
        (change_epoch(robust_accuracy=7), "in epoch 3 robust_accuracy is 7"),
        (change_epoch(loss=1e300), "in epoch 3 loss is 1e"),
        (change_epoch(violation=-1e300), "in epoch 3 violation is -1e"),
        (no_examples, r"examples.npz is damaged: .* x float32 .0, 1, 8, 8."),
        (change_examples(x=lambda x: x.astype(complex)), "examples.npz is damaged: .*complex"),
        (change_examples(x_adv=lambda x: x * np.nan), "examples.npz is damaged: it needs finite"),
        (change_examples(x=lambda x: x[:, 0]), "examples.npz is damaged"),
        (change_examples(y=lambda y: y.astype(str)), "examples.npz is damaged"),
        (change_examples(y=lambda y: np.int64(3)), "examples.npz is damaged"),
        (change_examples(predicted=lambda y: y[:-1]), "examples.npz is damaged"),
        (change_examples(y=lambda y: y.astype(object)), "examples.npz is damaged"),
    ],
)
def test_damaged_points_are_found_with_the_reason(two_points, tmp_path, break_, reason):
    shutil.copytree(two_points, tmp_path, dirs_exist_ok=True)
    break_(tmp_path / "AL0-d0.1-b32-s0")
    found, [left_out] = results(tmp_path)
    assert [result.point.recipe for result in found] == ["DA"]
    assert left_out.folder == "AL0-d0.1-b32-s0"
    assert re.search(reason, left_out.reason)
    assert str(tmp_path) not in left_out.reason


NUMBERS: st.SearchStrategy[Any] = st.sampled_from(
    [0, -1, 1e308, -1e308, 1e-308, math.nan, math.inf, 10**40, 10**400, "", "3", None, [], {}]
)


@given(st.data(), NUMBERS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_number_of_a_point_spoils_the_words_of_the_page(two_points, tmp_path, data, number):
    """Whatever stands in a field of a point, it is left out or told; the other point is there."""
    shutil.copytree(two_points, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "AL0-d0.1-b32-s0" / "point.json"
    point = json.loads(path.read_text())
    shared = {"data", "network", "eps", "norm", "attack", "attacks", "versions", "schema"}
    field = data.draw(st.sampled_from(sorted(set(point) - shared)))
    place = point
    while isinstance(place[field], dict | list) and place[field]:
        place = place[field]
        field = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[field] = number
    path.write_text(json.dumps(point))
    found, left_out = results(tmp_path)
    assert len(found) + len(left_out) == 2
    assert found[0].point.recipe == "DA"
    assert "on digits" in summary.headline(found)
    assert summary.rows(lines(found))[0].recipe == "DA"


@pytest.mark.parametrize(
    "change",
    [
        change_epoch(loss=math.nan),
        change_epoch(loss=math.inf),
        change_epoch(violation=math.nan),
        change_point(seconds=0.0, nnz=0, eps=0.1, paper_ratio=1e-12),
        change_point(network="\u8ca7", data="\x07 $x_{$"),
    ],
)
def test_odd_but_possible_figures_make_a_page(tmp_path, change):
    """A diverged training, a network without weights, and names that the font lacks."""
    make_point(tmp_path, "AL0", 0.1, **BARE)
    change(tmp_path / "AL0-d0.1-b32-s0")
    assert len(Page(write(tmp_path)).images) == 6


def test_points_left_out_are_named_in_the_page_and_in_a_warning(tmp_path):
    make_point(tmp_path, "DA", **BARE)
    make_point(tmp_path, "AL0", 0.1)
    empty_history(tmp_path / "AL0-d0.1-b32-s0")
    with pytest.warns(UserWarning, match=r"left out of the report: AL0-d0.1-b32-s0 \(history.jsonl is empty\)"):
        page = Page(write(tmp_path))
    assert "<strong>AL0-d0.1-b32-s0</strong>: history.jsonl is empty" in page.box("care")
    assert [cells[0] for cells in page.tables[0][2:]] == ["DA"]


def test_folders_without_points_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="art-atmc sweep"):
        write(tmp_path)
    make_point(tmp_path, "DA")
    empty_history(tmp_path / "DA-d1-b32-s0")
    with pytest.raises(ValueError, match=r"no complete point \(DA-d1-b32-s0: history.jsonl is empty\)"):
        write(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": "mnist"}, "data is 'digits' in DA-d1-b32-s0 and 'mnist' in AL0"),
        ({"network": "lenet"}, "network is"),
        ({"eps": 0.2}, "eps is 0.1 in DA-d1-b32-s0 and 0.2 in AL0"),
        ({"attack": "Natural()", "norm": "2"}, "norm is .*attack is"),
        ({"attacks": {"PGD-20": Accuracy(100, TEST)}}, "attacks of the test is 'PGD-7, paper' in .*'PGD-20'"),
    ],
)
def test_points_of_different_studies_are_refused(tmp_path, change, named):
    make_point(tmp_path, "AL0", 0.1)
    make_point(tmp_path, "DA")
    changed = dataclasses.replace(Point.load(tmp_path / "AL0-d0.1-b32-s0"), **change)
    changed.save(tmp_path / "AL0-d0.1-b32-s0")
    with pytest.raises(ValueError, match=f"can't be compared: {named}"):
        write(tmp_path)


sizes = st.lists(st.sampled_from([0.001, 0.05, 0.0501, 0.1, 0.2, 1.0]), min_size=1, max_size=6, unique=True)


@given(st.lists(sizes, min_size=1, max_size=7))
@settings(max_examples=60, deadline=None)
def test_points_that_share_a_size_stand_apart_and_near_it(lines):
    """No two points of different lines cover one another, the order of the sizes stays, and room is not used up."""
    drawn = side_by_side(lines)
    flat = [(math.log10(x), n, math.log10(place)) for n, line in enumerate(lines)
            for x, place in zip(line, drawn[n], strict=True)]  # fmt: skip
    width = max(x for x, _, _ in flat) - min(x for x, _, _ in flat) or 1.0
    least = width * min(0.016, 0.5 / len(flat))
    for (x, n, place), (other, m, there) in itertools.combinations(sorted(flat), 2):
        assert n == m or abs(place - there) >= least - 1e-9
        assert place <= there + 1e-9 or (x == other and n > m)
    assert all(abs(place - x) <= least * len(flat) for x, _, place in flat)
    lonely = [(x, place) for x, n, place in flat if all(abs(x - o) > least * len(flat) for o, m, _ in flat if m != n)]
    assert all(place == pytest.approx(x) for x, place in lonely)


def test_points_of_one_line_stay_where_they_are():
    line = [0.1, 0.1001, 0.2]
    assert side_by_side([line]) == [pytest.approx(line)]


def test_methods_are_told_apart_by_colour_and_marker():
    names = ["DA", "NAP", "AP", "AL0", "ALR", "ATMC-32", "ATMC-8", "ATMC-4", "ATMC-2", "mine"]
    styles = looks(names)
    for part in ("color", "marker"):
        assert len({style[part] for style in styles.values()}) == len(names)
    assert looks(["ATMC-8"])["ATMC-8"] == styles["ATMC-8"]


def test_report_leaves_no_trace_in_matplotlib(tmp_path):
    import matplotlib as mpl

    make_point(tmp_path, "DA", **BARE)
    name = "figures/tradeoff-clean-file.png"
    write(tmp_path)
    plain = (tmp_path / name).read_bytes()
    before = dict(mpl.rcParams)
    mpl.rcParams["axes.facecolor"] = "red"
    try:
        write(tmp_path)
        assert mpl.rcParams["axes.facecolor"] == "red"
    finally:
        mpl.rcParams["axes.facecolor"] = before["axes.facecolor"]
    assert dict(mpl.rcParams) == before
    assert (tmp_path / name).read_bytes() == plain


def test_missing_matplotlib_is_named_with_its_extra():
    code = "import sys; sys.modules['matplotlib'] = None; import art_atmc.experiments.report"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'art-atmc[report]'" in result.stderr
    assert "ImportError" in result.stderr


CHROMIUM = shutil.which("chromium")
PROBE = """<!DOCTYPE html><iframe src="report.html" width="{width}" height="800" style="border: 0"></iframe><pre></pre>
<script>
onload = () => {{
  const inner = document.querySelector("iframe").contentDocument, root = inner.documentElement;
  const wide = [...inner.querySelectorAll("body, main, p, h1, h2, figure, img, .scroll, .box")].filter(
    element => element.getBoundingClientRect().right > {width} + 0.5);
  document.querySelector("pre").textContent = JSON.stringify({{
    overflow: root.scrollWidth - root.clientWidth,
    wide: wide.map(element => element.tagName),
    images: inner.images.length,
    broken: [...inner.images].filter(image => !image.complete || image.naturalWidth === 0).length,
    columns: getComputedStyle(inner.querySelector(".pictures")).gridTemplateColumns.split(" ").length,
    page: getComputedStyle(inner.body).backgroundColor,
  }});
}};
</script>"""


def chromium(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    # The sandbox does not start for root, as in containers; the page is our own.
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    return subprocess.run(
        [CHROMIUM, *options, "--allow-file-access-from-files", profile, *arguments],  # type: ignore[list-item]
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.parametrize(("width", "columns"), [(360, 1), (1400, 2)])
def test_browser_shows_the_page_at_its_width(swept, page, tmp_path, width, columns):
    shutil.copy(swept / "report.html", tmp_path)
    (tmp_path / "probe.html").write_text(PROBE.format(width=width))
    probe = (tmp_path / "probe.html").as_uri()
    shown = {}
    for scheme in (0, 1):  # dark, light
        shown[scheme] = chromium(tmp_path, f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom", probe)
        told = json.loads(html.unescape(re.search("<pre>(.*?)</pre>", shown[scheme].stdout).group(1)))
        assert told.pop("page") == ("rgb(21, 23, 26)", "rgb(255, 255, 255)")[scheme]
        assert told == {"overflow": 0, "wide": [], "images": len(page.images), "broken": 0, "columns": columns}
        assert "CONSOLE" not in shown[scheme].stderr
    screenshot = tmp_path / "shot.png"
    report = (tmp_path / "report.html").as_uri()
    result = chromium(tmp_path, f"--screenshot={screenshot}", f"--window-size={width},900", "--hide-scrollbars", report)
    assert "CONSOLE" not in result.stderr
    png = screenshot.read_bytes()
    assert int.from_bytes(png[16:20], "big") == width
    assert len(png) > 20_000  # an empty page compresses to a few thousand bytes
