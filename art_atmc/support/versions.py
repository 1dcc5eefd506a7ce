"""Which versions compute here, and which distribution a class comes from."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata

from packaging.utils import canonicalize_name

from art_atmc._version import __version__

__all__ = ["provider", "versions"]

LIBRARIES = ("adversarial-robustness-toolbox", "torch", "numpy")


def versions() -> dict[str, str]:
    """Of Python, this package and the libraries that compute."""
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "art-atmc": __version__, **libraries}


def provider(kind: type) -> str:
    """Where a class comes from: the distribution that registers it as a plug-in, else its module."""
    package = kind.__module__.partition(".")[0]
    for distribution in metadata.distributions():
        with contextlib.suppress(Exception):  # damaged metadata of others
            for point in distribution.entry_points:
                module, _, name = point.value.partition(":")
                ours = point.group.startswith("art_atmc.")
                if ours and (module.partition(".")[0], name) == (package, kind.__qualname__):
                    return f"{canonicalize_name(distribution.metadata['Name'])} {distribution.version}"
    return f"module {kind.__module__}"
