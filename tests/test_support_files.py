"""Files are written whole or not at all, through links and into devices, and what can't be read is named."""

from __future__ import annotations

import dataclasses
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from art_atmc.support.atomic import write_file
from art_atmc.support.reading import read_json, readable, validated

needs_posix = pytest.mark.skipif(os.name != "posix", reason="links, devices and limits of sizes")


@pytest.mark.parametrize("content", [b"", b"\0\xff\r\n", "plain", "ε ≤ 8/255\n"])
def test_content_comes_back(tmp_path, content):
    path = tmp_path / "a"
    for _ in range(2):
        write_file(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode("utf-8"))
    assert os.listdir(tmp_path) == ["a"]


def test_text_is_utf8_in_every_locale(tmp_path):
    code = "import sys; from art_atmc.support.atomic import write_file; write_file(sys.argv[1], chr(949))"
    settings = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], env=settings, check=True)
    assert (tmp_path / "a").read_bytes() == b"\xce\xb5"


@needs_posix
@pytest.mark.parametrize("exists", [True, False])
def test_links_are_written_through(tmp_path, exists):
    (tmp_path / "there").mkdir()
    target, link, chain = tmp_path / "there" / "target", tmp_path / "link", tmp_path / "chain"
    link.symlink_to("there/target")
    chain.symlink_to(link)
    if exists:
        target.write_bytes(b"old")
    write_file(chain, b"new")
    assert link.is_symlink()
    assert chain.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["chain", "link", "there"]
    assert os.listdir(tmp_path / "there") == ["target"]


@needs_posix
def test_devices_and_pipes_are_written_and_stay(tmp_path):
    write_file(os.devnull, b"gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, b"through")
    reader.join()
    assert found == [b"through"]
    assert os.listdir(tmp_path) == ["pipe"]


@needs_posix
def test_standard_output_is_a_place_to_write(tmp_path):
    code = "from art_atmc.support.atomic import write_file; write_file('/dev/stdout', b'through')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"through"


@needs_posix
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_permissions_stay(tmp_path, mode):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_file(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("letter", ["a", "ε", "😀"])
def test_names_may_be_as_long_as_names_can_be(tmp_path, letter):
    name = letter * (255 // len(letter.encode()))
    write_file(tmp_path / name, b"x")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("place", ["none/a", "folder", "loop"])
def test_places_that_take_no_file_are_named(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OSError, match=f"not written: '.*{place}'"):
        write_file(tmp_path / place, b"x")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full disk to try")
def test_full_device_is_named():
    with pytest.raises(OSError, match=r"No space left on device, so this was not written: '/dev/full'"):
        write_file("/dev/full", b"x")


@needs_posix
def test_file_that_grows_too_large_leaves_the_old_one(tmp_path):
    path = tmp_path / "a"
    write_file(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large, so this was not written: '.*a'"):
            write_file(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@dataclasses.dataclass(frozen=True)
class Figure:
    name: str
    value: float = 0.5


def test_json_comes_back_field_by_field(tmp_path):
    path = tmp_path / "figure.json"
    write_file(path, '{"name": "ε", "value": 1}')
    assert read_json(path, Figure, "a figure") == Figure("ε", 1.0)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "EOF while parsing"),
        (b'{"name": "a", "val', "EOF while parsing"),
        (b"\xff\xfe", "expected value"),
        (b'{"name": "\xff"}', "invalid unicode code point"),
        (b"[" * 100_000, "recursion limit exceeded"),
        (b"[]", "wrong: Input should be "),
        (b"{}", "wrong at `name`: Field required"),
        (b'{"name": "a", "value": "big"}', "wrong at `value`: Input should be a valid number"),
    ],
    ids=["empty", "cut", "utf16", "latin1", "deep", "list", "missing", "text"],
)
def test_json_that_is_something_else_names_the_file_and_what_to_do(tmp_path, content, wrong):
    (tmp_path / "figure.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"figure\.json is not a figure, or it is damaged \(.*{wrong}.*\); delete it"):
        read_json(tmp_path / "figure.json", Figure, "a figure", "delete it")


def test_errors_without_number_are_counted():
    with pytest.raises(ValueError, match="wrong in 500 places"):
        validated(list[int], f"[{','.join(['null'] * 500)}]")


@dataclasses.dataclass(frozen=True)
class Versioned:
    value: float
    schema: Literal[1] = 1


def test_files_of_other_versions_are_said_to_be():
    assert validated(Versioned, '{"value": 1, "schema": 1}') == Versioned(1.0)
    with pytest.raises(ValueError, match="another version of art-atmc wrote it"):
        validated(Versioned, '{"sum": 1, "schema": 2}')


def _torch(path):
    torch.load(path, weights_only=True)


def _safetensors(path):
    from safetensors.torch import load_file

    load_file(path)


def _npz(path):
    with path.open("rb") as file:
        np.load(file, allow_pickle=False)


@pytest.mark.parametrize("load", [_torch, _safetensors, _npz])
@pytest.mark.parametrize("content", [b"", b"garbage" * 9, b"PK\x03\x04" + bytes(40), b"\x80\x02c__builtin__\neval\n."])
def test_every_reader_names_what_it_can_not_read(tmp_path, load, content):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    sentence = pytest.raises(ValueError, match=r"a\.bin is not a network, or it is damaged \(.+\); train it again")
    with sentence, readable(path, "a network", "train it again"):
        load(path)
