"""Searches for a plan: candidates, rounds, measured latency and sensitivity curves."""
