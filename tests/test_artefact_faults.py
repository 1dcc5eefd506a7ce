"""Files that are damaged, foreign or malicious, and saves that are cut short."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pickle
import random
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from fuzz import SECONDS, kilobytes, mutant, nothing_executed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutants import Small, Tied, forge, forge_1, forge_text, samples
from torch import nn

from art_atmc import CompressedModel
from art_atmc.files.container import HEADER, MAX_TEXT, Entry, Index, framed
from art_atmc.files.encoding import EncodedTensor, decode, encode
from art_atmc.files.range_coding import RangeEncoder, put_symbols

MEGABYTES = 256
LINUX = sys.platform == "linux"
needs_linux = pytest.mark.skipif(not LINUX, reason="forks, and limits sizes of files")
RAW = {"dtype": "float32", "shape": [2, 2], "bytes": 16}
FACTORS = {f"a.{factor}": RAW for factor in "UVC"}


@pytest.fixture(autouse=True)
def bounded_memory():
    """No test of this file takes much memory, whatever the files announce."""
    samples()
    if LINUX:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before = kilobytes("VmRSS")
    yield
    assert not LINUX or kilobytes("VmHWM") - before < 1024 * MEGABYTES


@contextmanager
def refused(sentence, error=ValueError):
    """Expect an error within a second of this process, and nothing executed."""
    started = time.process_time()
    with nothing_executed(), pytest.raises(error, match=sentence) as caught:
        yield caught
    assert time.process_time() - started < SECONDS


@pytest.fixture
def load(tmp_path):
    """A function that loads bytes as a file."""

    def load_bytes(data, **options):
        (tmp_path / "model.atmc").write_bytes(data)
        return CompressedModel.load(tmp_path / "model.atmc", **options)

    return load_bytes


@pytest.fixture(scope="module")
def mutant_path(tmp_path_factory):
    return tmp_path_factory.mktemp("mutants") / "mutant.atmc"


def forged(tensors=None, payload=b"", manifest=None, **index):
    """A file whose digest fits; without ``tensors``, of the first sample."""
    described, fields = map(json.loads, samples()[0].texts)
    if tensors is None:
        payload = samples()[0].payload
    else:
        fields = {"tensors": tensors, "factored": [], "compressed": [], "tied": {}, "positions": {}}
    return forge(json.dumps(described | (manifest or {})), json.dumps(fields | index), payload)


def state_of(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_unchanged(module, before):
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# Mutants: see fuzz.py for what is asked of each.


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_mutants_are_refused_or_harmless(mutant_path, rng):
    mutant(rng, mutant_path)


def test_mutants_reach_every_depth(mutant_path):
    """Mutants that are all refused at the door would show nothing of what is behind it."""
    reached = {mutant(random.Random(f"depth {number}"), mutant_path) for number in range(400)}
    assert {"damaged: refused when loaded", "forged: refused when loaded", "forged: another model"} <= reached
    assert any("restore" in depth for depth in reached)


@pytest.mark.parametrize("number", range(6))
def test_sound_files_are_accepted(load, number):
    sample = samples()[number]
    contents = (*sample.texts, sample.payload)
    for data in (sample.data, forge(*contents), forge_1(*contents)):
        loaded = load(data)
        assert dict(loaded.tensors) == dict(sample.model.tensors)
        loaded.restore(sample.build())


def test_samples_have_every_form():
    forms = {tensor.form for sample in samples() for tensor in sample.model.tensors.values()}
    assert forms == {"raw", "codes", "positions", "positions + codes"}


# Damage


def test_file_that_was_cut_off_is_refused(load):
    sample = samples()[0]
    for data in (sample.data, forge_1(*sample.texts, sample.payload)):
        for length in range(0, len(data), 41):
            with refused("or it was cut off|it is damaged or was cut off"):
                load(data[:length])


def test_flipped_bit_is_found(load):
    sample = samples()[0]
    for place in range(0, len(sample.data), 13):
        data = bytearray(sample.data)
        data[place] ^= 1 << place % 8
        with refused("it is damaged or was cut off: .*; copy it again" if place > 4 else r"model\.atmc: "):
            load(data)


def test_records_in_another_order_are_refused(load):
    tensors = samples()[2].model.tensors
    records = [tensor.record for tensor in tensors.values()]
    i, j = next(
        (i, j)
        for (i, one), (j, other) in itertools.combinations(enumerate(records), 2)
        if one != other and len(one) == len(other)
    )
    records[i], records[j] = records[j], records[i]
    swapped = samples()[2].data.replace(samples()[2].payload, b"".join(records))
    assert len(swapped) == len(samples()[2].data)
    with refused("damaged"):
        load(swapped)


def test_index_and_payload_exchanged_are_refused(load):
    old = forge_1(*samples()[0].texts, samples()[0].payload)
    parts = safetensors.numpy.load(old)
    length = int.from_bytes(old[:8], "little")
    metadata = json.loads(old[8 : 8 + length])["__metadata__"]
    with refused("damaged"):
        load(safetensors.numpy.save({"index": parts["payload"], "payload": parts["index"]}, metadata))
    with refused("parts of the file are missing"):
        load(safetensors.numpy.save({"index": parts["index"]}, metadata))


# Files of others


@pytest.mark.parametrize("length", [2**20 + 1, 2**31, 2**63, 2**64 - 1])
def test_announced_header_is_not_believed(load, length):
    with refused("this is no art-atmc file, or it was cut off"):
        load(length.to_bytes(8, "little") + forge_1(*samples()[0].texts, samples()[0].payload)[8:])


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**31, 2**32 - 1])
def test_announced_text_is_not_believed(load, length):
    content = framed(b"", b"")[HEADER:] + samples()[0].data[HEADER:]
    with refused("its text is (no deflated text|cut off)"):
        load(reframed(length.to_bytes(4, "little") + content))


def reframed(content):
    """A file of this content, whatever it is, behind a digest that fits."""
    return framed(b"", b"")[:5] + hashlib.blake2b(b"\x02" + content, digest_size=16).digest() + content


@pytest.mark.parametrize(
    "header", [b"{}", b'{"__metadata__":null}', b'{"__metadata__":{}}', b'{"__metadata__":{"art-atmc ":"1"}}']
)
def test_other_safetensors_files_are_refused(load, header):
    with refused("no art-atmc file, though a safetensors container"):
        load(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"[" * 100_000, b'{"a":' * 100_000, b'{"__metadata__":{"art-atmc":1}}', b'{"__metadata__":']
)
def test_other_headers_are_refused(load, header):
    with refused("this is no art-atmc file, or it was cut off"):
        load(len(header).to_bytes(8, "little") + header)


def test_state_dict_of_safetensors_is_refused(load):
    with refused("though a safetensors container"):
        load(safetensors.numpy.save({"fc.weight": np.zeros((2, 2), np.float32)}))


class Trap:
    """What a pickle could do."""

    def __reduce__(self):
        return os.system, ("false",)


def test_pickles_are_refused_unread(load, tmp_path):
    torch.save(Small().state_dict(), tmp_path / "state.pt")
    for data in ((tmp_path / "state.pt").read_bytes(), pickle.dumps(Trap())):
        with refused("this is no art-atmc file"):
            load(data)


def test_what_is_no_file_is_refused(tmp_path):
    with refused("No such file", FileNotFoundError):
        CompressedModel.load(tmp_path / "none.atmc")
    with refused("directory", OSError):
        CompressedModel.load(tmp_path)


def test_newer_formats_ask_for_an_upgrade(load):
    texts = samples()[0].texts
    assert load(forge(*texts, samples()[0].payload)).manifest == samples()[0].model.manifest
    with refused(r"written by a newer art-atmc \(format 3; this one reads up to 2\): upgrade art-atmc"):
        load(b"ATMC\x03" + b"what comes then may be anything")
    for version in ("", "-1", "1.0", "x", "9" * 5000, "²", "2"):
        with refused("parts of the file are missing"):
            load(forge_1(*texts, samples()[0].payload, version=version))
    for byte in (0, 1):
        with refused("it is damaged"):
            load(b"ATMC" + bytes([byte]) + samples()[0].data[5:])


# Files that announce too much


def test_larger_files_and_tensors_are_refused(load):
    sample = samples()[2]
    dense = sum(tensor.dense_bytes for tensor in sample.model.tensors.values())
    load(sample.data, max_bytes=max(dense, len(sample.data)))
    with refused(f"larger than {len(sample.data) - 1} bytes; raise `max_bytes`"):
        load(sample.data, max_bytes=len(sample.data) - 1)
    zeros = {"dtype": "float32", "shape": [1000, 1000], "bytes": 0, "nnz": 0}
    assert load(forged({"a": zeros}), max_bytes=4_000_000).state_dict()["a"].shape == (1000, 1000)
    with refused("take 4000000 bytes of memory, more than 3999999; raise `max_bytes`"):
        load(forged({"a": zeros}), max_bytes=3_999_999)
    with refused("take 4000004 bytes of memory"):  # all together
        load(forged({"a": zeros, "b": zeros | {"shape": []}}), max_bytes=4_000_000)


def test_work_of_decoding_is_bounded(load):
    """A file of some hundred bytes may announce as many codes as its memory allows, and not more."""
    coder = RangeEncoder()
    put_symbols(coder, np.zeros(1 << 24, np.int32))
    record = b"\1" + coder.get_compressed().astype("<u4").tobytes()  # as format 1 wrote a constant
    ones = {"dtype": "uint8", "shape": [1 << 24], "bytes": len(record), "codes": 1}
    started = time.process_time()
    loaded = load(forged({"a": ones}, record))
    assert loaded.tensor("a").all()
    assert time.process_time() - started < SECONDS
    with refused(f"take {8 << 24} bytes of memory, more than {(8 << 24) - 1}"):
        load(forged({"a": ones}, record), max_bytes=(8 << 24) - 1)
    positions = {"dtype": "uint8", "shape": [1 << 20], "bytes": 0, "nnz": 1 << 19, "gaps": 1 << 19}
    with refused(f"take {(1 << 20) + (48 << 19)} bytes of memory"):
        load(forged({"a": positions}), max_bytes=1 << 21)


def test_work_of_multiplying_is_bounded(load):
    zeros = {"dtype": "float32", "shape": [2500, 2500], "bytes": 0, "nnz": 0}
    factors = {"tensors": {f"a.{factor}": zeros for factor in "UVC"}, "factored": ["a"]}
    started = time.process_time()
    loaded = load(forged(compressed=["a.U", "a.V", "a.C"], **factors))
    assert loaded.report().weights[0].rank == 0
    assert not loaded.state_dict()["a"].any()
    assert time.process_time() - started < SECONDS
    large = {"tensors": {n: zeros | {"shape": [16_000, 16_000]} for n in factors["tensors"]}, "factored": ["a"]}
    with refused("take 4096000000000 multiply-adds to multiply"):
        load(forged(**large), max_bytes=1 << 32)


def test_rank_that_takes_long_is_not_sought(monkeypatch):
    from art_atmc.files import size_report

    [sought] = [w for w in samples()[0].model.report().weights if w.name == "fc.weight"]
    assert sought.rank is not None
    monkeypatch.setattr(size_report, "RANK", 10)
    [left] = [w for w in samples()[0].model.report().weights if w.name == "fc.weight"]
    assert left.rank is None
    assert dataclasses.replace(left, rank=sought.rank) == sought


@pytest.mark.parametrize("shape", [[10**9, 10**9], [2**47] * 60, [0, 2**47, 2**47], [2**47, 2**47, 0]])
def test_shapes_beyond_memory_are_refused(load, shape):
    with refused("bytes of memory, more than"):
        load(forged({"a": {"dtype": "float32", "shape": shape, "bytes": 0, "nnz": 0}}))


@pytest.mark.parametrize(
    "shape", [[10**18], [-1], [2.0], [1] * 65, [2**47] * 50_000, None, "4"], ids=lambda s: str(s)[:9]
)
def test_shapes_that_are_none_are_refused(load, shape):
    with refused(r"its text is wrong at `index\.tensors\.a\.shape"):
        load(forged({"a": RAW | {"shape": shape}}, b"\0" * 16))


def test_manifest_that_is_too_long_is_refused(load):
    assert load(forged(manifest={"metrics": {"note": "x" * (MAX_TEXT // 2)}}))
    with refused("its text is cut off, padded, or longer than any that art-atmc writes"):
        load(forged(manifest={"metrics": {"note": "x" * MAX_TEXT}}))


def test_index_that_inflates_is_refused(load):
    with refused("its text is cut off, padded, or longer than any that art-atmc writes"):
        load(forge_text(b" " * (64 << 20)))
    with refused("its index is cut off, padded, or larger than any that art-atmc writes"):
        load(forge_1(samples()[0].texts[0], b" " * (64 << 20)))


def test_index_full_of_errors_is_refused_at_once(load):
    entries = ",".join(f'"{i}":{{}}' for i in range(MAX_TEXT // 16))
    for make in (forge, forge_1):
        with refused(r"its (text|index) is wrong in \d+ places"):
            load(make("{}", '{"tensors":{' + entries + "}}"))


def test_deep_nesting_is_refused(load):
    manifest, index = samples()[0].texts
    assert "[0.5,0.25]" in manifest
    for make in (forge, forge_1):
        with refused("its (text|manifest) is wrong"):
            load(make(manifest.replace("[0.5,0.25]", "[" * 10_000 + "]" * 10_000), index, samples()[0].payload))
    members = '{"members":{"a":' * 10_000
    with refused("its text is wrong"):
        load(forge(members + "{}" + "}}" * 10_000, index, samples()[0].payload))


def test_what_would_not_be_read_is_not_written(tmp_path):
    model = samples()[0].model
    path = tmp_path / "model.atmc"

    def save(characters):
        manifest = model.manifest.model_copy(update={"metrics": {"note": characters * "x"}})
        return CompressedModel(manifest, model.index, model.tensors).save(path)

    size = save(1_000_000)
    CompressedModel.load(path)
    with pytest.raises(ValueError, match="must stay below 1048576 bytes; keep fewer metrics or tensors"):
        save(2_000_000)
    assert path.stat().st_size == size
    positions = {"x" * 1000 + str(i): 1 for i in range(1100)}
    long_index = model.index.model_copy(update={"positions": positions})
    with pytest.raises(ValueError, match="must stay below"):
        CompressedModel(model.manifest, long_index, model.tensors).save(path)


# Lies that the digest fits


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ({"tensors": FACTORS | {"a.D": RAW}, "factored": ["a"]}, r"two things .*'a\.D'"),
        ({"tensors": FACTORS | {"a": RAW}, "factored": ["a"]}, r"two things .*'a'"),
        ({"tensors": FACTORS | {"bias": RAW}, "factored": [""]}, r"not hold: \['\.C'"),
        ({"tensors": FACTORS, "factored": ["a", "a"]}, r"two things .*'a'"),
        ({"tensors": FACTORS, "factored": ["a"], "tied": {"b": "a.C"}}, r"two things .*'a\.C'"),
        ({"tensors": FACTORS, "factored": ["a"], "tied": {"a.D": "a.C"}}, r"two things .*'a\.D'"),
        ({"tensors": FACTORS, "factored": ["a"], "compressed": ["a.C"]}, r"some factors only of \['a'\]"),
        ({"tensors": {"a.U": RAW, "a.C": RAW}, "factored": ["a"]}, r"not hold: \['a\.V'\]"),
        ({"tensors": {"a": RAW, "b": RAW}, "tied": {"b": "a"}}, r"two things .*'b'"),
        ({"tensors": {"a": RAW}, "tied": {"a": "a"}}, r"two things .*'a'"),
        ({"tensors": {"a": RAW}, "tied": {"b": "c", "c": "b"}}, r"not hold: \['b', 'c'\]"),
        ({"tensors": {"a": RAW}, "tied": {"b": "a", "c": "b"}}, r"not hold: \['b'\]"),
        ({"tensors": {"a": RAW}, "compressed": ["b"]}, r"not hold: \['b'\]"),
        ({"tensors": {"a": RAW}, "compressed": ["a", "a"]}, r"two things .*'a'"),
        ({"tensors": {"a": RAW | {"dtype": "int32"}}, "compressed": ["a"]}, r"floating-point weights only, .*'a'"),
        ({"tensors": FACTORS | {"a.U": RAW | {"shape": [4]}}, "factored": ["a"]}, "factors of `a` do not fit"),
        ({"tensors": FACTORS | {"a.V": RAW | {"shape": [1, 4]}}, "factored": ["a"]}, "factors of `a` do not fit"),
        ({"tensors": {n: RAW | {"dtype": "int32"} for n in FACTORS}, "factored": ["a"]}, "factors of `a` do not fit"),
        ({"tensors": {"a": RAW | {"bytes": 12}}}, "of different lengths"),
        ({"tensors": {"a": RAW | {"bytes": 20}}}, "of different lengths"),
        ({"tensors": {"a": RAW | {"dtype": "complex64"}}}, r"wrong at `index\.tensors\.a\.dtype`"),
        ({"tensors": {"a": RAW | {"hook": "os"}}}, r"wrong at `index\.tensors\.a\.hook`: Extra inputs"),
        ({"tensors": {"a": RAW}, "positions": {"a": -1}}, r"wrong at `index\.positions\.a`"),
    ],
)
def test_indices_that_contradict_themselves_are_refused(load, index, sentence):
    payload = b"\0" * 16 * len(index["tensors"])
    sound = {"tensors": FACTORS, "factored": ["a"], "compressed": list(FACTORS), "tied": {}}
    assert load(forged(payload=b"\0" * 48, **sound)).state_dict()["a"].shape == (2, 2)
    with refused(sentence):
        load(forged(payload=payload, **index))


@pytest.mark.parametrize("value", [0, 1, 300_000, 2**40, 10**18, 10**30, True, "2"])
def test_announced_classes_are_not_built(load, value):
    """A wrong number of classes is refused before a network of that size takes memory."""
    with refused("nb_classes|does not fit"):
        load(forged(manifest={"network": "lenet", "nb_classes": value})).restore()


def test_names_may_be_odd(load):
    names = ["", ".", "\0", "a\n\x1b[31m", "__metadata__", "é" * 300, "../../x"]
    loaded = load(forged(dict.fromkeys(names, RAW), b"\0" * 16 * len(names), compressed=names))
    assert list(loaded.state_dict()) == names
    loaded.report().table()


BOOK = np.float32([1, 2]).tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"codes": 2, "record": BOOK[:6]}, "ends early"),
        ({"codes": 2, "record": BOOK + b"\0"}, "whole words"),
        ({"codes": 2, "record": BOOK + b"\xff" * 4000}, "more codes|codes are broken"),
        ({"codes": 1001, "record": b"\0" * 4004}, "announces more or other entries"),
        ({"nnz": 1000, "gaps": 500, "record": b"\0" * 4000}, "announces more or other entries"),
        ({"nnz": 10, "gaps": 10, "record": b"\0" * 40 + b"\xff" * 8}, "codes are broken"),
        ({"nnz": 0, "record": b"\0" * 4}, "more words"),
        ({"record": b"\0" * 4008}, "more words"),
        ({"nnz": 0, "gaps": 1, "record": b""}, "announces more or other entries"),
        ({"gaps": 5, "record": b"\0" * 4000}, "announces more or other entries"),
        ({"record": b"\0" * 3999}, "ends early"),
        ({"dtype": "bool", "record": b"\2" * 1000}, "truth values"),
        ({"record": b"", "packed": True}, "ends early"),
        ({"record": b"\xff" * 5000, "packed": True}, "words are broken|codes are broken|more codes"),
        ({"shape": (100_000,), "record": b"\0" * 400_000, "packed": True}, "announces more or other entries"),
        ({"nnz": 0, "record": b"", "packed": True}, "announces more or other entries"),
    ],
)
def test_records_that_nobody_wrote_are_refused(fields, sentence):
    with refused(sentence):
        decode(EncodedTensor(**({"dtype": "float32", "shape": (1000,)} | fields)))


def test_positions_that_do_not_fit_are_refused():
    weight = torch.zeros(10_000)
    weight[::100], weight[-1] = 0.3, 0.7
    sound = encode(weight)
    assert sound.form == "positions + codes"
    assert torch.equal(decode(sound), weight)
    with refused("its positions leave the tensor"):
        decode(dataclasses.replace(sound, shape=(9_999,)))
    with refused("its positions are broken"):
        decode(dataclasses.replace(sound, nnz=sound.nnz - 1))


def test_second_symbol_of_an_alphabet_of_one_is_refused():
    """The coder needs two symbols, and reads the second one where a record ends what says that there is one."""
    state = np.array([429_495, 3_899_972_131, 0], "<u4")
    with refused("its codes are broken"):
        decode(EncodedTensor("float32", (5,), BOOK[:4] + state.tobytes(), codes=1))


# Restoring


def test_broken_record_leaves_the_module_as_it_was(load):
    sample = samples()[0]
    place, entries = 0, sample.model.index.tensors
    for name, entry in entries.items():
        if name == "fc.weight.V":  # when the tensors of the convolution are decoded already
            break
        place += entry.bytes
    payload = bytearray(sample.payload)
    payload[place + entry.bytes - 8 : place + entry.bytes] = b"\xff" * 8
    loaded = load(forge(*sample.texts, bytes(payload)))
    module = Small()
    before = state_of(module)
    with refused(r"the record of `fc\.weight\.V` is broken"):
        loaded.restore(module)
    assert_unchanged(module, before)


def test_wrong_shapes_are_all_named(load):
    module = Small()
    module.conv, module.fc = nn.Conv2d(1, 7, 3), nn.Linear(54, 10, bias=False)
    before = state_of(module)
    with refused("does not fit the compressed model") as caught:
        load(samples()[0].data).restore(module)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "`fc.bias` is not in the module",
        "`conv.bias` is float32 (7,) in the module, float32 (6,) in the file",
        "`conv.weight` is float32 (7, 1, 3, 3) in the module, float32 (6, 1, 3, 3) in the file",
    ]
    assert_unchanged(module, before)


def test_wrong_network_is_refused_with_both_sides_named(load):
    module = Small()
    before = state_of(module)
    with refused(r"`first.weight` is not in the module(.|\n)*`conv.weight` is not in the file"):
        load(samples()[4].data).restore(module)
    assert_unchanged(module, before)
    load(samples()[4].data).restore(Tied())


# Processes


def forked(action):
    """Run ``action`` in a process that is a copy of this one; returns the signal that ended it, 0 if none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, where there are threads
        child = os.fork()
    if not child:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status <= 0, "the action failed"
    return -status


