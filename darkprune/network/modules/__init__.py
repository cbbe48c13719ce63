"""One torch module per section kind; importing this package registers them all."""

from darkprune.network.modules import (  # noqa: F401  (imported to register)
    convolution,
    heads,
    merge,
    pooling,
    recurrent,
    resample,
    simple,
)
from darkprune.network.modules.base import BN_MOMENTUM, LayerModule, kinds_with_modules, make_module, module_for
from darkprune.network.modules.recurrent import UNTRAINABLE

__all__ = [
    "BN_MOMENTUM",
    "UNTRAINABLE",
    "LayerModule",
    "kinds_with_modules",
    "make_module",
    "module_for",
]
