"""Methods, budgets and recoveries side by side."""
