"""Rollouts: a change goes to boxes wave by wave, and stops by itself when it does harm.

In the order of a rollout: `plan` (what a person files), `waves` (who takes part when), `planner`
(what it will cost and what its guards can see), `machine` (what happens next), `progress` and
`evidence` (what boxes said), `guards` (what follows from it), `engine` (the only one that acts).
Everything but `engine`, `sql` and `cli` is pure.
"""
