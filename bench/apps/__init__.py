"""The bare apps: one small JSON answer in each framework."""
