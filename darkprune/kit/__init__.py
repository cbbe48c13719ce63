"""A folder to copy to a board: the network, the scripts that build, run and measure it, and how to use them."""

from darkprune.kit.schema import KitDescription, describe
from darkprune.kit.writer import KitReport, write_kit

__all__ = ["KitDescription", "KitReport", "describe", "write_kit"]
