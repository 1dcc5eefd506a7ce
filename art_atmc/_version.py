"""The version of the package, for all who need a number and not the front door."""

__version__ = "0.1.0"
