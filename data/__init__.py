"""Radio maps: reading, simulating, preparing and scoring them. Imports nothing from the network package.

The names are those of `__init__.pyi`; each loads its module when it is first used, so that a command that only reads
files need not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
