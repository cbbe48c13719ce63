"""Distillation from the unpruned network."""
