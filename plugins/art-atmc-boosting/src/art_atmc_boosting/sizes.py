"""Where the bytes of a boosted file go."""

from __future__ import annotations

import dataclasses
from typing import final

from art_atmc import CompressedModel

__all__ = ["MemberSize", "member_sizes"]


@final
@dataclasses.dataclass(frozen=True)
class MemberSize:
    """A member within the file.

    :param name: of its module, such as ``members.0``.
    :param weight: its share in the sum.
    :param nonzeros: of its constrained weights.
    :param bytes: that its tensors take; names, shapes and constraints are shared by all members.
    :param codebook_bytes: of these, at most what codebooks take: 4 for each distinct non-zero value of each tensor.
    """

    name: str
    weight: float
    nonzeros: int
    bytes: int
    codebook_bytes: int


def member_sizes(compressed: CompressedModel) -> list[MemberSize]:
    """One row a member, in their order.

    :raises ValueError: for a file without members.
    """
    if not compressed.manifest.members:
        raise ValueError("the file holds one network, no ensemble")
    weights = compressed.tensor("weights").tolist()
    rows = []
    for (name, _), weight in zip(compressed.manifest.members.items(), weights, strict=True):
        member = compressed.member(name)
        tensors = member.weights()
        codes = sum(t[t != 0].unique().numel() for t in tensors.values())
        size = sum(len(tensor.record) for tensor in member.tensors.values())
        rows.append(MemberSize(name, weight, tensors.nnz(), size, 4 * codes))
    return rows
