"""What the control host knows: boxes and what they report, groups, tokens, who changed what.

Every function here takes a connection of `fleet.db.database` and does its part of a transaction;
whoever calls decides what belongs together. Modules without a connection are pure.
"""
