"""Images of a training run: reading, augmentation, batches."""
