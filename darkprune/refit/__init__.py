"""Repair without training: least squares, batch-normalisation statistics."""
