"""Pruning inside a training run."""
