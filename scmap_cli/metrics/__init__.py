"""Scores and the neighbour graphs they stand on."""
