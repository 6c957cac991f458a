"""Usage events kept on disk until every sink has them."""

from __future__ import annotations

from meter_mw.journal.durable import NotDurable
from meter_mw.journal.forwarder import Forwarder
from meter_mw.journal.frames import MAX_PAYLOAD, Flaw
from meter_mw.journal.journal import Journal
from meter_mw.journal.overflow import JournalFull
from meter_mw.journal.parked import Parked, parked_path, read_parked
from meter_mw.journal.reading import Damage, Entry, read_closings, read_journal
from meter_mw.journal.segments import HELD, JournalError, Position

__all__ = [
    "HELD",
    "MAX_PAYLOAD",
    "Damage",
    "Entry",
    "Flaw",
    "Forwarder",
    "Journal",
    "JournalError",
    "JournalFull",
    "NotDurable",
    "Parked",
    "Position",
    "parked_path",
    "read_closings",
    "read_journal",
    "read_parked",
]
