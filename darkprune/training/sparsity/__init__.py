"""Sparse training: an L1 penalty on the scales of batch normalisation."""
