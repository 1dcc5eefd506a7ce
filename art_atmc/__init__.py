"""Train networks that are small and robust: ATMC for the Adversarial Robustness Toolbox.

The names are listed in ``__init__.pyi``. Each is loaded when it is first used: torch takes two seconds to import and
ART three, which ``art-atmc --help`` and a listing of plug-ins must not pay.
"""

import lazy_loader

from art_atmc._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
