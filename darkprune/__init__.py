"""darkprune: model surgery for networks in Darknet's .cfg/.weights form."""

__version__ = "0.1.0"
