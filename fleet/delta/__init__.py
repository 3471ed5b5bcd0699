"""Making tensor deltas between published bundles."""
