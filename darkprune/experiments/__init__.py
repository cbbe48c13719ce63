"""Methods side by side: what `darkprune compare` is made of.

A *cell* is one method at one budget with one recovery and one seed. Each of its steps (cut, recovery, training,
measurement) leaves a record with a hash of what decided it, so that nothing is done twice and a killed run goes on.
"""
