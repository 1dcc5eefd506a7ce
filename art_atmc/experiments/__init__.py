"""Experiments: from settings and data to figures, files and a page about them."""
