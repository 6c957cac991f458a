"""Destinations of usage events, one file each."""

from __future__ import annotations

from meter_mw.sinks.base import Delivered, Duplicate, Outcome, Permanent, Retry, Sink, Unknown
from meter_mw.sinks.file import FileSink
from meter_mw.sinks.http import HttpSink
from meter_mw.sinks.stdout import StdoutSink

__all__ = [
    "Delivered",
    "Duplicate",
    "FileSink",
    "HttpSink",
    "Outcome",
    "Permanent",
    "Retry",
    "Sink",
    "StdoutSink",
    "Unknown",
]
