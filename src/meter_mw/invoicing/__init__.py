"""Invoicing: what the ledger has of a customer's usage, rated by the prices of the policy."""
