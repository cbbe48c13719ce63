"""What holds for a whole network: wiring and shapes, channel labels, its weights file, totals."""