@needs_linux
def test_file_without_end_is_refused():
    def load():
        resource.setrlimit(resource.RLIMIT_AS, (1024 * kilobytes("VmSize") + (MEGABYTES << 20),) * 2)
        with refused("no art-atmc file"):
            CompressedModel.load("/dev/zero")

    assert forked(load) == 0


def kill_after(lines):
    """Kill this process when the functions that touch the disk have run so many lines."""

    def trace(frame, event, _):
        nonlocal lines
        lines -= event in ("line", "return")
        if not lines:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    names = ("write_file", "_mode", "_replace", "_sync_folder", "open", "replace", "unlink", "write_bytes")
    sys.settrace(lambda frame, *_: trace if frame.f_code.co_name in names else None)


def temporary_files(folder):
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]


@needs_linux
def test_save_killed_at_any_line_leaves_the_old_file_or_the_new(tmp_path):
    old, new = samples()[0], samples()[2]
    path = tmp_path / "model.atmc"
    renewed = []
    for line in itertools.count(1):

        def save(line=line):
            kill_after(line)
            new.model.save(path)

        path.write_bytes(old.data)
        ended = forked(save)
        data = path.read_bytes()
        assert data in (old.data, new.data), f"killed after {line} lines"
        renewed.append(data == new.data)
        if not ended:
            break
    assert len(renewed) > 15
    assert not renewed[0]
    assert renewed[-1]
    assert renewed == sorted(renewed)  # never back
    assert temporary_files(tmp_path)  # of those that were killed; they are in nobody's way
    old.model.save(path)
    assert path.read_bytes() == old.data


