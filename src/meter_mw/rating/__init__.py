"""Rating: usage and prices into invoices. Pure: no clock, no ledger, no float."""
