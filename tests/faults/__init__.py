"""Faults of the catalogue, by their numbers: what is injected, and what is still true."""
