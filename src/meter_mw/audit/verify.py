"""Compares a journal with its book of seals, and names each record that is not as it was sealed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from meter_mw.audit import merkle
from meter_mw.audit.sealer import events_of
from meter_mw.audit.seals import BEFORE_ALL, Seal, SealError
from meter_mw.journal.estates import estate_paths, is_held, segment_numbers, segment_path

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from meter_mw.audit.book import Book
    from meter_mw.audit.seals import Checking


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was sealed."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


def verify(directory: Path, book: Book, key: Checking, *, head: str | None = None) -> Iterator[Finding]:
    """Check every seal, and every sealed segment that is still there.

    `head` is the digest of a seal that was noted elsewhere: without it nobody can tell that the last
    lines of the book were cut off together with their segments. Raises `OSError`.
    """
    seals = yield from _book(book, key)
    if head is not None and head not in {each.digest() for each in seals}:
        yield Finding(str(book.path), f"no seal has the digest {head}: the book was cut off or written anew")
    discarded = {(each.estate, each.segment) for each in seals if each.discarded}
    sealed = {(each.estate, each.segment): each for each in seals if not each.discarded}
    for place, seal in sealed.items():
        path = segment_path(directory / seal.estate, seal.segment)
        records = _records(path)
        if records is None and place not in discarded:
            discarded |= _discarded(book, key)
        yield from _leaves(path, book, seal, gone=records is None and place in discarded)
        if records is not None:
            yield from _segment(path, book, seal, records)
        elif place not in discarded:
            yield Finding(str(path), f"missing, with its {seal.events} records")
    yield from _unsealed(directory, sealed)


def _records(path: Path) -> list[bytes] | None:
    try:
        return list(events_of(path))
    except FileNotFoundError:
        return None


def _discarded(book: Book, key: Checking) -> set[tuple[str, int]]:
    """Read what is noted as deleted by now: a forwarder goes on while we look."""
    found = set()
    for line in book.lines():
        with contextlib.suppress(SealError):
            seal = Seal.decode(line)
            if seal.discarded and key.accepts(seal.message(), seal.signature):
                found.add((seal.estate, seal.segment))
    return found


def _book(book: Book, key: Checking) -> Generator[Finding, None, list[Seal]]:
    """Check the lines of the book, and return the seals that can be read."""
    seals: list[Seal] = []
    before = BEFORE_ALL
    for index, line in enumerate(book.lines()):
        place = f"{book.path}, line {index + 1}"
        try:
            seal = Seal.decode(line)
        except SealError as error:
            yield Finding(place, str(error))
            before = ""
            continue
        if before and seal.previous != before:
            yield Finding(place, f"seal {seal.number} does not follow the one before it")
        if seal.key != key.name:
            yield Finding(place, f"seal {seal.number} is of the key {seal.key}, not {key.name}")
        elif not key.accepts(seal.message(), seal.signature):
            yield Finding(place, f"the signature of seal {seal.number} is wrong: it was changed")
        if seal.number != index:
            yield Finding(place, f"expected seal {index}, found {seal.number}")
        before = seal.digest()
        seals.append(seal)
    return seals


def _leaves(path: Path, book: Book, seal: Seal, *, gone: bool) -> Iterator[Finding]:
    """Check the leaves; those of a segment that was deleted may be deleted too."""
    try:
        leaves = book.leaves(seal)
    except FileNotFoundError as error:
        if not gone:
            yield Finding(str(path), f"its leaves beside the book: {error.strerror}")
    except (OSError, SealError) as error:
        yield Finding(str(path), f"its leaves beside the book: {error}")
    else:
        if merkle.root(leaves).hex() != seal.root:
            yield Finding(str(path), "its leaves beside the book were changed")


def _segment(path: Path, book: Book, seal: Seal, records: list[bytes]) -> Iterator[Finding]:
    found = [merkle.leaf(each) for each in records]
    if merkle.root(found).hex() == seal.root:
        return
    try:
        leaves = book.leaves(seal)
    except (OSError, SealError):
        leaves = []
    named = list(_differences(path, leaves, found, records)) if merkle.root(leaves).hex() == seal.root else []
    said = f"holds {len(found)} records that are not the {seal.events} sealed ones"
    yield from named or [Finding(str(path), said)]


def _differences(
    path: Path, leaves: list[bytes], found: list[bytes], records: list[bytes]
) -> Iterator[Finding]:
    """Name the records that were changed or put in, are missing, or stand elsewhere."""
    expected_at = {leaf: index for index, leaf in enumerate(leaves)}
    found_at = {leaf: index for index, leaf in enumerate(found)}
    missing = [index for index, leaf in enumerate(leaves) if leaf not in found_at]
    strange = [index for index, leaf in enumerate(found) if leaf not in expected_at]
    changed = set(missing) & set(strange) if len(leaves) == len(found) else set()
    for index in strange:
        what = "was changed" if index in changed else "was put in"
        yield Finding(f"{path}, record {index}", f"{what}: {_id_of(records[index])}")
    for index in missing:
        if index not in changed:
            yield Finding(f"{path}, record {index}", "is missing")
    kept = [expected_at[leaf] for leaf in found if leaf in expected_at]
    for before, after in pairwise(kept):
        if after <= before:
            yield Finding(f"{path}, record {after}", f"stands behind record {before}")


def _id_of(record: bytes) -> str:
    try:
        event = json.loads(record)
        return f"event {event['id']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "no event"


def _unsealed(directory: Path, sealed: dict[tuple[str, int], Seal]) -> Iterator[Finding]:
    """Find closed segments without a seal; the last one of a living process is open yet."""
    for estate in estate_paths(directory):
        numbers = segment_numbers(estate)
        closed = numbers[:-1] if is_held(estate) else numbers
        for number in closed:
            if (estate.name, number) not in sealed:
                yield Finding(str(segment_path(estate, number)), "closed and not sealed")