@needs_linux
def test_save_killed_while_it_writes_leaves_the_old_file(tmp_path):
    old, new = samples()[0], samples()[2]
    path = tmp_path / "model.atmc"
    old.model.save(path)

    def save():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(new.data) // 2,) * 2)
        new.model.save(path)

    assert forked(save) == signal.SIGXFSZ
    assert path.read_bytes() == old.data
    new.model.save(path)
    assert path.read_bytes() == new.data


@needs_linux
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    old, new = samples()[0], samples()[2]
    path = tmp_path / "model.atmc"
    old.model.save(path)

    def save():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(new.data) // 2,) * 2)
        with pytest.raises(OSError, match="File too large"):
            new.model.save(path)

    assert forked(save) == 0
    assert path.read_bytes() == old.data
    assert os.listdir(tmp_path) == ["model.atmc"]


@needs_linux
def test_save_killed_at_random_moments_leaves_the_old_file_or_the_new(tmp_path):
    old, new = large(0), large(1)
    path = tmp_path / "model.atmc"
    contents = []
    for model in (new, old):
        model.save(path)
        contents.append(path.read_bytes())
    started = time.perf_counter()
    new.save(path)
    seconds = time.perf_counter() - started

    found: list[Any] = []

    def save():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, random.Random(len(found)).uniform(0.1, 4) * seconds)
        for model in itertools.cycle((old, new)):
            model.save(path)

    while len(found) < 30 or {*found} != {0, 1}:
        assert len(found) < 300
        assert forked(save) == signal.SIGALRM
        found.append(contents.index(path.read_bytes()))
    CompressedModel.load(path)


def large(seed):
    """A model of a megabyte, which takes a while to write."""
    torch.manual_seed(seed)
    tensors = {"noise": encode(torch.randn(250_000))}
    entries = {name: Entry.of(tensor) for name, tensor in tensors.items()}
    index = Index(tensors=entries, factored=[], compressed=[], tied={}, positions={})
    return CompressedModel(samples()[0].model.manifest, index, tensors)


def test_save_that_fails_leaves_nothing(tmp_path):
    model = samples()[0].model
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "none" / "model.atmc")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        model.save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_saves_of_several_threads_leave_one_of_the_files(tmp_path):
    path = tmp_path / "model.atmc"
    failures = []

    def save(model):
        try:
            for _ in range(20):
                model.save(path)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(samples()[number].model,)) for number in (0, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert path.read_bytes() in [sample.data for sample in samples()]
    assert os.listdir(tmp_path) == ["model.atmc"]
