"""Comparing what was recorded with what the store, the ledger and the backends have."""
