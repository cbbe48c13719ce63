"""Which channels go, what stands in for them, and the cut."""
