"""The figures that pages quote, each from one record, so that no page can disagree with another.

    python docs/results/figures.py

reads the records beside this file, writes ``figures.json``, and fills every table that stands between
``<!-- figures: NAME -->`` and ``<!-- end of figures -->`` in the README and the pages. A test fails where that would
change anything.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from art_atmc.evaluation import Evaluation
from art_atmc.support.statistics import wilson

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FIGURES = HERE / "figures.json"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One claim: what was measured, what came out, how far it spreads, and all that it takes to measure it again.

    What newer figures have overtaken is no headline: it stays in its record and on its page.
    """

    what: str
    value: str
    spread: str
    command: str
    machine: str
    record: str
    headline: bool = True

    def row(self) -> tuple[str, ...]:
        page = self.record.split("/")[0].removesuffix(".json")
        return self.what, self.value, self.spread, f"[{page}](docs/results/{page}.md)"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def kilobytes(count: float) -> str:
    return f"{count / 1000:.1f}"


def read(path: str) -> Any:
    return json.loads((HERE / path).read_text(encoding="utf-8"))


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / path).read_text(encoding="utf-8").splitlines()]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *rows))


# Digits: one metrics.json a seed, as `art-atmc train` wrote it


def digits_runs() -> list[dict[str, Any]]:
    return [read(f"digits/{path.name}") for path in sorted((HERE / "digits").glob("seed*.json"))]


def digits_figures() -> list[Figure]:
    runs = digits_runs()
    machine = runs[0]["machine"]
    packages = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "numpy"))

    def figure(what: str, values: Sequence[float], shape: Callable[[float], str], unit: str) -> Figure:
        return Figure(
            what=f"digits, {what}",
            value=f"{shape(mean(values))} {unit}",
            spread=f"{shape(min(values))} to {shape(max(values))}, {len(values)} seeds",
            command=f"art-atmc train --data digits --seeds {len(runs)} --output OUT",
            machine=f"one thread, {machine['processor']}, {packages}",
            record="digits/seed*.json",
        )

    networks = {"dense": "dense", "compressed": "density 0.05, 4 bits"}
    accuracies = {"clean_accuracy": "clean accuracy", "robust_accuracy": "robust accuracy under PGD"}
    found = [
        figure(f"{name}: {what}", [run[network][key] for run in runs], percent, "%")
        for key, what in accuracies.items()
        for network, name in networks.items()
    ]
    found += [
        figure(f"{name}: worst case of the suite `standard`", digits_worst(network), percent, "%")
        for network, name in networks.items()
    ]
    return found + [
        figure(f"{name}: file", [run[network]["file_bytes"] for run in runs], kilobytes, "kB")
        for network, name in networks.items()
    ]


def digits_worst(network: str) -> list[float]:
    """What `art-atmc evaluate` left of each seed's network."""
    paths = sorted((HERE / "digits" / "standard").glob(f"seed*-{network}.json"))
    return [Evaluation.load(path).robust_accuracy for path in paths]


def digits_table() -> str:
    def cells(run: dict[str, Any], network: str) -> tuple[str, ...]:
        found, seed = run[network], run["settings"]["seed"]
        accuracies = [
            f"{percent(found[f'{kind}_accuracy'])} [{', '.join(percent(end) for end in found[f'{kind}_interval'])}]"
            for kind in ("clean", "robust")
        ]
        size = f"{found['paper_bits'] / 8000:.1f} kB"
        row = (str(seed), network, f"{found['nnz']:,}", size, kilobytes(found["file_bytes"]))
        return *row, *accuracies, percent(digits_worst(network)[seed])

    header = ("seed", "network", "non-zeros", "size, paper's count", "file, kB")
    header += ("clean, % [95 % interval]", "robust, % [95 % interval]", "worst case, %")
    return markdown(header, [cells(run, network) for run in digits_runs() for network in ("dense", "compressed")])


def digits_means_table() -> str:
    """Each figure over the seeds: mean (least to greatest)."""
    runs = digits_runs()

    def over(values: Sequence[float], shape: Callable[[float], str]) -> str:
        return f"{shape(mean(values))} ({shape(min(values))} to {shape(max(values))})"

    rows = [
        (
            network,
            over([run[network]["clean_accuracy"] for run in runs], percent),
            over([run[network]["robust_accuracy"] for run in runs], percent),
            over(digits_worst(network), percent),
            over([run[network]["file_bytes"] for run in runs], kilobytes),
        )
        for network in ("dense", "compressed")
    ]
    return markdown(("network", "clean, %", "robust under PGD, %", "worst case of `standard`, %", "file, kB"), rows)


# Small budgets on digits: one point.json a line, as `art-atmc train --suite standard` wrote it


