"""Conformance suites for those who write a store or a sink of their own."""
