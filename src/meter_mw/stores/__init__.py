"""Stores: what is asked of one, the reference in memory, and the one in Redis."""
