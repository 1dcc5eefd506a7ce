"""The trade-off between size, accuracy and robustness as one page: ``art-atmc report DIR``."""

from __future__ import annotations

try:
    import jinja2 as _jinja2  # noqa: F401
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"a report is drawn with matplotlib and Jinja2 ({error}); install them with: pip install 'art-atmc[report]'"
    ) from error

from art_atmc.experiments.report.page import write

__all__ = ["write"]
