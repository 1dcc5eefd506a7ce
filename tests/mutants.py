"""Sound files of every form, and the same with errors in them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_atmc import CompressedModel, Quantization, Sparsity, compressible, decompose
from art_atmc.compression.constraints import Constraint
from art_atmc.files import format_1
from art_atmc.files.container import DICTIONARY, framed, serialized
from art_atmc.files.format_1 import _digest

NUMBERS = [0, 1, -1, 2, 3, 20, 21, 63, 64, 65, 65_537, 2**31, 2**47, 2**48, 10**18, 10**30, 0.5, math.nan, -math.inf]
ODD: list[Any] = [*NUMBERS, None, True, "", ".", "a", "\0", "é\n", "bool", "int8", "float64"]
ODD += [[], {}, [[]], {"": 0}, [0] * 65]
NAMES = ["conv.weight", "fc.weight", "conv.weight.D", "conv", "norm.weight.U"]
SCRAPS = ["", "{", "]", ",", "0", "-", "e9", "\\ud800", "[" * 300, '"tensors":{},', "NaN", "9" * 5000, "\0"]


class Small(nn.Module):
    """A convolution, a normalisation with its buffers, and a linear layer, on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(54, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.max_pool2d(self.norm(self.conv(x)).relu(), 2).flatten(1))


class Tied(nn.Module):
    """One weight under two names, and buffers of other types."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.arange(7))
        self.register_buffer("mask", torch.arange(64) % 3 == 0)
        self.register_buffer("short", torch.ones(5, dtype=torch.float16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x.flatten(1)).relu()))


class Pair(nn.Module):
    """Two networks in one."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([Small(), Small()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.members[0](x) + self.members[1](x)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sound file, what is in it, and a network that it fits."""

    model: CompressedModel
    constraints: list[Constraint]
    payload: bytes
    data: bytes
    build: Callable[[], nn.Module]

    @property
    def texts(self) -> tuple[str, str]:
        """Manifest and index as they stand in the file."""
        return self.model.manifest.model_dump_json(), self.model.index.model_dump_json(exclude_defaults=True)


@functools.cache
def samples() -> list[Sample]:
    """Every form of encoding: factored and coded; sparse; dense; coded; tied; two networks."""
    both = [Sparsity(0.2), Quantization(2)]
    return [
        _sample(Small, decompose(_seeded(Small)), both),
        _sample(Small, _seeded(Small), [Sparsity(0.1)]),
        _sample(Small, _seeded(Small), []),
        _sample(Small, _seeded(Small), [Quantization(1)]),
        _sample(Tied, _seeded(Tied), both),
        _sample(Pair, _seeded(Pair), [Sparsity(0.2)], members=2),
    ]


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def _sample(
    build: Callable[[], nn.Module], network: nn.Module, constraints: list[Constraint], members: int = 0
) -> Sample:
    weights = compressible(network)
    with torch.no_grad():
        for tensor in weights.values():
            tensor.add_(0.01 * torch.randn_like(tensor))
    for constraint in constraints:
        weights.assign_(constraint.project(weights))
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu")
    parts = {f"members.{i}": CompressedModel.of(network.members[i]) for i in range(members)}
    model = CompressedModel.of(classifier, constraints, metrics={"accuracies": [0.5, 0.25]}, members=parts)
    payload = b"".join(tensor.record for tensor in model.tensors.values())
    return Sample(model, constraints, payload, serialized(model.manifest, model.index, payload), build)


def damaged(rng: random.Random) -> tuple[Sample, bytes]:
    """A sound file and the same with some bytes changed."""
    sample = rng.choice(samples())
    data = bytearray(sample.data if rng.randrange(4) else forge_1(*sample.texts, sample.payload))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        header = 300
        place = rng.randrange(rng.choice([9, min(header, len(data)) + 1, len(data) + 1]))
        change_bytes(data, place, rng)
    return sample, bytes(data)


