"""The codebook: seconds and extra memory at 10^6 values, error against the exact optimum and k-means at 10^5."""

from __future__ import annotations

import subprocess
import sys
import time

import kmeans1d
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from art_atmc.compression.codebook import fit_codebook, nearest_code

CODES = 256


def laplace(count):
    return torch.from_numpy(np.random.default_rng(20261122).laplace(0, 0.02, count).astype(np.float32))


def samples(count):
    rng = np.random.default_rng(20261122)
    spikes = np.where(rng.random(count) < 0.5, rng.choice(rng.normal(0, 0.05, 300), count), rng.laplace(0, 0.02, count))
    drawn = {
        "normal": rng.normal(size=count),
        "uniform": rng.random(count),
        "cauchy": rng.standard_cauchy(count),
        "lognormal": rng.lognormal(0, 2, count),
        "mixture": np.append(rng.normal(-3, 0.1, count // 2), rng.normal(2, 1, count - count // 2)),
        "spikes": spikes,
    }
    return {"laplace": laplace(count)} | {name: torch.from_numpy(v.astype(np.float32)) for name, v in drawn.items()}


def error(values, centres):
    values, centres = values.double(), torch.as_tensor(centres).double().unique()
    return float((values - nearest_code(values, centres)).square().sum())


def test_cold_seconds(benchmark, report):
    values = laplace(10**6)
    benchmark.pedantic(fit_codebook, (values, CODES), rounds=5, warmup_rounds=1)
    report("codebook of 10^6 values, 256 codes, cold", benchmark.stats.stats.median, 0.6, " s")


def test_warm_seconds(benchmark, report):
    values = laplace(10**6)
    start = fit_codebook(values, CODES)
    moved = values + 2e-4 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    benchmark.pedantic(fit_codebook, (moved, CODES), {"start": start}, rounds=20, warmup_rounds=1)
    report("codebook of 10^6 values, 256 codes, warm", 1e3 * benchmark.stats.stats.median, 25, " ms")
    ratio = error(moved, fit_codebook(moved, CODES, start=start)) / error(moved, fit_codebook(moved, CODES))
    print(f"error of the warm codebook, values moved by 1 % of their scale: {ratio:.4f} of the cold one")
    benchmark.extra_info["warm_error"] = ratio


@pytest.mark.parametrize(("warm", "to_reach"), [(False, 15), (True, 1)], ids=["cold", "warm"])
def test_milliseconds_of_a_small_tensor(benchmark, report, warm, to_reach):
    values = laplace(5000)
    start = fit_codebook(values, 16) if warm else None
    moved = values * 1.001
    benchmark.pedantic(fit_codebook, (moved, 16), {"start": start}, rounds=20, warmup_rounds=1)
    name = f"codebook of 5000 values, 16 codes, {'warm' if warm else 'cold'}"
    report(name, 1e3 * benchmark.stats.stats.median, to_reach, " ms")


# Growth of the resident set to its peak, in a process of its own, so that memory of torch and numpy counts alike.
MEMORY = """
import numpy as np, torch
from pathlib import Path
from art_atmc.compression.codebook import fit_codebook
def kilobytes(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(key))
torch.set_num_threads(1)
values = torch.from_numpy(np.random.default_rng(20261122).laplace(0, 0.02, 10**6).astype(np.float32))
start = fit_codebook(values[:5000], 256) if {warm} else None
fit_codebook(values[:5000], 256, start=start)
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
before = kilobytes("VmRSS")
fit_codebook(values, 256, start=start)
print((kilobytes("VmHWM") - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_extra_megabytes(benchmark, report, warm):
    def measure():
        script = MEMORY.format(warm=warm)
        return float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)

    megabytes = benchmark.pedantic(measure, rounds=1)
    name = f"codebook of 10^6 values, 256 codes, {'warm' if warm else 'cold'}, extra memory"
    report(name, megabytes, 64, " MB")


@pytest.mark.parametrize("size", [4, 16, CODES])
def test_error_against_the_exact_optimum(benchmark, report, size):
    ratios = {}
    for name, values in samples(10**5).items():
        optimum = error(values, kmeans1d.cluster(values.tolist(), size)[1])
        ratios[name] = error(values, fit_codebook(values, size)) / optimum
    print("\n" + ", ".join(f"{name} {ratio:.5f}" for name, ratio in ratios.items()))
    report(f"largest error over the exact optimum, 10^5 values, {size} codes", max(ratios.values()), 1.003)
    benchmark.extra_info["ratios"] = ratios
    benchmark.pedantic(fit_codebook, (laplace(10**5), size), rounds=3)


def test_against_the_exact_program_and_scikit_learn(benchmark):
    values = laplace(10**5)
    column, listed = values[:, None].numpy(), values.tolist()

    def scikit_learn():
        return KMeans(CODES, n_init=1, random_state=0).fit(column).cluster_centers_.ravel()

    results, seconds = {}, {}
    searches = {
        "ours": lambda: fit_codebook(values, CODES),
        "kmeans1d": lambda: kmeans1d.cluster(listed, CODES)[1],
        "scikit-learn": scikit_learn,
    }
    for name, search in searches.items():
        started = time.perf_counter()
        results[name] = error(values, search())
        seconds[name] = time.perf_counter() - started
    print()
    for name in searches:
        quicker, nearer = seconds[name] / seconds["ours"], results[name] / results["kmeans1d"]
        print(
            f"10^5 values, 256 codes, {name}: {seconds[name]:.2f} s, {quicker:.1f}x ours, error {nearer:.5f}x optimum"
        )
    benchmark.extra_info |= {"seconds": seconds, "errors": results}
    benchmark.pedantic(fit_codebook, (values, CODES), rounds=3)
