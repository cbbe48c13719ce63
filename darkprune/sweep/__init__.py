"""Sweeps of the pruning ratio: the points, what measures them, and their picture."""
