"""The training loop: steps, checkpoints, resume, several processes."""
