"""Training: darknet's losses, augmentation and schedules; sparse training, distillation, pruning while training."""
