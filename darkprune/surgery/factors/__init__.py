"""Convolutions as products of smaller ones: projections, the rewritten network, its tensors; no torch."""
