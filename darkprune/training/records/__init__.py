"""What a run reports: log, curves, progress."""
