"""An ART classifier as torch sees it.

The names are loaded when they are first used: an attack needs the modes of a network, and not ART.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