def budgets() -> list[tuple[float, int, list[dict[str, Any]]]]:
    """(density, bits, points of all seeds), from the largest to the smallest."""
    points = lines("digits/budgets.jsonl")
    sizes = sorted({(p["density"], p["bits"]) for p in points}, reverse=True)
    return [(*size, [p for p in points if (p["density"], p["bits"]) == size]) for size in sizes]


def bits_of(number: int) -> str:
    return f"{number} bit{'s' if number > 1 else ''}"


def budget_figures() -> list[Figure]:
    def figure(density: float, bits: int, points: list[dict[str, Any]]) -> Figure:
        shares = [p["robust"]["correct"] / p["robust"]["n"] for p in points]
        return Figure(
            what=f"digits, density {density:g}, {bits_of(bits)}: worst case of the suite `standard`",
            value=f"{percent(mean(shares))} %",
            spread=f"{percent(min(shares))} to {percent(max(shares))}, {len(points)} seeds",
            command=f"art-atmc train --data digits --density {density:g} --bits {bits} --suite standard --no-dense "
            f"--seeds {len(points)} --output OUT",
            machine=", ".join(f"{name} {version}" for name, version in points[0]["versions"].items()),
            record="digits/budgets.jsonl",
        )

    return [figure(*budget) for budget in budgets()]


def budgets_table() -> str:
    def row(density: float, bits: int, points: list[dict[str, Any]]) -> tuple[str, ...]:
        shares = [p["robust"]["correct"] / p["robust"]["n"] for p in points]
        sizes = [p["file_bytes"] / 1000 for p in points]
        return (
            f"{density:g}, {bits_of(bits)}",
            f"{round(mean(p['nnz'] for p in points)):,}",
            f"{mean(sizes):.2f}",
            percent(accuracy(points, "clean")),
            percent(accuracy(points, "robust")),
            " ".join(percent(share) for share in shares),
        )

    header = ("density", "non-zeros", "file, kB", "clean, %", "worst case, %", "each seed")
    return markdown(header, [row(*budget) for budget in budgets()])


# Sweeps: one line a network, as `art-atmc sweep` and `art-atmc reproduce` wrote it


def accuracy(points: Sequence[dict[str, Any]], kind: str) -> float:
    return float(mean(point[kind]["correct"] / point[kind]["n"] for point in points))


def mnist_figures() -> list[Figure]:
    """Of one network each, so that the spread is Wilson's 95 % interval."""

    def figure(what: str, point: dict[str, Any], kind: str) -> Figure:
        correct, n = point[kind]["correct"], point[kind]["n"]
        low, high = wilson(correct, n)
        return Figure(
            what=f"MNIST, LeNet, {point['epochs']} epochs, {what}",
            value=f"{percent(correct / n)} %",
            spread=f"{percent(low)} to {percent(high)}, 95 % interval of one network",
            command="art-atmc reproduce mnist, see the page",
            machine=", ".join(f"{name} {version}" for name, version in point["versions"].items()),
            record="mnist/panel.jsonl",
            headline=False,
        )

    points = lines("mnist/panel.jsonl")
    [dense] = [p for p in points if p["recipe"] == "DA"]
    [small] = [p for p in points if p["recipe"] == "ATMC-b" and p["density"] == 0.05]
    names = {"dense": dense, "density 0.05, 8 bits": small}
    return [
        figure(f"{name}: {shown}", point, kind)
        for kind, shown in (("clean", "clean accuracy"), ("robust", "worst case of three attacks"))
        for name, point in names.items()
    ] + recycled_figures()


def recycled_figures() -> list[Figure]:
    """Of the networks that were tested, of one seed each."""
    suites = {
        "short": "worst case of three attacks",
        "standard": "worst case under `standard`",
        "paper": "the paper's attack alone",
    }

    def figure(run: dict[str, Any]) -> Figure:
        test = run["test"]
        low, high = wilson(test["worst_case"], test["n"])
        kind = "dense" if run["kind"] == "dense" else f"{run['file_bytes'] / 1000:.1f} kB"
        return Figure(
            what=f"MNIST, {run['network']}, {kind}, kept perturbations, {run['cpu_seconds']} CPU s: "
            f"{suites[test['suite']]}",
            value=f"{percent(test['worst_case'] / test['n'])} %",
            spread=f"{percent(low)} to {percent(high)}, 95 % interval of one network, {test['n']:,} test images",
            command="python benchmarks/robust.py, see the page",
            machine=run.get("machine", "one thread of an AMD EPYC with AVX-512 bf16, torch 2.13.0"),
            record="mnist/recycled.jsonl",
            headline=not run.get("overtaken", False),
        )

    return [figure(run) for run in lines("mnist/recycled.jsonl") if run["test"]]


