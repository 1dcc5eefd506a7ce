"""The compressed network itself: made from a trained one, saved, loaded, and turned back into one."""

from __future__ import annotations

import dataclasses
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
from art_atmc.compression.factors import LowRankPlusSparse, decompose_weight
from art_atmc.compression.weights import Weights, unwrapped
from art_atmc.files.admission import check_kinds, check_products
from art_atmc.files.container import read, serialized, write
from art_atmc.files.encoding import EncodedTensor, decode
from art_atmc.files.index import Index
from art_atmc.files.making import check_members, encoded_parts, verify
from art_atmc.files.manifest import Manifest, classifier_options
from art_atmc.files.state_names import differences, factored, torch_names
from art_atmc.inference.optimize import optimized
from art_atmc.networks import NETWORKS

if TYPE_CHECKING:
    from art_atmc.files.size_report import Report

__all__ = ["CompressedModel"]

MAX_BYTES = 1 << 30


@final
@dataclasses.dataclass(frozen=True, repr=False)
class CompressedModel:
    r"""A network that obeys its constraints exactly, encoded near the entropy bound.

    Weights that are zero cost their share of :math:`n\,h(z/n)` bits for the positions, the others the entropy of their
    codes (see :func:`art_atmc.files.encoding.entropy_bits`). Factors are stored as U, V and C, so that what is
    restored is what was trained, bit for bit.

    Made by :meth:`art_atmc.ATMCTrainer.compress`, :meth:`of` or :meth:`load`.

    >>> from torch.nn import Linear
    >>> from art_atmc import Sparsity
    >>> layer = Linear(64, 10)
    >>> with torch.no_grad():
    ...     _ = layer.weight[:, 6:].zero_()
    >>> small = CompressedModel.of(layer, [Sparsity(density=0.1)])
    >>> torch.equal(small.restore(Linear(64, 10)).weight, layer.weight)
    True
    """

    manifest: Manifest
    index: Index
    tensors: Mapping[str, EncodedTensor]

    @classmethod
    def of(
        cls,
        classifier: PyTorchClassifier | nn.Module,
        constraints: Sequence[Constraint] = (),
        *,
        ignore: Sequence[str] = (),
        network: str | None = None,
        metrics: Mapping[str, JsonValue] | None = None,
        members: Mapping[str, CompressedModel] | None = None,
        input_shape: Sequence[int] | None = None,
        mantissa_bits: int | None = None,
    ) -> CompressedModel:
        """Encode the network of ``classifier``, or any other network.

        :param classifier: an ART classifier, or a torch module: a generator, a codec.
        :param constraints: what the weights must obey; checked here.
        :param ignore: patterns of the layers that the constraints leave alone.
        :param network: the network's name in :data:`art_atmc.networks.NETWORKS`, where it is one of them; then the
            file restores without a module.
        :param metrics: figures to keep in the file, such as accuracies.
        :param members: networks within the network, such as those of an ensemble, as they were compressed, by the names
            of their modules. What holds for each of them alone is kept; :meth:`member` gives them back.
        :param input_shape: of one example of a module, for its multiply-adds and its ONNX graph; a classifier has one.
        :param mantissa_bits: round what the constraints leave alone (biases, normalisation, ignored layers) to so many
            bits of mantissa, of which float32 has 23; the file then restores another network than this one, which is
            the one to test. By default nothing is rounded.
        :raises TypeError: for anything but a classifier of torch or a module.
        :raises ValueError: naming the constraints that do not hold, a network that is not the named one, and all that
            the file can't keep.
        """
        members = members or {}
        parts = encoded_parts(classifier, constraints, ignore, network, metrics, members, input_shape, mantissa_bits)
        made = cls(*parts)
        check_members(made, members)
        if network is not None:
            made.check_network()
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

        :param max_bytes: most memory that decoding its tensors may take, which bounds the time of it too; guards
            against files that announce more than a machine can hold.
        :raises OSError: when it can't be read.
        :raises ValueError: when it is no such file, is damaged, or was written by a newer version.
        """
        manifest, index, tensors = read(Path(path), max_bytes)
        check_kinds(index, tensors)
        check_products(index, tensors, max_bytes)
        return cls(manifest, index, MappingProxyType(tensors))

    @property
    def file_bytes(self) -> int:
        """Size of the file that :meth:`save` writes."""
        return len(serialized(self.manifest, self.index, self._payload()))

    @property
    def dense_bytes(self) -> int:
        """Size of the dense tensors in memory, tied ones once."""
        own = [tensor for name, tensor in self.tensors.items() if self.owner(name) == name or name.endswith(".C")]
        return sum(tensor.dense_bytes for tensor in own)

    def __repr__(self) -> str:
        held = ", ".join(self.manifest.constraints) or "no constraint"
        size = sum(len(tensor.record) for tensor in self.tensors.values())
        return f"<CompressedModel: {len(self.tensors)} tensors in {size:,} bytes, {held}>"

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
            self.check_network()  # first, since a wrong number of classes may ask for any amount of memory
            with torch.random.fork_rng(devices=[]):
                module = self.built()
        self._check_fits(module, "the module")
        values = self.decoded()  # all of them, so that a broken record leaves the module as it was
        theirs = torch_names(module)
        for name in {*self.index.factored} - factored(module).keys():
            decompose_weight(unwrapped(module), theirs[name])
        names = torch_names(module)
        unwrapped(module).load_state_dict({names[name]: values[name] for name in values})
        module.eval()
        return optimized(module, self.index.positions) if optimize else module

    def classifier(
        self, module: nn.Module | None = None, *, optimize: bool = False, loss: nn.Module | None = None, **options: Any
    ) -> CompressedClassifier:
        """An ART classifier around the restored network.

        :param module: as for :meth:`restore`.
        :param optimize: as for :meth:`restore`.
        :param loss: by default the cross-entropy.
        :param options: further arguments of ``PyTorchClassifier``, in place of what the manifest says.
        :raises ValueError: when the network is no classifier's, and as :meth:`restore` does.
        """
        settings = classifier_options(self.manifest, options)
        return CompressedClassifier(
            self.restore(module, optimize=optimize),
            nn.CrossEntropyLoss() if loss is None else loss,
            tuple(self.manifest.input_shape or ()),
            self.manifest.nb_classes,
            **settings,
        )

    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example.

        :raises ValueError: when the file does not say it.
        """
        if self.manifest.input_shape is None:
            raise ValueError("the file says no input shape; make it with CompressedModel.of(..., input_shape=...)")
        return tuple(self.manifest.input_shape)

    def member(self, name: str) -> CompressedModel:
        """A network within the network, as it was compressed.

        :raises KeyError: when there is none of this name, naming those that there are.
        """
        if name not in self.manifest.members:
            raise KeyError(f"there is no member {name!r}; there are {', '.join(self.manifest.members) or 'none'}")
        prefix = f"{name}."

        def own(names: Any) -> Any:
            within = [n for n in names if n.startswith(prefix)]
            if isinstance(names, Mapping):
                return {n.removeprefix(prefix): names[n] for n in within}
            return [n.removeprefix(prefix) for n in within]

        tied = {n: first.removeprefix(prefix) for n, first in own(self.index.tied).items() if first.startswith(prefix)}
        index = Index(**{field: own(value) for field, value in self.index} | {"tied": tied})
        return CompressedModel(self.manifest.members[name], index, MappingProxyType(own(self.tensors)))

    def state_dict(self) -> dict[str, Tensor]:
        """A plain dense state dict, factors folded; a network needs nothing of this package to load it."""
        state: dict[str, Tensor] = {}
        for name in self.tensors:
            weight = self.owner(name)
            if weight == name:
                state[name] = self.tensor(name)
            elif weight not in state:
                state[weight] = self.folded(weight)
        return state | {name: state[first] for name, first in self.index.tied.items()}

    def weights(self) -> Weights:
        """The tensors that the constraints hold for, decoded."""
        values = {name: self.tensor(name) for name in self.index.compressed}
        whole = [f"{name}.C" for name in self.index.factored]  # a factor C has the shape of its W
        counted = [n for n in self.index.compressed if self.owner(n) == n or n in whole]
        return Weights(values, sum(values[n].numel() for n in counted))

    def verify(self, module: nn.Module | None = None) -> None:
        """Check that the weights obey the constraints of the manifest, as a receiver of the file may want to.

        What must obey them is looked up in the network: every weight that ``ignore`` of the manifest does not name. The
        file is not asked, since a forger would let the constraints hold for a bias.

        :param module: a network of the same architecture, which says what is a weight; by default the named one of the
            manifest. Without either, every tensor of two or more dimensions is taken for one.
        :raises ValueError: naming the constraints that do not hold, or that no installed plug-in knows, and weights
            that they were not applied to.
        """
        verify(self, module)

    def report(self) -> Report:
        """What the file consists of, beside the bounds it is measured against."""
        from art_atmc.files.size_report import report

        return report(self)

    def decoded(self) -> dict[str, Tensor]:
        """All tensors as they are stored, factors as ``layer.weight.U``, tied ones under each name."""
        values = {name: self.tensor(name) for name in self.tensors}
        return values | {name: values[first] for name, first in self.index.tied.items()}

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored.

        :raises ValueError: when its record is broken.
        """
        try:
            return decode(self.tensors[name])
        except ValueError as error:
            raise ValueError(f"the record of `{name}` is broken: {error}") from None

    def folded(self, name: str) -> Tensor:
        """The weight that the factors of ``name`` form."""
        U, V, C = (self.tensor(f"{name}.{factor}") for factor in LowRankPlusSparse.names)
        form = LowRankPlusSparse(C.shape)
        if not (U.any() and V.any()):  # spares the product
            return C + (V if form.wide else U).reshape(C.shape)
        return form(U, V, C)  # type: ignore[no-any-return]

    def owner(self, name: str) -> str:
        """The weight that tensor ``name`` is a factor of; ``name`` itself for others."""
        weight = name.rpartition(".")[0]
        return weight if weight in self.index.factored else name

    def check_network(self) -> nn.Module:
        """The network that the file names, without values; refused with a ``ValueError`` where it does not fit."""
        with torch.device("meta"):
            network = self.built()
        self._check_fits(network, f"the network `{self.manifest.network}`")
        return network

    def built(self) -> nn.Module:
        """The network that the file names, as it is before training."""
        name, nb_classes = self.manifest.network, self.manifest.nb_classes
        if name is None:
            raise ValueError("the file names no network; hand over the module: restore(module), or --network")
        if name not in NETWORKS:
            raise ValueError(f"there is no network `{name}`; the names are {', '.join(NETWORKS)}")
        if nb_classes is None:
            raise ValueError(f"the network `{name}` is a classifier, but the file says no number of classes")
        return NETWORKS[name](nb_classes)

    def _payload(self) -> bytes:
        return b"".join(tensor.record for tensor in self.tensors.values())

    def _check_fits(self, module: nn.Module, what: str) -> None:
        """Compare names, shapes, types and ties before anything is decoded."""
        expected = {name: t.like for name, t in self.tensors.items() if self.owner(name) == name}
        expected |= {name: self.tensors[f"{name}.C"].like for name in self.index.factored}
        expected |= {name: expected[first] for name, first in self.index.tied.items()}
        if offences := differences(expected, self.index, module, what):
            raise ValueError(f"{what} does not fit the compressed model:\n  " + "\n  ".join(offences[:20]))
