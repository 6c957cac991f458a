"""Invoices from a ledger: periods, changes of plan, credits, previews, and how they are shown."""
