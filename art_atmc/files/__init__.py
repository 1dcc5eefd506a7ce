"""The compressed file: from weights to bytes and back, and to other formats.

The names are loaded when they are first used: a file is read without a network, and without ONNX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
