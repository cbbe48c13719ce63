"""One function per section kind, which makes its torch module; importing this package registers them all."""

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
from darkprune.network.modules.heads import head_activation
from darkprune.network.modules.recurrent import UNTRAINABLE

__all__ = [
    "BN_MOMENTUM",
    "UNTRAINABLE",
    "LayerModule",
    "head_activation",
    "kinds_with_modules",
    "make_module",
    "module_for",
]
