"""Answers served for questions that mean the same: hard gates, a certified score, audits."""
