"""What a run leaves to read: log, curves, progress."""
