"""Methods, budgets and recoveries side by side; sweeps of the pruning ratio."""