def change_bytes(data: bytearray, place: int, rng: random.Random) -> None:
    """Change ``data``, in place, from ``place`` on."""
    length = rng.choice([1, 2, 8, 100])
    other = rng.randrange(len(data) + 1)
    match rng.randrange(9):
        case 0:
            data[place : place + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[place : place + 1])
        case 1:
            data[place : place + length] = rng.choice([b"\0", b"\xff", b" "]) * len(data[place : place + length])
        case 2:
            data[place:place] = rng.choice([b" ", b"\0", b"{", b'"', b"9", b"\xed\xa0\x80"]) * length
        case 3:
            data[place:place] = data[other : other + length]
        case 4:
            del data[place : place + length]
        case 5:
            del data[place:]
        case 6:
            block = data[place : place + length]
            del data[place : place + length]
            data[other:other] = block
        case 7:
            data[:8] = rng.choice([*range(12), len(data), 2**20, 2**63, 2**64 - 1]).to_bytes(8, "little")
        case _:
            data += data[place:]


def forged(rng: random.Random) -> tuple[Sample, bytes]:
    """A sound file and one with a digest that fits its other content."""
    sample, other = rng.choice(samples()), rng.choice(samples())
    texts, payload = list(sample.texts), bytearray(sample.payload)
    for _ in range(rng.choice([1, 1, 2, 3])):
        which = rng.choice([0, 1, 1, 1])
        match rng.randrange(8):
            case 0:
                change_bytes(payload, rng.randrange(len(payload) + 1), rng)
            case 1 | 2:  # of the same length, which goes further
                place = rng.randrange(len(payload) + 1)
                payload[place : place + 4] = rng.choice([b"\0", b"\xff", b"\x80"]) * len(payload[place : place + 4])
            case 3:
                texts[which] = changed_text(texts[which], rng)
            case 4 if rng.randrange(4) == 0:
                payload = bytearray(other.payload)
            case _:
                texts[which] = changed_tree(texts[which], [*sample.model.tensors, *NAMES], rng)
    manifest, index = texts
    return sample, rng.choice([forge, forge, forge_1])(manifest, index, bytes(payload))


def changed_text(text: str, rng: random.Random) -> str:
    """JSON with some characters changed."""
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(SCRAPS) + text[place + rng.randrange(3) :]


def changed_tree(text: str, names: list[str], rng: random.Random) -> str:
    """JSON with one value or key changed, some to a name of a tensor."""
    try:
        tree = json.loads(text)
    except ValueError:  # by an earlier change
        return text
    nodes = [node for node in _containers(tree) if node]
    if not nodes:
        return text
    node = rng.choice(nodes)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key, other = rng.choice(keys), rng.choice(keys)
    match rng.randrange(7):
        case 0 | 1:
            node[key] = rng.choice(ODD)
        case 2 if isinstance(node[key], int):
            node[key] += rng.choice([-64, -2, -1, 1, 2, 64])
        case 2 | 3:
            node[key] = rng.choice(names)
        case 4:
            node[key], node[other] = node[other], node[key]
        case 5:
            del node[key]
        case _ if isinstance(node, dict):
            node[rng.choice([*names, "nnz", "codes", "gaps", "shift", "tied", "packed", "members"])] = node[key]
        case _:
            node.insert(key, node[other])
    return json.dumps(tree)


def _containers(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _containers(value)


def forge(manifest: str, index: str, payload: bytes = b"") -> bytes:
    """A file with these contents and the digest that fits them."""
    return forge_text(f'{{"manifest":{manifest},"index":{index}}}'.encode("utf-8", "replace"), payload)


def forge_text(text: bytes, payload: bytes = b"") -> bytes:
    """A file of this text."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    return framed(deflater.compress(text) + deflater.flush(), payload)


def forge_1(manifest: str, index: str | bytes, payload: bytes = b"", version: object = 1) -> bytes:
    """The same of format 1."""
    manifest = manifest.encode("utf-8", "replace").decode()
    packed = zlib.compress(index if isinstance(index, bytes) else index.encode("utf-8", "replace"))
    parts = {"index": np.frombuffer(packed, np.uint8), "payload": np.frombuffer(payload, np.uint8)}
    return safetensors.numpy.save(parts, {format_1.KEY: f"{version} {_digest(manifest, packed, payload)} {manifest}"})
