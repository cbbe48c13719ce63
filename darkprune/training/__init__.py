"""Training: darknet's losses, data augmentation, schedules; sparse training and distillation; exact resume."""
