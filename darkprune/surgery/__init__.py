"""The cut: what a plan says, what removed channels leave behind, and the slim pair; no torch."""
