"""Joules: counters where there are any, models where not, each labelled by its source."""
