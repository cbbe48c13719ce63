"""One class per section kind; importing this package registers them all."""

from darkprune.layers import (  # noqa: F401  (imported to register)
    convolution,
    dense,
    heads,
    merge,
    norm,
    pooling,
    recurrent,
    resample,
    simple,
)
from darkprune.layers.base import COMMON_KEYS, INPUT, KINDS, Axis, Blob, Feature, Kind, Net, Role

__all__ = ["COMMON_KEYS", "INPUT", "KINDS", "Axis", "Blob", "Feature", "Kind", "Net", "Role"]
