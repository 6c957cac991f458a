"""The dashboard: pages of usage, bills, signals and delivery, for eyes; nothing can be changed by them."""

from meter_mw.dashboard.serving import app

__all__ = ["app"]
