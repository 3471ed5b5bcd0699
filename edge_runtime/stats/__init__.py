"""Pure statistics shared by the daemon, the export tools and the fleet.

Values in, values out: no clock, no I/O, no randomness, nothing but numpy and the standard
library. What is promised, and what for, is said in each module's first lines.
"""
