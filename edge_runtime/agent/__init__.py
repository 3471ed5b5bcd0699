"""The box's side of a fleet: what it is told, what it decides, what it reports."""
