"""What the benchmarks share: one thread, interleaved timing, and a ratio that is printed and recorded."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

MNIST = Path(__file__).parent.parent.parent / "shared" / "data" / "mnist"


@pytest.fixture(scope="module")
def mnist():
    if not MNIST.exists():
        pytest.skip(f"needs the MNIST files in {MNIST.name}/ beside the checkout's shared data")
    from art_atmc.data import load

    data = load("mnist", MNIST)
    return data.x_train[:512], data.y_train[:512]


@pytest.fixture
def compare(benchmark):
    """Time two functions in turns, so that a busy machine slows both alike, and print the ratio of their medians."""

    def run(name: str, ours: Callable[[], object], theirs: Callable[[], object], *, at_most: float, rounds: int = 7):
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for function in (ours, theirs):
            function()  # warm up
        for _ in range(rounds):
            for side, function in (("ours", ours), ("theirs", theirs)):
                started = time.perf_counter()
                function()
                seconds[side].append(time.perf_counter() - started)
        a, b = (statistics.median(seconds[side]) for side in ("ours", "theirs"))
        verdict = "reached" if a / b <= at_most else "MISSED"
        print(f"\n{name}: {1e3 * a:.1f} ms against {1e3 * b:.1f} ms, ratio {a / b:.3f}, to reach {at_most} ({verdict})")
        benchmark.extra_info |= {"ratio": a / b, "to_reach": at_most, "ours_s": a, "theirs_s": b}
        benchmark.pedantic(ours, rounds=1, iterations=1)
        return a / b

    return run


@pytest.fixture
def report(benchmark):
    """Print a measured figure beside the one to reach, and record both."""

    def run(name: str, measured: float, to_reach: float, unit: str = "") -> None:
        verdict = "reached" if measured <= to_reach else "MISSED"
        print(f"\n{name}: {measured:.6g}{unit}, to reach {to_reach}{unit} ({verdict})")
        benchmark.extra_info |= {"measured": measured, "to_reach": to_reach}

    return run
