"""Progress on the error stream."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def progress(quiet: bool) -> Iterator[bool]:
    """Show which network is worked on; yields whether to show how far each has got.

    The library shows bars where somebody may watch them, else a line an epoch, which a log file can hold.
    """
    logger = logging.getLogger("art_atmc.experiments")
    handler = logging.StreamHandler(sys.stderr)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield not quiet
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
