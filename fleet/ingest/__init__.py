"""Telemetry on the control host: taken in once, acknowledged after the commit, kept as sums.

In the order of a message: `decode` (bytes to facts), `marks` (what is new), `sums` (what it adds up
to), `rows` (the tables), `service` (the loop that commits and acknowledges). `figures` and
`queries` read; `alerts` decides who is told. `decode`, `marks`, `sums` and `alerts` are pure.
"""
