"""Figures: the daemon through HTTP, and peers on the same machine in the same run."""
