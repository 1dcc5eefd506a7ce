"""Use files with errors in them in every way; the tests do so with a few thousand, ``make fuzz`` with 100,000.

A mutant is *damaged*: bytes of a file were changed, which its digest must show; or *forged*: manifest, index or payload
were changed and the digest fits them, as an attacker would do. :func:`outcome` says what may become of either;
anything else is an exception, which ends the run.

    python tests/fuzz.py --mutants 100000 --seed 0
    python tests/fuzz.py --mutants 1 --seed 0 --first 4711        # one of them again
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import functools
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mutants import Sample, damaged, forged, samples
from torch import nn

from art_atmc import CompressedModel
from art_atmc.files.state_names import torch_names

MAX_BYTES = 1 << 22
SECONDS = 1.0  # of this process, so that a busy machine changes nothing
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")


def mutant(rng: random.Random, path: Path) -> str:
    """Make a mutant, use it, and say what became of it."""
    if rng.randrange(2):
        sample, data = forged(rng)
        return f"forged: {outcome(sample, data, path, digest_fits=True)}"
    sample, data = damaged(rng)
    return f"damaged: {outcome(sample, data, path, digest_fits=False)}"


def outcome(sample: Sample, data: bytes, path: Path, *, digest_fits: bool) -> str:
    """Load and use ``data`` in every way, and say how far that went.

    It is refused with a ``ValueError``. Or, when damaged, it is the very model that was saved; when forged, tensors of
    the shapes that the index announces, in the module bit for bit or not at all. Within a second; nothing is executed.
    """
    path.unlink(missing_ok=True)  # some file systems flush a file that is overwritten, which takes longest of all
    path.write_bytes(data)
    module = sample.build()
    started = time.process_time()
    with nothing_executed():
        try:
            loaded = CompressedModel.load(path, max_bytes=MAX_BYTES)
        except ValueError:
            reached = "refused when loaded"
        else:
            reached = _used(loaded, sample, module) if digest_fits else _same(loaded, sample.model)
    assert time.process_time() - started < SECONDS, f"took {time.process_time() - started:.1f} seconds"
    return reached


def _same(loaded: CompressedModel, model: CompressedModel) -> str:
    assert loaded.manifest == model.manifest
    assert loaded.index == model.index
    assert dict(loaded.tensors) == dict(model.tensors)
    return "the model that was saved"


def _used(loaded: CompressedModel, sample: Sample, module: nn.Module) -> str:
    uses = {
        "restore": lambda: _restore(loaded, module),
        "state_dict": lambda: _read(loaded),
        "verify": lambda: _verify(loaded, sample),
        "report": lambda: _report(loaded),
    }
    refused = [name for name, use in uses.items() if _refuses(use)]
    return f"refused by {', '.join(refused)}" if refused else "another model"


def _refuses(use: Callable[[], None]) -> bool:
    try:
        use()
    except ValueError:
        return True
    return False


def _restore(loaded: CompressedModel, module: nn.Module) -> None:
    before = {name: _bits(tensor) for name, tensor in module.state_dict().items()}
    try:
        loaded.restore(module)
    except ValueError:
        assert {name: _bits(tensor) for name, tensor in module.state_dict().items()} == before, "written in part"
        raise
    names, state = torch_names(module), module.state_dict()
    for name, tensor in loaded.decoded().items():
        assert _bits(state[names.get(name, name)]) == _bits(tensor), name


def _read(loaded: CompressedModel) -> None:
    for name, tensor in loaded.state_dict().items():
        stored = loaded.index.tied.get(name, f"{name}.C" if name in loaded.index.factored else name)
        assert list(tensor.shape) == loaded.index.tensors[stored].shape, name


def _verify(loaded: CompressedModel, sample: Sample) -> None:
    if loaded.manifest.constraints != sample.model.manifest.constraints:
        loaded.verify()  # slow, as it looks for plug-ins
    for name in loaded.manifest.members:
        loaded.member(name).verify()
    for constraint in sample.constraints:
        constraint.violation(loaded.weights())


def _report(loaded: CompressedModel) -> None:
    report = loaded.report()
    report.to_json()
    str(report)
    str(loaded.manifest.table())
    repr(loaded)


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


_watched: list[str] = []


@contextmanager
def nothing_executed() -> Iterator[None]:
    """Fail where something is unpickled, or a process or connection started."""
    _install_audit()
    _watched.clear()
    yield
    assert not _watched, _watched


@functools.cache
def _install_audit() -> None:
    def audit(event: str, _: object) -> None:
        if event in FORBIDDEN:
            _watched.append(event)

    sys.addaudithook(audit)


def kilobytes(key: str) -> int:
    """One figure of Linux about this process, such as ``VmHWM``, the peak of its memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--megabytes", type=int, default=256, help="most memory beyond what Python and torch take")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples()
    warnings.simplefilter("error")
    limit = 1024 * kilobytes("VmSize") + (options.megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    counts: collections.Counter[str] = collections.Counter()
    before, started = kilobytes("VmRSS"), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.first, options.first + options.mutants):
            if number % 1000 == 0:
                faulthandler.dump_traceback_later(1000, exit=True)  # a crash or a hang shows where
            try:
                counts[mutant(random.Random(f"{options.seed} {number}"), Path(folder, "mutant.atmc"))] += 1
            except BaseException:
                print(f"mutant {number} of seed {options.seed}:", file=sys.stderr)
                raise
    seconds = time.perf_counter() - started
    for name, count in counts.most_common():
        print(f"{count:>9,}  {name}")
    print(f"{options.mutants:,} mutants of seed {options.seed}, {options.mutants / seconds:.0f} a second,", end=" ")
    print(f"at most {(kilobytes('VmHWM') - before) / 1024:.0f} MB of memory; nothing else came of any")


if __name__ == "__main__":
    main()
