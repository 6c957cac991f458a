"""Proof that one event of one customer was recorded, which reveals no other's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.audit import merkle
from meter_mw.audit.seals import Seal, SealError
from meter_mw.journal.reading import Entry, read_journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meter_mw.audit.book import Book
    from meter_mw.audit.seals import Checking

_FORMAT = "meter_mw proof v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """An event as it was recorded, the hashes that lead from it to a root, and the seal of that root."""

    event: bytes
    index: int
    path: tuple[bytes, ...]
    seal: Seal

    def encode(self) -> str:
        """Give the proof as JSON."""
        return json.dumps(
            {
                "format": _FORMAT,
                "event": self.event.decode(),
                "index": self.index,
                "path": [each.hex() for each in self.path],
                "seal": json.loads(self.seal.encode()),
            },
            indent=2,
        )

    @classmethod
    def decode(cls, text: str | bytes) -> Proof:
        """Read a proof; raises SealError."""
        try:
            found = json.loads(text)
            if found["format"] != _FORMAT:
                raise SealError(f"expected {_FORMAT!r}, found {found['format']!r}")
            hashes = tuple(bytes.fromhex(each) for each in found["path"])
            seal = Seal.decode(json.dumps(found["seal"]).encode())
            return cls(str(found["event"]).encode(), int(found["index"]), hashes, seal)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise SealError("not a proof") from None

    def faults(self, key: Checking) -> list[str]:
        """Say what is wrong with the proof; nothing where it holds."""
        found = []
        if self.seal.key != key.name:
            found.append(f"the seal is of the key {self.seal.key}, not {key.name}")
        elif not key.accepts(self.seal.message(), self.seal.signature):
            found.append("the signature of the seal is wrong: it was changed")
        leaf, root = merkle.leaf(self.event), bytes.fromhex(self.seal.root)
        if not merkle.leads_to(leaf, self.index, self.seal.events, self.path, root):
            found.append("the event is not among the sealed records")
        return found


def prove(book: Book, event: bytes) -> Proof:
    """Prove that an event was recorded, by its very bytes. Raises SealError where no seal has it."""
    leaf, gone = merkle.leaf(event), 0
    for seal in book.seals():
        if seal.discarded:
            continue
        try:
            leaves = book.leaves(seal)
        except (OSError, SealError):
            gone += 1
            continue
        if leaf in leaves:
            index = leaves.index(leaf)
            return Proof(event, index, tuple(merkle.path(leaves, index)), seal)
    but = f", and the hashes of {gone} segments are gone" if gone else ""
    raise SealError(f"no sealed segment has this event; its segment may be open yet{but}")


def recorded(directory: Path, event_id: str) -> bytes | None:
    """Give the bytes of an event that is still in the journal, None where it is not; raises `OSError`."""
    return next((each for each in mentions(directory, event_id) if is_of(each, event_id)), None)


def mentions(directory: Path, event_id: str) -> Iterator[bytes]:
    """Give the events of a journal in whose bytes an id stands; raises `OSError`."""
    for found in read_journal(directory):
        if isinstance(found, Entry) and event_id.encode() in found.payload:
            yield found.payload


def is_of(payload: bytes, event_id: str) -> bool:
    """Say whether an event has an id."""
    try:
        return bool(json.loads(payload)["id"] == event_id)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
