"""Proof that no record of the journal was changed, removed, put in or reordered."""
