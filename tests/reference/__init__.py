"""A slow, independent numpy forward pass for Darknet networks: the referee of the tests.

Nothing here imports `darkprune`, and nothing in `darkprune` may import this: two readings of the same rules can only
check each other while they share no code. Checked layer by layer against AlexeyAB's darknet (see `forward.py`).
"""

from .forward import forward
from .loading import load, random_weights
from .network import ReferenceLayer, ReferenceNetwork

__all__ = ["ReferenceLayer", "ReferenceNetwork", "forward", "load", "random_weights"]
