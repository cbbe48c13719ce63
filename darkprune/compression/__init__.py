"""From a checkpoint to a slim one, stage by stage."""
