"""Watches the router at work: drift alarms, slices, audits, trials of a second bundle."""
