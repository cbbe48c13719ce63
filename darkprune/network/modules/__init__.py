"""One torch module per section kind; importing this package registers them all."""

from darkprune.network.modules import (  # noqa: F401  (imported to register)
    convolution,
    heads,
    merge,
    pooling,
    resample,
    simple,
)
from darkprune.network.modules.base import BN_MOMENTUM, MODULES, LayerModule, make_module

__all__ = ["BN_MOMENTUM", "MODULES", "LayerModule", "make_module"]
