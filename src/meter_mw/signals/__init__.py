"""Signals: what changed in how subjects use the API, found in the ledger and told once."""
