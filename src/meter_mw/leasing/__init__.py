"""Leases: slices that the store has debited ahead, from which a process decides alone."""
