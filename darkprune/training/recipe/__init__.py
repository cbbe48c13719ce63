"""What decides the result of a run: schedule, optimiser, averages, frozen layers."""
