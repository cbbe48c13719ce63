"""Which channels go: scores of the weights, thresholds, votes, constraints and budgets; no torch."""
