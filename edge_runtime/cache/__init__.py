"""Answers kept for the same question: exact matches only, bounded, purgeable."""
