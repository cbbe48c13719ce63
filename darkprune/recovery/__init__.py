"""Pruning without labels and without training: scores from the network's own outputs, refit, output distance.

Everything here runs networks in torch; commands import it only when it is asked for (METHODS §7).
"""
