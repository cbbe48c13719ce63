"""Commands for compressing a checkpoint."""
