"""The compressed network itself: made from a trained classifier, saved, loaded, and turned back into one."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

import torch
from art.estimators.classification import PyTorchClassifier
from pydantic import JsonValue
from torch import Tensor, nn

from art_atmc.classifiers.compressed import CompressedClassifier
from art_atmc.compression.constraints import Constraint
from art_atmc.compression.factors import LowRankPlusSparse, decompose_weight, decomposed
from art_atmc.compression.weights import Weights, compressible, unwrapped
from art_atmc.files.container import Entry, Index, check_names, read, serialized, write
from art_atmc.files.encoding import DTYPES, EncodedTensor, decode, encode
from art_atmc.files.manifest import Manifest, classifier_options
from art_atmc.files.manifest import manifest as describe
from art_atmc.files.state_names import differences, plain, stored, tied, torch_names
from art_atmc.inference.optimize import multiply_adds, optimized
from art_atmc.networks import NETWORKS

if TYPE_CHECKING:
    from art_atmc.files.size_report import Report

__all__ = ["CompressedModel"]

MAX_BYTES = 1 << 30


@final
@dataclasses.dataclass(frozen=True)
class CompressedModel:
    r"""A network that obeys its constraints exactly, encoded near the entropy bound.

    Weights that are zero cost their share of :math:`n\,h(z/n)` bits for the positions, the others the entropy of their
    codes (see :func:`art_atmc.files.encoding.entropy_bits`). Factors are stored as U, V and C, so that what is
    restored is what was trained, bit for bit.

    Made by :meth:`art_atmc.ATMCTrainer.compress`, :meth:`of` or :meth:`load`.

    >>> from torch.nn import CrossEntropyLoss, Linear
    >>> from art_atmc import Sparsity
    >>> layer = Linear(64, 10)
    >>> with torch.no_grad():
    ...     _ = layer.weight[:, 6:].zero_()
    >>> classifier = PyTorchClassifier(layer, CrossEntropyLoss(), (64,), 10)
    >>> small = CompressedModel.of(classifier, [Sparsity(density=0.1)])
    >>> torch.equal(small.restore(Linear(64, 10)).weight, layer.weight)
    True
    """

    manifest: Manifest
    index: Index
    tensors: Mapping[str, EncodedTensor]

    @classmethod
    def of(
        cls,
        classifier: PyTorchClassifier,
        constraints: Sequence[Constraint] = (),
        *,
        ignore: Sequence[str] = (),
        network: str | None = None,
        metrics: Mapping[str, JsonValue] | None = None,
    ) -> CompressedModel:
        """Encode the network of ``classifier``.

        :param constraints: what the weights must obey; checked here.
        :param ignore: patterns of the layers that the constraints leave alone.
        :param network: the network's name in :data:`art_atmc.networks.NETWORKS`, where it is one of them; then the
            file restores without a module.
        :param metrics: figures to keep in the file, such as accuracies.
        :raises TypeError: for another classifier than ART's for PyTorch.
        :raises ValueError: naming the constraints that do not hold, a network that is not the named one, and settings
            that the file can't keep.
        """
        if not isinstance(classifier, PyTorchClassifier):
            raise TypeError(
                f"`classifier` must be an ART PyTorchClassifier, got {type(classifier).__name__}; wrap the torch "
                "module as PyTorchClassifier(model, loss, input_shape, nb_classes)"
            )
        model = classifier.model
        weights = compressible(model, ignore)
        _check_hold(constraints, weights, "fit() ends on weights that do, and later training breaks them")
        state = stored(model)
        ties = tied(state)
        tensors = {name: encode(tensor) for name, tensor in state.items() if name not in ties}
        index = Index(
            tensors={name: Entry.of(tensor) for name, tensor in tensors.items()},
            factored=list(decomposed(model)),
            compressed=list(weights),
            tied=ties,
            positions=_positions(classifier),
        )
        check_names(index)
        made = cls(describe(classifier, constraints, ignore, network, metrics), index, MappingProxyType(tensors))
        if network is not None:
            made._check_network()
        return made

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the file, whole or not at all: a process killed on the way leaves what was there before.

        :returns: the size of the file in bytes.
        :raises OSError: when it can't be written.
        """
        return write(Path(path), self.manifest, self.index, self._payload())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> CompressedModel:
        """Read a file that :meth:`save` wrote. Nothing in it is executed.

        :param max_bytes: most memory that its tensors may take once decoded; guards against files that announce
            more than a machine can hold.
        :raises OSError: when it can't be read.
        :raises ValueError: when it is no such file, is damaged, or was written by a newer version.
        """
        manifest, index, tensors = read(Path(path), max_bytes)
        _check_kinds(index, tensors)
        return cls(manifest, index, MappingProxyType(tensors))

    @property
    def file_bytes(self) -> int:
        """Size of the file that :meth:`save` writes."""
        return len(serialized(self.manifest, self.index, self._payload()))

    def restore(self, module: nn.Module | None = None, *, optimize: bool = False) -> nn.Module:
        """Put the tensors into ``module``, in place, bit for bit; on the module's device.

        Weights that were trained as factors become factored there (:func:`art_atmc.recompose` folds them). The module
        comes back in evaluation mode.

        :param module: a network of the same architecture; by default the named one of the manifest.
        :param optimize: replace layers by smaller ones where zeros and factors allow fewer operations; for inference,
            as outputs agree to rounding only.
        :returns: ``module``.
        :raises ValueError: when the module's parameters are others, all differences named; it is unchanged then.
        """
        if module is None:
            self._check_network()  # first, since a wrong number of classes may ask for any amount of memory
            with torch.random.fork_rng(devices=[]):
                module = self._built()
        self._check_fits(module, "the module")
        values = self.decoded()  # all of them, so that a broken record leaves the module as it was
        for name in set(self.index.factored) - decomposed(module).keys():
            decompose_weight(module, name)
        names = torch_names(module)
        unwrapped(module).load_state_dict({names.get(name, name): values[name] for name in values})
        module.eval()
        return optimized(module, self.index.positions) if optimize else module

    def classifier(
        self, module: nn.Module | None = None, *, optimize: bool = False, loss: nn.Module | None = None, **options: Any
    ) -> CompressedClassifier:
        """An ART classifier round the restored network.

        :param module: as for :meth:`restore`.
        :param optimize: as for :meth:`restore`.
        :param loss: by default the cross-entropy.
        :param options: further arguments of ``PyTorchClassifier``, in place of what the manifest says.
        """
        return CompressedClassifier(
            self.restore(module, optimize=optimize),
            nn.CrossEntropyLoss() if loss is None else loss,
            tuple(self.manifest.input_shape),
            self.manifest.nb_classes,
            **classifier_options(self.manifest, options),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """A plain dense state dict, factors folded; a network needs nothing of this package to load it."""
        values = self.decoded()
        state: dict[str, Tensor] = {}
        for name, value in values.items():
            weight = self.owner(name)
            if weight == name:
                state[name] = value
            elif weight not in state:
                factors = [values[f"{weight}.{factor}"] for factor in LowRankPlusSparse.names]
                state[weight] = LowRankPlusSparse(factors[-1].shape)(*factors)
        return state

    def weights(self) -> Weights:
        """The tensors that the constraints hold for, decoded."""
        values = self.decoded()
        whole = [f"{name}.C" for name in self.index.factored]  # a factor C has the shape of its W
        counted = [n for n in self.index.compressed if self.owner(n) == n or n in whole]
        return Weights({n: values[n] for n in self.index.compressed}, sum(values[n].numel() for n in counted))

    def verify(self) -> None:
        """Check that the weights obey the constraints of the manifest, as a receiver of the file may want to.

        :raises ValueError: naming the constraints that do not hold, or that no installed plug-in knows.
        """
        from art_atmc.plugins import from_repr

        _check_hold([from_repr(text) for text in self.manifest.constraints], self.weights(), "do not trust the file")

    def report(self) -> Report:
        """What the file consists of, beside the bounds it is measured against."""
        from art_atmc.files.size_report import report

        return report(self)

    def decoded(self) -> dict[str, Tensor]:
        """All tensors as they are stored, factors as ``layer.weight.U``, tied ones under each name."""
        values = {name: _decoded(name, tensor) for name, tensor in self.tensors.items()}
        return values | {name: values[first] for name, first in self.index.tied.items()}

    def owner(self, name: str) -> str:
        """The weight that tensor ``name`` is a factor of; ``name`` itself for others."""
        weight = name.rpartition(".")[0]
        return weight if weight in self.index.factored else name

    def _payload(self) -> bytes:
        return b"".join(tensor.record for tensor in self.tensors.values())

    def _built(self) -> nn.Module:
        if self.manifest.network is None:
            raise ValueError("the file names no network; hand over the module: restore(module), or --network")
        if self.manifest.network not in NETWORKS:
            raise ValueError(f"there is no network `{self.manifest.network}`; the names are {', '.join(NETWORKS)}")
        return NETWORKS[self.manifest.network](self.manifest.nb_classes)

    def _check_network(self) -> None:
        with torch.device("meta"):
            self._check_fits(self._built(), f"the network `{self.manifest.network}`")

    def _check_fits(self, module: nn.Module, what: str) -> None:
        """Compare names, shapes, types and ties before anything is decoded."""
        expected = {name: t.like for name, t in self.tensors.items() if self.owner(name) == name}
        expected |= {name: self.tensors[f"{name}.C"].like for name in self.index.factored}
        expected |= {name: expected[first] for name, first in self.index.tied.items()}
        if offences := differences(expected, self.index, module, what):
            raise ValueError(f"{what} does not fit the compressed model:\n  " + "\n  ".join(offences[:20]))


def _decoded(name: str, tensor: EncodedTensor) -> Tensor:
    try:
        return decode(tensor)
    except ValueError as error:
        raise ValueError(f"the record of `{name}` is broken: {error}") from None


def _check_hold(constraints: Sequence[Constraint], weights: Weights, remedy: str) -> None:
    if failing := {c: v for c in constraints if not (v := c.violation(weights)) <= 0}:  # NaN holds nothing
        distances = ", ".join(f"{c} (squared distance {v:.3g})" for c, v in failing.items())
        raise ValueError(f"the weights do not obey {distances}; {remedy}")


def _check_kinds(index: Index, tensors: Mapping[str, EncodedTensor]) -> None:
    """Refuse factors that have no product, and weights that are no real numbers."""
    if whole := [name for name in index.compressed if not DTYPES[tensors[name].dtype].is_floating_point]:
        raise ValueError(f"constraints hold for floating-point weights only, not for {whole[:5]}")
    for name in index.factored:
        U, V, C = (tensors[f"{name}.{factor}"] for factor in LowRankPlusSparse.names)
        rows, columns = C.shape[:1], (math.prod(C.shape[1:]),)
        square = min(rows, columns)
        shapes = (square * 2, rows + columns) if rows <= columns else (rows + columns, square * 2)
        fit = (U.shape, V.shape) == shapes and U.dtype == V.dtype == C.dtype
        if len(C.shape) < 2 or not fit or not DTYPES[C.dtype].is_floating_point:
            raise ValueError(f"the factors of `{name}` do not fit one another")


def _positions(classifier: PyTorchClassifier) -> dict[str, int]:
    dtype = next((p.dtype for p in classifier.model.parameters() if p.is_floating_point()), torch.float32)
    sample = torch.zeros(1, *classifier.input_shape, device=classifier.device, dtype=dtype)
    sizes = {name: tensor.numel() for name, tensor in plain(classifier.model).items()}
    try:
        counts = multiply_adds(unwrapped(classifier.model), sample)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return {}  # a network that takes no such input, as of words; its report counts no multiply-adds
    # What another parametrization or a hook computes is no tensor of the file, and an empty weight has no product.
    return {name: count.dense // sizes[name] for name, count in counts.items() if sizes.get(name)}
