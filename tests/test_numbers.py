"""Whatever scalar a configuration is given, its ``repr`` can be read back."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from hypothesis import given
from hypothesis import strategies as st

from art_atmc import PGD, TRADES, Adversarial, Quantization, Ramp, Sparsity, Tightening
from art_atmc.attacks import APGD, DLR, WRM, Square, adversary
from art_atmc.compression import fit_codebook
from art_atmc.evaluation.suites import Attack, Suite
from art_atmc.networks import digits_cnn
from art_atmc.plugins import from_repr
from art_atmc.support.numbers import Flag, Real, Whole, check_numbers
from art_atmc.training.augmentation import CropAndFlip
from art_atmc.training.rates import Cosine, Hold, OneCycle

PLAIN = [
    Sparsity(0.25),
    Quantization(4),
    Ramp(1, 5),
    Tightening((0.25, 0.5), 0.75),
    PGD(0.5, 0.25, 3, 2.0, True, 2, 0.5),
    APGD(0.5, 2.0, 3, DLR(1)),
    DLR(2),
    Square(0.5, 1.0, 3, 0.25),
    WRM(1.5, 2),
    Adversarial(PGD(0.5, 0.25, 3), 0.25),
    TRADES(PGD(0.5, 0.25, 3), 2.0),
    Attack("twice", PGD(0.5, 0.25, 3), restarts=2),
    Hold(0.5, 0.25),
    Cosine(0.25),
    OneCycle(0.25),
    CropAndFlip(2),
    Suite("mine", 0.5, 2.0, (Attack("one", PGD(0.5, 0.25, 3, 2)),)),
]


def as_given(value, kind):
    if type(value) is tuple and all(type(v) is float for v in value):
        return tuple(kind(v) for v in value)
    return kind(value) if type(value) in (int, float, bool) else value


@pytest.mark.parametrize("kind", [lambda v: np.array(v)[()], np.array, torch.tensor], ids=["scalar", "array", "tensor"])
@pytest.mark.parametrize("plain", PLAIN, ids=lambda plain: type(plain).__name__)
def test_scalars_of_other_libraries_become_plain_numbers(plain, kind):
    values = {f.name: as_given(getattr(plain, f.name), kind) for f in dataclasses.fields(plain) if f.init}
    made = type(plain)(**values)
    assert repr(made) == repr(plain)
    assert made == plain


@given(st.floats(1e-6, 1.0), st.integers(1, 16))
def test_the_repr_of_a_constraint_is_read_back_by_the_plugins(density, bits):
    for constraint in Sparsity(np.float64(density)), Quantization(np.int32(bits)):  # type: ignore[arg-type]
        assert from_repr(repr(constraint)) == constraint


@pytest.mark.parametrize(
    ("number", "value", "message"),
    [
        (Real("(0, 1]", "do"), 0, r"`v` must be in \(0, 1\], got 0; do"),
        (Real("(0, 1]", "do"), True, "got True"),
        (Real("(0, 1]", "do"), "0.5", "got '0.5'"),
        (Real("(0, 1]", "do"), math.nan, "got nan"),
        (Real("(0, 1]", "do"), None, "got None"),
        (Real("[0, 1)", "do"), 1, "in \\[0, 1\\)"),
        (Real("(0, inf)", "do"), math.inf, "positive and finite, got inf"),
        (Real((1, 2, math.inf), "do"), 3, "must be 1, 2 or inf, got 3"),
        (Whole(1, 16, "do"), 17, r"must be an integer in 1..16, got 17"),
        (Whole(1, None, "do"), 4.0, "an integer of at least 1, got 4.0"),
        (Whole(1, None, "do"), np.True_, "got np.True_"),
        (Flag(), 1, "must be True or False, got 1"),
    ],
)
def test_what_is_no_such_number_is_refused(number, value, message):
    with pytest.raises(ValueError, match=message):
        number.plain("v", value)


@pytest.mark.parametrize(
    ("number", "value", "plain"),
    [
        (Real("(0, 1]", "do"), 1, 1.0),
        (Real("[0, 1)", "do"), 0, 0.0),
        (Real((1, 2, math.inf), "do"), "inf", math.inf),
        (Real("(0, 1]", "do", optional=True), None, None),
        (Whole(1, 16, "do"), 16, 16),
        (Flag(), np.False_, False),
    ],
)
def test_what_is_one_is_kept_plain(number, value, plain):
    kept = number.plain("v", value)
    assert kept == plain
    assert type(kept) is type(plain)


def test_all_faults_are_named_at_once():
    @dataclasses.dataclass(frozen=True)
    class Pair:
        a: float
        b: int

        def __post_init__(self):
            check_numbers(self, ["c is missing"], a=Real("(0, 1]", "do"), b=Whole(1, None, "do"))

    with pytest.raises(ValueError, match="`a` must be .*`b` must be .*c is missing"):
        Pair(2, 0)


def test_functions_take_scalars_of_numpy_too():
    assert digits_cnn(np.int64(3)) is not None  # type: ignore[arg-type]
    assert len(fit_codebook(torch.rand(50), np.int32(4))) == 4  # type: ignore[arg-type]
    classifier = PyTorchClassifier(torch.nn.Linear(2, 2), torch.nn.CrossEntropyLoss(), (2,), 2)
    assert isinstance(adversary(FastGradientMethod(classifier, eps=np.float64(0.5)), classifier), PGD)