def density_table() -> str:
    """What each density leaves: the worst case of three attacks, beside the dense network of the same epochs."""

    def rows(name: str, path: str, bits: int) -> list[tuple[str, ...]]:
        points = lines(path)
        sizes = sorted({p["density"] for p in points if p["recipe"] == "ATMC-b"}, reverse=True)
        groups = [(1.0, [p for p in points if p["recipe"] == "DA"])]
        groups += [(d, [p for p in points if p["recipe"] == "ATMC-b" and p["density"] == d]) for d in sizes]
        return [
            (
                name,
                f"{density:g}, {bits} bits" if density < 1 else "dense",
                f"{round(mean(p['nnz'] for p in found)):,}",
                f"{mean(p['file_bytes'] for p in found) / 1000:.1f}",
                percent(accuracy(found, "clean")),
                percent(accuracy(found, "robust")),
                str(len(found)),
            )
            for density, found in groups
        ]

    header = ("data", "density", "non-zeros", "file, kB", "clean, %", "robust, %", "seeds")
    return markdown(header, [*rows("digits", "frontier/points.jsonl", 4), *rows("MNIST", "mnist/panel.jsonl", 8)])


# Benchmarks: written down after a run of `make bench` on an idle machine


def benchmark_figures() -> list[Figure]:
    record = read("benchmarks.json")

    def figure(what: str, value: str) -> Figure:
        return Figure(what, value, "one run", record["command"], record["machine"], "benchmarks.json")

    found = [figure(row["headline"], row["value"]) for row in record["figures"] if row["headline"]]
    for row in record["files"]:
        if row["network"] in ("LeNet 0.01, 4", "ResNet-34 0.01, 8") and row["factors"] == "V":
            network, density, bits = row["network"].replace(",", "").split()
            what = f"file of {network}, density {density}, {bits} bits, random weights, against its entropy bound"
            found.append(figure(what, f"{row['file'] / row['bound']:.2f} times, {row['file'] / 1000:.1f} kB"))
    half = record["latency"][0]
    what = f"latency of {half['network']} without half of its filters (art-atmc-structured), batch 64"
    return [*found, figure(what, f"{half['batch_64']:.2f} of the dense one's")]


def benchmarks_table(name: str) -> str:
    rows = [
        (
            row["what"],
            row["value"] + (f" ({row['detail']})" if row["detail"] else ""),
            row["to_reach"],
            "reached" if row["reached"] else "**missed**",
        )
        for row in read("benchmarks.json")["figures"]
        if row["table"] == name
    ]
    return markdown(("what", "measured", "to reach", "outcome"), rows)


def files_table() -> str:
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        sizes = (f"{row[key]:,}" for key in ("bound", "file", "onnx"))
        share = (row["file"] - 1024) / row["bound"]
        onnx = row["onnx"] / row["file"]
        return (
            row["network"],
            row["factors"],
            *sizes,
            f"{share:.3f}",
            f"{onnx:.2f}" if onnx <= 1.8 else f"**{onnx:.2f}**",
        )

    header = ("network, density, bits", "factors", "bound", "file", "ONNX")
    limits = ("(file - 1 KB) / bound, to reach 1.03", "ONNX / file, to reach 1.8")
    return markdown((*header, *limits), [cells(row) for row in read("benchmarks.json")["files"]])


def latency_table() -> str:
    rows = [
        (row["network"], f"{row['batch_1']:.2f}", f"{row['batch_64']:.2f}")
        for row in read("benchmarks.json")["latency"]
    ]
    return markdown(("network", "batch 1", "batch 64"), rows)


def figures() -> list[Figure]:
    return [*digits_figures(), *budget_figures(), *mnist_figures(), *benchmark_figures()]


def summary_table() -> str:
    return markdown(("what", "measured", "spread", "how"), [f.row() for f in figures() if f.headline])


TABLES: dict[str, Callable[[], str]] = {
    "summary": summary_table,
    "digits": digits_table,
    "digits_means": digits_means_table,
    "budgets": budgets_table,
    "density": density_table,
    "training": lambda: benchmarks_table("training"),
    "evaluation": lambda: benchmarks_table("evaluation"),
    "files": files_table,
    "latency": latency_table,
}


def filled() -> dict[Path, str]:
    """What ``figures.json`` and every page with a table should hold."""
    wanted = {FIGURES: json.dumps([dataclasses.asdict(figure) for figure in figures()], indent=1) + "\n"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)
        if TABLE.search(text):
            wanted[page] = new
    return wanted


if __name__ == "__main__":
    for path, text in filled().items():
        path.write_text(text, encoding="utf-8")
