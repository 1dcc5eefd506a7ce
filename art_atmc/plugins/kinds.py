"""What can be had by name: each kind has a group of entry points and a class that its plug-ins derive from."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, final

__all__ = ["KINDS", "Kind"]


@final
@dataclasses.dataclass(frozen=True)
class Kind:
    """
    :param noun: what error messages call one.
    :param group: of the entry points.
    :param base: ``module:Class`` that they derive from; found when a plug-in of the kind is loaded.
    :param public: the name by which authors know that class.
    :param given: fields that the one who asks fills in, and no text does.
    """

    noun: str
    group: str
    base: str
    public: str
    given: tuple[str, ...] = ()

    def holds(self, loaded: Any) -> bool:
        """Whether what was loaded is a class of this kind."""
        return isinstance(loaded, type) and issubclass(loaded, pkgutil.resolve_name(self.base))


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.noun: kind
        for kind in (
            Kind("constraint", "art_atmc.constraints", "art_atmc.compression.constraints:Constraint",
                 "art_atmc.Constraint"),
            Kind("attack", "art_atmc.attacks", "art_atmc.attacks.base:Adversary", "art_atmc.attacks.Adversary"),
            Kind("objective", "art_atmc.objectives", "art_atmc.training.objectives:Objective",
                 "art_atmc.training.Objective", given=("attack", "attacks")),
        )
    }
)  # fmt: skip
"""By what they are called."""
