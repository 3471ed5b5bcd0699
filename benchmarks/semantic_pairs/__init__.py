"""Pairs of real questions that judge the semantic cache: how they are made, how it does on them."""
