"""Constraints by name, with distributions that are made up in a folder: good, broken, incompatible, duplicate ones."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import subprocess
import sys
import textwrap
from typing import Literal, Optional, Union

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from art_atmc import ADMM, Constraint, ProjectedGradient, Quantization, Sparsity, Weights, plugins
from art_atmc.compression.enforcement import finalize
from art_atmc.plugins import registry
from art_atmc.plugins.literals import fields_of, literal_call, split_items, typed, values_of
from art_atmc.support.versions import provider

GOOD = """
    from __future__ import annotations
    import dataclasses
    from typing import ClassVar
    from art_atmc import Constraint

    @dataclasses.dataclass(frozen=True)
    class Clip(Constraint):
        '''Values of at most a limit.

        More about it.
        '''
        limit: float
        signed: bool = True
        shape: tuple[int, ...] = (2, 4)

        def __post_init__(self):
            if self.limit <= 0:
                raise ValueError(f"`limit` must be positive, got {self.limit}")

        def project(self, weights):
            return weights.map(lambda t: t.clamp(-self.limit, self.limit))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a distribution with entry points and modules where Python looks for such."""
    before = set(sys.modules)
    monkeypatch.delenv("ART_ATMC_PLUGINS", raising=False)

    def make(name, points, modules=None, version="1.0", folder="site", raw=None):
        site = tmp_path / folder
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = "\n".join(f"{key} = {value}" for key, value in points.items())
        (info / "entry_points.txt").write_text(raw or f"[console_scripts]\nx = y:z\n[art_atmc.constraints]\n{lines}\n")
        for module, source in (modules or {}).items():
            (site / f"{module}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(site)
        return site

    yield make
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def names():
    return {plugin.name for plugin in plugins.available() if plugin.kind == "constraint"}


def test_our_own_constraints_come_by_the_same_path():
    assert plugins.load("sparsity") is Sparsity
    assert plugins.load("quantization") is Quantization
    ours = [p for p in plugins.available() if p.ours]
    assert [(p.name, p.target, p.kind, p.problem) for p in ours] == [
        ("quantization", "art_atmc.compression:Quantization", "constraint", None),
        ("sparsity", "art_atmc.compression:Sparsity", "constraint", None),
        ("apgd", "art_atmc.attacks:APGD", "attack", None),
        ("pgd", "art_atmc.attacks:PGD", "attack", None),
        ("square", "art_atmc.attacks:Square", "attack", None),
        ("adversarial", "art_atmc.training:Adversarial", "objective", None),
        ("natural", "art_atmc.training:Natural", "objective", None),
        ("trades", "art_atmc.training:TRADES", "objective", None),
    ]


def test_listing_imports_neither_torch_nor_art_nor_any_plugin(install):
    site = install("acme", {"bad": "acme_at_import:Bad"}, {"acme_at_import": "raise RuntimeError('imported')"})
    script = (
        "import json, sys; from art_atmc import plugins; rows = plugins.listing();"
        "assert not {'torch', 'art', 'numpy', 'acme_at_import'} & set(sys.modules), sorted(sys.modules);"
        "print(json.dumps(rows))"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert {"sparsity", "quantization", "bad"} <= set(rows)
    assert rows["bad"] == {
        "name": "bad",
        "distribution": "acme",
        "version": "1.0",
        "target": "acme_at_import:Bad",
        "problem": None,
        "kind": "constraint",
    }


def test_a_plugin_is_found_by_name_text_and_repr(install):
    install("Acme_Constraints", {"clip": "acme_clip:Clip"}, {"acme_clip": GOOD})
    kind = plugins.load("clip")
    assert plugins.load("acme-constraints/clip") is kind
    assert plugins.parse("clip:limit=0.5,shape=(1,2,3)") == kind(0.5, shape=(1, 2, 3))  # type: ignore[call-arg]
    assert plugins.from_repr(repr(kind(2.0, signed=False))) == kind(2.0, signed=False)  # type: ignore[call-arg]
    assert provider(kind) == "acme-constraints 1.0"
    described = plugins.describe("clip")
    assert described.summary == "Values of at most a limit."
    assert [str(f) for f in described.fields] == [
        "limit: float",
        "signed: bool = True",
        "shape: tuple[int, ...] = (2, 4)",
    ]
    assert str(described).splitlines()[0] == "clip (acme_clip:Clip, acme-constraints 1.0)"
    assert str(described).splitlines()[-1] == "  shape: tuple[int, ...] = (2, 4)"


def test_attacks_and_objectives_are_found_by_name_too(install):
    source = """
        from __future__ import annotations
        import dataclasses
        from typing import TYPE_CHECKING
        from art_atmc.attacks import Adversary
        from art_atmc.training import Objective, Outcome

        if TYPE_CHECKING:
            from art.attacks.attack import EvasionAttack

        @dataclasses.dataclass(frozen=True)
        class Shift(Adversary):
            by: float = 0.5

            def __call__(self, problem, x, y):
                return x + self.by

        @dataclasses.dataclass(frozen=True)
        class Plain(Objective):
            attack: Adversary | EvasionAttack
            share: float = 1.0

            def __call__(self, problem, x, y):
                logits = problem.network(x)
                return Outcome(self.share * problem.loss(logits, y), logits)
    """
    raw = "[art_atmc.attacks]\nclip = acme_kinds:Shift\n[art_atmc.objectives]\nplain = acme_kinds:Plain\n"
    install("acme", {}, {"acme_kinds": source}, raw=raw)
    assert repr(plugins.parse("clip:by=0.25", "attack")) == "Shift(by=0.25)"
    attack = plugins.parse("pgd:eps=0.1,eps_step=0.05,max_iter=2,norm=2", "attack")
    assert (attack.norm, attack.max_iter) == (2.0, 2)
    objective = plugins.parse("plain:share=0.5", "objective", attack=attack)
    assert objective.attack is attack
    assert [str(field) for field in plugins.describe("plain").fields] == ["share: float = 1.0"]
    install("acme-two", {"clip": "acme_clip:Clip"}, {"acme_clip": GOOD})  # a name of two kinds is no clash
    assert plugins.describe("clip").plugin.kind == "constraint"
    assert plugins.describe("clip", "attack").plugin.kind == "attack"
    with pytest.raises(ValueError, match=r"there is no attack `sparsity`.*installed are: .*clip"):
        plugins.load("sparsity", "attack")
    wrong = "[art_atmc.attacks]\nwrong = acme_wrong:Sparsity\n"
    install("acme-three", {}, {"acme_wrong": "from art_atmc import Sparsity"}, raw=wrong)
    with pytest.raises(ImportError, match=r"derives from art_atmc\.attacks\.Adversary"):
        plugins.load("wrong", "attack")


def test_only_the_name_that_is_asked_for_is_loaded(install):
    install("acme", {"clip": "acme_one:Clip", "other": "acme_two:Clip"}, {"acme_one": GOOD, "acme_two": GOOD})
    plugins.load("clip")
    assert "acme_one" in sys.modules
    assert "acme_two" not in sys.modules


FAULTS = {
    "import": ("import no_such_module", "acme_x:Clip", "No module named 'no_such_module'.*upgrade or reinstall acme"),
    "syntax": ("def (", "acme_x:Clip", "SyntaxError"),
    "exit": ("raise SystemExit(3)", "acme_x:Clip", "SystemExit: 3"),
    "module": ("", "acme_missing:Clip", "No module named 'acme_missing'"),
    "attribute": ("", "acme_x:Clip", "has no attribute 'Clip'"),
    "target": ("", "no target at all", "cannot be imported"),
    "object": ("Clip = 3", "acme_x:Clip", "not a class that derives from art_atmc.Constraint but 3; report it"),
    "class": ("class Clip: pass", "acme_x:Clip", "not a class that derives from art_atmc.Constraint"),
    "abstract": (
        "from art_atmc import Constraint\nclass Clip(Constraint): pass",
        "acme_x:Clip",
        "leaves project abstract",
    ),
    "alias": (textwrap.dedent(GOOD) + "\nOther = Clip", "acme_x:Other", "calls itself Clip"),
    "newer": (
        textwrap.dedent(GOOD).replace("limit: float", "limit: float\n    api_version: ClassVar[int] = 2"),
        "acme_x:Clip",
        "written for version 2 of the constraint interface, art-atmc .* supports 1; upgrade art-atmc",
    ),
    "older": (
        textwrap.dedent(GOOD).replace("limit: float", "limit: float\n    api_version: ClassVar[int] = 0"),
        "acme_x:Clip",
        "written for version 0 .*upgrade acme",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plugin_at_fault_raises_when_asked_for_and_hurts_no_other(install, fault):
    source, target, message = FAULTS[fault]
    install("acme", {"faulty": target}, {"acme_x": source})
    install("bmce", {"clip": "bmce_clip:Clip"}, {"bmce_clip": GOOD}, folder="other")
    assert {"faulty", "clip", "sparsity"} <= names()
    assert plugins.load("clip")(1.0).limit == 1  # type: ignore[attr-defined, call-arg]
    assert plugins.load("sparsity") is Sparsity
    for ask in (plugins.load, plugins.describe, plugins.parse):
        with pytest.raises(ImportError, match=f"(?s)`faulty` of acme 1.0 .*{message}"):
            ask("faulty")


def test_a_class_that_declares_the_supported_version_is_accepted(install):
    declared = textwrap.dedent(GOOD).replace("limit: float", "limit: float\n    api_version: ClassVar[int] = 1")
    install("acme", {"clip": "acme_clip:Clip"}, {"acme_clip": declared})
    assert plugins.load("clip").api_version == 1


def test_a_name_of_two_distributions_is_refused_until_it_is_qualified(install):
    install("acme", {"clip": "acme_clip:Clip"}, {"acme_clip": GOOD})
    install("bmce", {"clip": "bmce_clip:Clip"}, {"bmce_clip": GOOD}, version="2.0", folder="other")
    with pytest.raises(
        ValueError, match="`clip` is registered by acme 1.0 and bmce 2.0; uninstall one of them, or write"
    ):
        plugins.load("clip")
    assert plugins.load("bmce/clip").__module__ == "bmce_clip"
    assert plugins.parse("acme/clip:limit=1").limit == 1  # type: ignore[attr-defined]
    assert all("is registered by" in p.problem for p in plugins.available() if p.name == "clip")
    with pytest.raises(ValueError, match="`Clip` is a class of acme and bmce; uninstall the one"):
        plugins.from_repr("Clip(limit=1.0)")
    assert plugins.load("sparsity") is Sparsity


def test_our_names_and_classes_stay_ours(install):
    source = textwrap.dedent(GOOD).replace("Clip", "Sparsity")
    install("acme", {"sparsity": "acme_clip:Sparsity"}, {"acme_clip": source})
    assert plugins.load("sparsity") is Sparsity
    assert plugins.from_repr("Sparsity(density=0.5)") == Sparsity(0.5)
    assert plugins.load("acme/sparsity").__module__ == "acme_clip"
    (theirs,) = (p for p in plugins.available() if p.name == "sparsity" and not p.ours)
    assert theirs.problem == "is hidden by our own of that name; write `acme/sparsity`"


def test_two_names_of_one_class_are_no_clash(install):
    install("acme", {"clip": "acme_clip:Clip", "clamp": "acme_clip : Clip [extra]"}, {"acme_clip": GOOD})
    assert plugins.from_repr("Clip(1.0)") == plugins.load("clamp")(1.0)  # type: ignore[call-arg]


def test_a_distribution_that_is_found_twice_counts_once(install):
    install("acme", {"clip": "acme_clip:Clip"}, {"acme_clip": GOOD}, version="1.0")
    install("Acme", {"clip": "acme_clip:Clip"}, {"acme_clip": GOOD}, version="1.1", folder="first")
    assert [p.version for p in plugins.available() if p.name == "clip"] == ["1.1"]  # the first on the path
    assert plugins.load("clip")(1.0).limit == 1  # type: ignore[attr-defined, call-arg]


def test_unreadable_entry_points_are_shown_and_hurt_no_other(install):
    install("acme", {}, raw="[art_atmc.constraints]\nno equals sign\n")
    install("bmce", {"clip": "bmce_clip:Clip"}, {"bmce_clip": GOOD}, folder="other")
    assert plugins.load("clip")
    (broken,) = (p for p in plugins.available() if p.distribution.startswith("acme"))
    assert "cannot be read" in broken.problem
    with pytest.raises(ValueError, match=r"there is no constraint `x`.*acme.* cannot be read .*; reinstall acme"):
        plugins.load("x")


def test_the_switch_leaves_our_own_only(install, monkeypatch):
    install("acme", {"clip": "acme_clip:Clip"}, {"acme_clip": GOOD})
    clip = plugins.parse("clip:limit=1")
    monkeypatch.setenv("ART_ATMC_PLUGINS", "off")
    assert names() == {"sparsity", "quantization"}
    with pytest.raises(ValueError, match="`ART_ATMC_PLUGINS=off` hides those of other distributions"):
        plugins.load("clip")
    with pytest.raises(ValueError, match="`ART_ATMC_PLUGINS=off` hides"):
        plugins.from_repr(repr(clip))
    monkeypatch.setenv("ART_ATMC_PLUGINS", "no")
    with pytest.raises(ValueError, match="`ART_ATMC_PLUGINS` must be on or off, got 'no'"):
        plugins.available()
    assert provider(type(clip)) == "acme 1.0"
    monkeypatch.setenv("ART_ATMC_PLUGINS", "on")
    assert "clip" in names()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"`sparcity` \(did you mean `sparsity`\?\); installed are: .*quantization.*"):
        plugins.load("sparcity")


def test_a_missing_installation_is_said(monkeypatch):
    monkeypatch.setattr(registry.metadata, "distributions", lambda: iter(()))
    with pytest.raises(ValueError, match="installed are: none; art-atmc itself is not installed"):
        plugins.load("sparsity")


# Fields from text


class Mode(enum.Enum):
    ROW = "row"
    COLUMN = "col"


@dataclasses.dataclass(frozen=True)
class Everything(Constraint):
    count: int
    share: float
    flag: bool = False
    title: str = "none"
    limit: Optional[int] = None  # noqa: UP045
    either: Union[str, int, float] = 0  # noqa: UP007
    shape: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 1.0)
    kind: Literal["row", 2] = "row"
    mode: Mode = Mode.ROW
    nested: tuple[tuple[int, int], ...] = ()
    whatever: object = None

    def project(self, weights):
        return weights.clone()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flag=true", {"flag": True}),
        ("flag=False", {"flag": False}),
        ("title=a b", {"title": "a b"}),
        ("title='a,b=c'", {"title": "a,b=c"}),
        ("limit=none", {"limit": None}),
        ("limit=3", {"limit": 3}),
        ("either=3", {"either": 3}),
        ("either=3.5", {"either": 3.5}),
        ("either=x", {"either": "x"}),
        ("shape=(2, 4)", {"shape": (2, 4)}),
        ("shape=[2],flag=true", {"shape": (2,), "flag": True}),
        ("shape=()", {"shape": ()}),
        ("pair=(1,2)", {"pair": (1, 2.0)}),
        ("kind=2", {"kind": 2}),
        ("mode=COLUMN", {"mode": Mode.COLUMN}),
        ("mode=col", {"mode": Mode.COLUMN}),
        ("nested=((1,2),(3,4))", {"nested": ((1, 2), (3, 4))}),
    ],
)
def test_values_are_read_as_the_types_of_their_fields(text, expected):
    values = values_of(f"count=1,share=1e-3,{text}", fields_of(Everything))
    assert values == {"count": 1, "share": 0.001} | expected
    assert all(type(values[key]) is type(value) for key, value in expected.items())


@pytest.mark.parametrize(
    "text",
    [
        "count=1.5",
        "share=x",
        "flag=1",
        "limit=x",
        "shape=(1,x)",
        "pair=(1,)",
        "pair=(1,2,3)",
        "kind=column",
        "mode=diagonal",
        "whatever=1",
    ],
)
def test_values_of_the_wrong_type_are_refused_by_field(text):
    field = text.partition("=")[0]
    with pytest.raises(ValueError, match=f"`{field}` must be "):
        values_of(text, fields_of(Everything))


def test_all_offences_come_at_once_with_the_fields():
    with pytest.raises(ValueError, match="the fields are") as refused:
        plugins.parse("quantization:bit=4,x,bits=a,bits=b")
    for part in (
        "`quantization:bit=4,x,bits=a,bits=b`",
        "no field `bit` (did you mean `bits`?)",
        "no field `x`",
        "`bits` must be int, got 'a'",
        "`bits` is given 2 times",
        "the fields are: bits: int",
    ):
        assert part in str(refused.value)
    assert "missing" not in str(refused.value)
    with pytest.raises(ValueError, match="`bits` is missing"):
        plugins.parse("quantization")
    with pytest.raises(ValueError, match="`bits` has no value; write bits=VALUE"):
        plugins.parse("quantization:bits")


def test_values_that_the_class_refuses_come_with_the_text():
    with pytest.raises(ValueError, match=r"`sparsity:density=2`: `density` must be in \(0, 1\], got 2.0; give"):
        plugins.parse("sparsity:density=2")


def test_annotations_that_cannot_be_read_are_the_plugins_fault(install):
    source = textwrap.dedent(GOOD).replace("limit: float", "limit: NotImported")
    install("acme", {"clip": "acme_clip:Clip"}, {"acme_clip": source})
    with pytest.raises(ImportError, match="the types of the fields of the plug-in `clip` of acme 1.0 .*NotImported"):
        plugins.parse("clip:limit=1")


def test_items_split_outside_brackets_and_quotes_only():
    assert split_items(" a=(1,[2,3]), b='x,y' ,, c") == ["a=(1,[2,3])", "b='x,y'", "c"]


@given(st.integers(), st.floats(allow_nan=False), st.lists(st.integers()), st.booleans())
def test_written_values_read_back(count, share, shape, flag):
    text = f"count={count},share={share},shape={shape},flag={flag}"
    values = values_of(text, fields_of(Everything))
    assert values == {"count": count, "share": share, "shape": tuple(shape), "flag": flag}


def test_a_type_that_text_cannot_give_says_so():
    with pytest.raises(ValueError, match="build the object in Python"):
        typed("1", dict)


# Constraints from their repr


@given(st.one_of(st.floats(0, 1, exclude_min=True).map(Sparsity), st.integers(1, 16).map(Quantization)))
def test_repr_reads_back(constraint):
    assert plugins.from_repr(repr(constraint)) == constraint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sparsity",
        "Sparsity(density=__import__('os').getpid())",
        "Sparsity(density=open('x'))",
        "Sparsity(density=x)",
        "Sparsity(**{'density': 0.5})",
        "Sparsity(*[0.5])",
        "Sparsity(density=0.5); 1",
        "[Sparsity(density=0.5)]",
        "Sparsity(density=" + "(" * 300 + "1" + ")" * 300 + ")",
        "Sparsity(density=" + "-" * 4000 + "1)",
        "Sparsity(density=0.5" + " " * 5000 + ")",
        "Sparsity(density='\0')",
    ],
)
def test_anything_but_a_call_with_literals_is_refused(text):
    with pytest.raises(ValueError, match="is not of the form"):
        plugins.from_repr(text)


def test_literals_of_a_repr_include_infinity():
    assert literal_call("pkg.Kind(-inf, (1, None), mode='a', flag=True)") == (
        "pkg.Kind",
        [-float("inf"), (1, None)],
        {"mode": "a", "flag": True},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Elastic(density=0.5)", "no installed plug-in has the constraint class `Elastic`; install .*Sparsity"),
        ("Sparsity(density=2.0)", "must be in \\(0, 1\\]"),
        ("Sparsity(size=2.0)", "TypeError.*unexpected keyword argument 'size'"),
        ("Sparsity()", "TypeError.*missing"),
    ],
)
def test_reprs_that_build_nothing_say_why(text, message):
    with pytest.raises(ValueError, match=message):
        plugins.from_repr(text)


# The seam: what a plug-in does wrong while training


@dataclasses.dataclass(frozen=True)
class Faulty(Constraint):
    fault: str

    def project(self, weights):
        if self.fault == "raises":
            raise KeyError("lost")
        if self.fault == "raises in place":
            weights["w"].zero_()
            raise KeyError("lost")
        if self.fault == "aliases":
            return weights
        if self.fault == "dict":
            return dict(weights)
        if self.fault == "names":
            return weights.like({"v": weights["w"].clone()})
        change = {
            "NaN": lambda t: t.log(),
            "infinite": lambda t: t / 0,
            "shape": lambda t: t.reshape(1, -1),
            "float64": torch.Tensor.double,
            "none": torch.clone,
            "changed": lambda t: t.mul_(2).clone(),
        }[self.fault]
        return weights.map(change)


SEAM = {
    "raises": "raised KeyError: 'lost'; the weights are as before",
    "raises in place": "raised KeyError: 'lost'; the weights are lost, as it changed them in place",
    "aliases": "returned its argument for `w`",
    "dict": "returned a dict in place of Weights",
    "names": r"returned the tensors \['v'\] for \['w'\]",
    "NaN": "returned NaN or infinite values for `w`; the weights are as before",
    "infinite": "returned NaN or infinite values for `w`",
    "shape": r"returned shape \(1, 3\), torch.float32, cpu for `w` of shape \(3,\)",
    "float64": "returned shape .* torch.float64, cpu for",
    "changed": "changed its argument in place; the weights are lost",
}


def parameters(*values):
    return Weights({"w": nn.Parameter(torch.tensor(values))})


@pytest.mark.parametrize("fault", SEAM)
@pytest.mark.parametrize("kind", [ProjectedGradient, ADMM])
def test_a_projection_at_fault_is_named_and_the_weights_are_kept(fault, kind):
    message = rf"(?s)the constraint Faulty\(fault='{fault}'\) of module .*test_plugins {SEAM[fault]}.*check_constraint"
    for act in (lambda s: s.step(), lambda s: s.finalize(), lambda s: s.holds(), lambda s: finalize([s])):
        weights = parameters(-1.0, 2.0, 3.0)
        with pytest.raises(RuntimeError, match=message) as refused:
            act(kind(weights, Faulty(fault)))
        if "lost" not in SEAM[fault].split(";")[-1]:
            assert weights["w"].tolist() == [-1, 2, 3]
        if fault.startswith("raises"):
            assert isinstance(refused.value.__cause__, KeyError)


def test_a_fault_near_an_earlier_point_is_named_too():
    @dataclasses.dataclass(frozen=True)
    class Near(Faulty):
        def project_near(self, weights, near):
            raise IndexError("near")

    admm = ADMM(parameters(1.0, 2.0), Near("none"))
    admm.step()
    with pytest.raises(RuntimeError, match="raised IndexError: near"):
        admm.step()


def test_a_projection_without_fault_passes_the_seam():
    for kind in (ProjectedGradient, ADMM):
        weights = parameters(-1.0, 2.0, 3.0)
        solver = kind(weights, Faulty("none"))
        solver.step(), solver.step(), solver.finalize()
        assert solver.holds()
        assert weights["w"].tolist() == [-1, 2, 3]
    assert not ProjectedGradient(weights, Sparsity(0.4)).holds()


def test_a_weight_that_is_not_finite_is_not_blamed_on_the_constraint():
    weights = parameters(float("nan"), 1.0)
    with pytest.raises(FloatingPointError, match=r"\['w'\] infinite or NaN"):
        ProjectedGradient(weights, Quantization(1)).finalize()


def test_half_precision_sums_that_overflow_are_no_fault():
    weights = Weights({"w": nn.Parameter(torch.full((4,), 60000.0, dtype=torch.float16))})
    ProjectedGradient(weights, Sparsity(0.5)).step()
    assert weights.nnz() == 2
