"""Commands for looking at a network: checking, detecting, measuring, timing, reporting."""
