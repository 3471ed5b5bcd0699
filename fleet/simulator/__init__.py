"""A fleet that is not there: boxes with the real decisions and invented machines.

In the order of a box: `world` (bundles and what is wrong with them), `faults` (what befalls it,
when), `wire` (messages twice and out of order), `traffic` and `spool` (its telemetry), `install`
(from a want to what serves, by the agent's own decider), `box` (all of it: events in, messages
out). All of that is pure: time comes in as a number of simulated seconds, randomness from a seed.
`mqtt` and `swarm` are the shell: one connection a box, to a real broker.
"""
