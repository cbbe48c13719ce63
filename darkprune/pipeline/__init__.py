"""Stages that follow one another, each done once: what `darkprune compress` is made of.

A stage is one of darkprune's own commands with its arguments. Its key is a hash of what decides its result: settings
and the contents of what it reads. A stage whose key stands in the run's manifest, with its files as they were, is not
done again; a training stage that was killed goes on from its state.
"""
