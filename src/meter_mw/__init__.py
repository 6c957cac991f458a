"""A drop-in meter for HTTP APIs: count, limit, answer and forward."""

from meter_mw.exchange import UsageError, current
from meter_mw.journal import JournalError
from meter_mw.model import MeterError
from meter_mw.policy.loader import PolicyError, load
from meter_mw.policy.policy import Policy
from meter_mw.policy.terms import KeyEntry
from meter_mw.respond import Refusal
from meter_mw.stores.port import StoreUnavailable

__all__ = [
    "JournalError",
    "KeyEntry",
    "MeterError",
    "Policy",
    "PolicyError",
    "Refusal",
    "StoreUnavailable",
    "UsageError",
    "current",
    "load",
]
