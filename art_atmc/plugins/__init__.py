"""Constraints, attacks and objectives by name: what the installed distributions register under the entry points
``art_atmc.constraints``, ``art_atmc.attacks`` and ``art_atmc.objectives``.

Our own are registered in the same way. Listing reads metadata only: it imports no plug-in and not even torch. Asking
for a name loads that one, so a plug-in at fault stops nobody who does not ask for it. This guards against faults, not
against malice: a plug-in is code that runs with your rights. With ``ART_ATMC_PLUGINS=off`` in the environment only our
own exist.
"""

from __future__ import annotations

from art_atmc.plugins.literals import Field
from art_atmc.plugins.registry import Description, Plugin, available, describe, from_repr, listing, load, parse

__all__ = ["Description", "Field", "Plugin", "available", "describe", "from_repr", "listing", "load", "parse"]
