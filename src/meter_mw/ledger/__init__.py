"""The ledger: usage in a SQL database, which reports, rating and reconciliation stand on."""
