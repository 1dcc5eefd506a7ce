"""An attack that goes on, epoch after epoch, from each training example's own last perturbation."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from art_atmc.attacks.base import Adversary, Problem, Rows
from art_atmc.attacks.pgd import PGD
from art_atmc.support.numbers import Real, check_numbers

__all__ = ["Perturbations", "Recycled"]

_SCALES = {torch.int8: 127.0, torch.float16: 1.0, torch.float32: 1.0}


@final
@dataclasses.dataclass(frozen=True)
class Recycled(Adversary):
    r"""PGD from where it stood an epoch ago (Zheng et al. 2020, ATTA, https://arxiv.org/abs/1912.11969).

    .. math:: x'_i = \mathrm{PGD}(x_i;\ \text{start } x_i + \delta_i), \qquad \delta_i \leftarrow x'_i - x_i

    Perturbations hardly age while the weights change little, so the attack converges over the epochs and one or two
    steps a batch do the work of ten. With ``free_step`` the gradient of the training step itself, which costs next to
    nothing in the inputs, moves :math:`\delta_i` one step more (Shafahi et al. 2019,
    https://arxiv.org/abs/1904.12843), after the batch was used.

    The memory is one number for each entry of the training data: a byte with ``torch.int8``, the perturbation in units
    of eps / 127 (47 MB for MNIST, 154 MB for CIFAR-10). It is a *start*: every example given out lies exactly in the
    ball. An image that augmentation shifted or mirrored is met by its perturbation shifted and mirrored alike.

    An object belongs to one training set; a second fit with the same data goes on from the first. Each process of
    several keeps those of its own examples, which come back to it in nearly every epoch. On data without rows,
    validation data for one, use :meth:`without_memory`.

    A perturbation that only ever goes on stays in the basin that it fell into, and the network learns to withstand
    those. With ``fresh`` a share of the batches begins again, as the first visit of an example does.

    :param attack: the steps of one visit.
    :param free_step: whether the training step's gradient is used too.
    :param first: where and how the first visit of an example begins, and a fresh one; the attack itself where it is
        None. A network that is trained already needs more steps than one there: against perturbations that have yet to
        grow it unlearns what it has.
    :param fresh: share of the batches that begin again, in [0, 1).
    :param dtype: what perturbations are kept in: ``torch.int8``, ``torch.float16`` or ``torch.float32``.
    :raises TypeError: when the attack, or the first one, is no :class:`~art_atmc.PGD`.
    :raises ValueError: for an attack with restarts, a first one of another ball, and another dtype; when called, for
        batches without rows and for examples that are not those whose perturbations are kept.

    >>> network = torch.nn.Linear(1, 2, bias=False)
    >>> _ = network.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 for x > 0
    >>> attack = Recycled(PGD(eps=0.5, eps_step=0.25, max_iter=1, random_start=False))
    >>> problem = Problem(network, rows=Rows(torch.tensor([7]), total=9))
    >>> x, y = torch.tensor([[2.0]]), torch.tensor([0])
    >>> attack(problem, x, y).tolist(), attack(problem, x, y).tolist()
    ([[1.75]], [[1.5]])
    """

    attack: PGD
    free_step: bool = True
    first: PGD | None = None
    fresh: float = 0.0
    dtype: torch.dtype = torch.int8
    memory: Perturbations = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, attack in (("attack", self.attack), ("first", self._first)):
            if not isinstance(attack, PGD):
                raise TypeError(
                    f"`{name}` must be a PGD, whose steps can go on from any point, got {type(attack).__name__}; "
                    "give Recycled(PGD(eps, eps_step, max_iter=1))"
                )
        faults = []
        if (restarts := max(self.attack.restarts, self._first.restarts)) > 1:
            faults.append(f"`attack` must have restarts=1, got {restarts}; each example has one perturbation")
        if (self.attack.eps, self.attack.norm) != (self._first.eps, self._first.norm):
            faults.append(
                f"`first` must have the ball of `attack`, eps={self.attack.eps} and norm={self.attack.norm}, got "
                f"eps={self._first.eps} and norm={self._first.norm}"
            )
        if self.dtype not in _SCALES:
            faults.append(f"`dtype` must be int8, float16 or float32, got {self.dtype}; int8 suffices")
        check_numbers(self, faults, fresh=Real("[0, 1)", "a fifth of the batches suffices"))
        object.__setattr__(self, "memory", Perturbations(self.attack.eps, self.dtype))

    @property
    def eps(self) -> float:
        """The radius."""
        return self.attack.eps

    @property
    def random_start(self) -> bool:
        """Whether the first visit of an example begins off the example itself."""
        return self._first.random_start

    @property
    def _first(self) -> PGD:
        return self.attack if self.first is None else self.first

    def __call__(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        rows = problem.rows
        if rows is None:
            raise ValueError(
                "`Recycled` keeps a perturbation for each training example and has to know which ones are in a batch. "
                "`fit` with arrays says so; a DataLoader, an ART generator and an augmentation without `draw` do not: "
                "give arrays, or train with the PGD itself"
            )
        motion = rows.motion
        kept, visited = self.memory.recall(rows, x)
        if self.fresh and self._drawn(problem.generator):
            visited = torch.zeros_like(visited)
        start = x + (kept if motion is None else motion(kept))
        attack = self.attack
        if not bool(visited.all()):  # the loss sees whole batches, so all of this one take the steps of a first visit
            attack = self._first
            start[~visited] = attack.random_point(problem, x[~visited]) if attack.random_start else x[~visited]
        adv = attack.ascend(problem, x, y, start)

        def keep(point: Tensor) -> None:
            delta = point - x
            self.memory.keep(rows, delta if motion is None else motion.undo(delta, kept))

        keep(adv)
        if self.free_step:
            # The loss of the training step flows back into its inputs: the hook runs in its `backward()`.
            adv.requires_grad_().register_hook(lambda gradient: keep(self.attack.climb(problem, x, adv, gradient)))
        return adv

    def _drawn(self, generator: torch.Generator | None) -> bool:
        device = torch.device("cpu") if generator is None else generator.device
        return bool(torch.rand((), generator=generator, device=device) < self.fresh)

    def with_steps(self, attack: PGD) -> Recycled:
        """The same memory, which goes on to be written, with other steps; those of a first visit reach as far."""
        other = copy.copy(self)
        object.__setattr__(other, "attack", attack)
        if (first := self.first) is not None:
            first = dataclasses.replace(first, eps=attack.eps, eps_step=first.eps_step * attack.eps / first.eps)
            object.__setattr__(other, "first", first)
        return other

    def without_memory(self) -> PGD:
        """Ten steps that reach the far side of the ball, from a random start."""
        return dataclasses.replace(self.attack, eps_step=0.25 * self.attack.eps, max_iter=10, random_start=True)

    def state_dict(self) -> dict[str, Any]:
        return self.memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(state)


@final
class Perturbations:
    r"""One perturbation for each training example, by its row.

    :param eps: the radius; no entry is larger.
    :param dtype: how an entry is kept; int8 rounds to :math:`\epsilon / 127`.

    >>> memory = Perturbations(127.0, torch.int8)
    >>> rows, x = Rows(torch.tensor([2]), total=4), torch.zeros(1, 3)
    >>> memory.recall(rows, x)
    (tensor([[0., 0., 0.]]), tensor([False]))
    >>> memory.keep(rows, torch.tensor([[127.0, -3.2, 0.0]]))
    >>> memory.recall(rows, x), memory.nbytes
    ((tensor([[127.,  -3.,   0.]]), tensor([True])), 12)
    """

    def __init__(self, eps: float, dtype: torch.dtype) -> None:
        self.eps, self.dtype = eps, dtype
        self._scale = _SCALES[dtype] / eps
        self._data: str | None = None
        self._values = torch.empty(0, dtype=dtype)
        self._visited = torch.empty(0, dtype=torch.bool)

    @property
    def nbytes(self) -> int:
        """Memory of the perturbations."""
        return self._values.nbytes

    def recall(self, rows: Rows, x: Tensor) -> tuple[Tensor, Tensor]:
        """The perturbations of these examples, shaped and typed as ``x``, and which of them were visited before;
        zero for the others.

        :raises ValueError: when those kept are of other training data.
        """
        if self._data is None:
            self._data = rows.data
            self._values = self._values.new_zeros((rows.total, *x.shape[1:]))
            self._visited = self._visited.new_zeros(rows.total)
        elif (self._data, *self._values.shape) != (rows.data, rows.total, *x.shape[1:]):
            raise ValueError(
                f"the perturbations are those of {len(self._values)} other examples, shape "
                f"{tuple(self._values.shape[1:])}, and the training data has {rows.total} of shape "
                f"{tuple(x.shape[1:])}, in an order of its own; build a new `Recycled` for it, or give the data as it "
                "was, in the order in which it was"
            )
        self._values, self._visited = self._values.to(x.device), self._visited.to(x.device)
        index = rows.index.to(x.device)
        return torch.empty_like(x).copy_(self._values[index]).div_(self._scale), self._visited[index]

    def keep(self, rows: Rows, delta: Tensor) -> None:
        """Remember the perturbations of these examples."""
        scaled = delta.detach() * self._scale
        index = rows.index.to(delta.device)
        self._values[index] = (scaled.round_().clamp_(-127, 127) if self.dtype == torch.int8 else scaled).to(self.dtype)
        self._visited[index] = True

    def state_dict(self) -> dict[str, Any]:
        return {"eps": self.eps, "data": self._data, "values": self._values, "visited": self._visited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        :raises ValueError: for perturbations of another radius or dtype.
        """
        if (state["eps"], state["values"].dtype) != (self.eps, self.dtype):
            raise ValueError(
                f"the perturbations were kept for eps={state['eps']} as {state['values'].dtype}, and the attack has "
                f"eps={self.eps} and {self.dtype}; go on with the attack that they were kept for"
            )
        self._data = state["data"]
        self._values, self._visited = state["values"].clone(), state["visited"].clone()
