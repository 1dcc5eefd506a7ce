"""Settings of the documentation; `make docs` builds it with warnings as errors and without the network."""

from __future__ import annotations

from art_atmc import __version__

project = "art-atmc"
author = "The art-atmc authors"
copyright = "2026, The art-atmc authors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax and its fonts lie beside the pages: formulas need no network
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False  # ART's own docstrings are not ours to render

html_theme = "furo"
html_title = f"art-atmc {__version__}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
