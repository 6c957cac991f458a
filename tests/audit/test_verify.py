"""Whatever is done to a sealed journal is found, and the record named."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meter_mw.audit import merkle
from meter_mw.audit.book import Book
from meter_mw.audit.proofs import Proof, prove, recorded
from meter_mw.audit.sealer import Sealer
from meter_mw.audit.seals import HmacKey, Seal, SealError
from meter_mw.audit.verify import verify
from meter_mw.journal import Journal
from meter_mw.journal.estates import estate_paths, segment_numbers, segment_path
from meter_mw.journal.frames import CHAIN_START, Frame, Kind, encode, scan
from meter_mw.journal.holdings import Holdings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY = HmacKey(b"a secret of the seals")
SOURCE = "urn:meter-mw:shop"


def event(number: int) -> bytes:
    return json.dumps({"id": f"event-{number:04d}", "data": {"requests": 1}}).encode()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a journal of 60 events in several segments, closed and sealed."""
    directory = tmp_path / "journal"
    journal = Journal(directory, SOURCE, segment_bytes=2048)
    for number in range(60):
        journal.append(event(number))
    journal.close()
    sealer = Sealer(directory, SOURCE, KEY, clock=lambda: 1_767_225_600.0)
    for estate in estate_paths(directory):
        for number in segment_numbers(estate):
            assert sealer.sealed(estate, dead=True) == number
        assert sealer.sealed(estate, dead=True) == number + 1
    return directory


def findings(directory: Path, key: HmacKey = KEY, head: str | None = None) -> list[str]:
    found = verify(directory, Book(directory), key, head=head)
    return [str(each).removeprefix(f"{directory}/") for each in found]


def rewrite(path: Path, change: Callable[[list[bytes]], Sequence[bytes]]) -> None:
    """Write a segment anew with other events, every checksum and running hash right: a forger's work."""
    fd = path.open("rb")
    with fd:
        frames = [each for each in scan(fd.fileno()) if isinstance(each, Frame)]
    events = change([each.payload for each in frames if each.kind is Kind.EVENT])
    head, *_ = frames
    text, chain = encode(Kind.SEGMENT, CHAIN_START, head.payload)
    for each in events:
        frame, chain = encode(Kind.EVENT, chain, each)
        text += frame
    path.write_bytes(text)


def segments(directory: Path) -> list[Path]:
    (estate,) = estate_paths(directory)
    return [segment_path(estate, number) for number in segment_numbers(estate)]


def test_a_journal_as_it_was_sealed_has_no_findings(directory: Path) -> None:
    assert len(segments(directory)) > 2
    assert sum(each.events for each in Book(directory).seals()) == 60
    assert findings(directory) == []


def test_a_changed_record_is_named(directory: Path) -> None:
    path = segments(directory)[1]
    first = int(event_ids(path)[0][-4:])
    forged = event(first + 3).replace(b'"requests": 1', b'"requests": 0')
    rewrite(path, lambda events: [*events[:3], forged, *events[4:]])
    (found,) = findings(directory)
    assert found.endswith(f"record 3: was changed: event event-{first + 3:04d}")


def event_ids(path: Path) -> list[str]:
    with path.open("rb") as file:
        frames = [each for each in scan(file.fileno()) if isinstance(each, Frame)]
    return [json.loads(each.payload)["id"] for each in frames if each.kind is Kind.EVENT]


def test_a_removed_record_is_named(directory: Path) -> None:
    rewrite(segments(directory)[1], lambda events: [*events[:5], *events[6:]])
    (found,) = findings(directory)
    assert found.endswith("record 5: is missing")


def test_a_record_that_was_put_in_is_named(directory: Path) -> None:
    rewrite(segments(directory)[0], lambda events: [*events[:2], event(9999), *events[2:]])
    (found,) = findings(directory)
    assert found.endswith("record 2: was put in: event event-9999")


def test_records_that_changed_places_are_named(directory: Path) -> None:
    rewrite(segments(directory)[0], lambda events: [events[1], events[0], *events[2:]])
    (found,) = findings(directory)
    assert found.endswith("record 0: stands behind record 1")


def test_truncated_records_are_named(directory: Path) -> None:
    path = segments(directory)[0]
    count = len(event_ids(path))
    rewrite(path, lambda events: events[:-2])
    assert [each.partition(", ")[2] for each in findings(directory)] == [
        f"record {count - 2}: is missing",
        f"record {count - 1}: is missing",
    ]


def test_a_missing_segment_is_named_and_a_delivered_one_is_not(directory: Path) -> None:
    first, second, *_ = segments(directory)
    count = len(event_ids(first))
    first.unlink()
    (found,) = findings(directory)
    assert found.endswith(f"missing, with its {count} records")
    Sealer(directory, SOURCE, KEY).discarded(first.parent, [1])
    assert findings(directory) == []
    second.unlink()
    assert len(findings(directory)) == 1


def test_a_closed_segment_without_a_seal_is_named(directory: Path) -> None:
    journal = Journal(directory, SOURCE)
    journal.append(event(61))
    assert findings(directory) == []
    journal.close()
    (found,) = findings(directory)
    assert found.endswith("closed and not sealed")


@pytest.mark.parametrize("field", ["root", "events", "closed_us", "segment", "source"])
def test_a_changed_seal_is_named(directory: Path, field: str) -> None:
    book = Book(directory)
    lines = book.lines()
    stated = json.loads(lines[1])
    stated[field] = stated[field] + 1 if isinstance(stated[field], int) else "0" + stated[field][1:]
    book.path.write_bytes(b"\n".join([lines[0], json.dumps(stated).encode(), *lines[2:]]) + b"\n")
    found = findings(directory)
    assert "seals/book.jsonl, line 2: the signature of seal 1 is wrong: it was changed" in found
    assert "seals/book.jsonl, line 3: seal 2 does not follow the one before it" in found


def test_a_removed_seal_and_swapped_ones_are_named(directory: Path) -> None:
    book = Book(directory)
    lines = book.lines()
    book.path.write_bytes(b"\n".join([lines[0], *lines[2:]]) + b"\n")
    assert any("does not follow" in each for each in findings(directory))
    assert any("closed and not sealed" in each for each in findings(directory))
    book.path.write_bytes(b"\n".join([lines[1], lines[0], *lines[2:]]) + b"\n")
    assert any("expected seal 0, found 1" in each for each in findings(directory))


def test_seals_of_another_key_are_not_believed(directory: Path) -> None:
    """Who rewrites everything, and has not the key, is found."""
    forger = HmacKey(b"the secret of a forger")
    book = Book(directory)
    kept = list(book.seals())
    book.path.unlink()
    for each in kept:
        book.add(replace(each, root=each.root), forger)
    assert all("is of the key" in each for each in findings(directory))
    assert findings(directory, forger) == []
    for line in (forged := [replace(each, key=KEY.name).encode() for each in book.seals()]):
        assert b"hmac" in line
    book.path.write_bytes(b"\n".join(forged) + b"\n")
    assert any("signature of seal 0 is wrong" in each for each in findings(directory))


def test_a_book_that_was_cut_off_is_told_by_a_head_noted_elsewhere(directory: Path) -> None:
    book = Book(directory)
    head = list(book.seals())[-1].digest()
    assert findings(directory, head=head) == []
    segments(directory)[-1].unlink()
    book.path.write_bytes(b"\n".join(book.lines()[:-1]) + b"\n")
    assert findings(directory) == []
    (found,) = findings(directory, head=head)
    assert "the book was cut off or written anew" in found


def test_changed_leaves_are_named(directory: Path) -> None:
    leaves = min(Book(directory).folder.glob("*.leaves"))
    data = bytearray(leaves.read_bytes())
    data[0] ^= 1
    leaves.write_bytes(data)
    (found,) = findings(directory)
    assert found.endswith("its leaves beside the book were changed")


def test_an_event_is_proved_and_no_other_is_shown(directory: Path) -> None:
    record = recorded(directory, "event-0033")
    assert record == event(33)
    proof = prove(Book(directory), event(33))
    text = proof.encode()
    assert text.count("event-") == 1
    read = Proof.decode(text)
    assert read == proof
    assert read.faults(KEY) == []
    assert len(read.path) <= 6


def test_an_event_is_proved_after_its_segment_is_gone(directory: Path) -> None:
    for path in segments(directory):
        path.unlink()
    assert recorded(directory, "event-0033") is None
    assert prove(Book(directory), event(33)).faults(KEY) == []


def test_a_forged_proof_does_not_hold(directory: Path) -> None:
    proof = prove(Book(directory), event(33))
    forged = replace(proof, event=event(33).replace(b"1", b"2"))
    assert forged.faults(KEY) == ["the event is not among the sealed records"]
    root = merkle.leaf(forged.event).hex()
    resealed = replace(forged, path=(), index=0, seal=replace(proof.seal, root=root, events=1))
    assert resealed.faults(KEY) == ["the signature of the seal is wrong: it was changed"]
    (other,) = replace(proof, seal=proof.seal.signed(HmacKey(b"another"))).faults(KEY)
    assert "is of the key" in other


def test_what_was_never_recorded_is_not_proved(directory: Path) -> None:
    with pytest.raises(SealError, match="no sealed segment has this event"):
        prove(Book(directory), event(4444))
    assert recorded(directory, "event-4444") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x"}', '{"format": "meter_mw proof v1"}'])
def test_what_is_no_proof_is_said(text: str) -> None:
    with pytest.raises(SealError):
        Proof.decode(text)


def test_the_second_of_two_equal_records_is_missed(tmp_path: Path) -> None:
    """Both have one hash, so only their number tells."""
    journal = Journal(tmp_path, SOURCE, sealing=Sealer(tmp_path, SOURCE, KEY))
    for number in (1, 1, 2):
        journal.append(event(number))
    journal.close()
    (path,) = segments(tmp_path)
    rewrite(path, lambda events: events[1:])
    (found,) = findings(tmp_path)
    assert found.endswith("holds 2 records that are not the 3 sealed ones")


def test_a_segment_that_is_deleted_meanwhile_is_not_missing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The book is read before the segments, and the forwarder deletes in between."""
    (first, *_), sealer = segments(directory), Sealer(directory, SOURCE, KEY)
    leaves = Book.leaves

    def late(book: Book, seal: Seal) -> list[bytes]:
        if first.exists():
            first.unlink()
            sealer.discarded(first.parent, [1])
        return leaves(book, seal)

    monkeypatch.setattr(Book, "leaves", late)
    assert findings(directory) == []


def test_leaves_may_be_deleted_with_their_segment(directory: Path) -> None:
    """They are the operator's to delete when no dispute can come: newer events are proved all the same."""
    first, *_ = segments(directory)
    name = event_ids(first)[0]
    first.unlink()
    Sealer(directory, SOURCE, KEY).discarded(first.parent, [1])
    min(Book(directory).folder.glob("*.leaves")).unlink()
    assert findings(directory) == []
    assert prove(Book(directory), event(33)).faults(KEY) == []
    with pytest.raises(SealError, match="the hashes of 1 segments are gone"):
        prove(Book(directory), event(int(name[-4:])))


def test_a_segment_that_could_not_be_sealed_is_sealed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A book that could not be written for a moment keeps no living process from deleting for ever."""
    sealer = Sealer(tmp_path, SOURCE, KEY)
    journal = Journal(tmp_path, SOURCE, segment_bytes=2048, sealing=sealer)
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", refuse_book(os.pwrite))
        fill(journal, 4)
        assert "not sealed" in caplog.text
    (estate,) = estate_paths(tmp_path)
    assert [sealer.sealed(estate, dead=False) for _ in range(4)] == [1, 2, 3, 3]
    journal.close()
    assert [sealer.sealed(estate, dead=True) for _ in range(2)] == [3, 5]
    assert findings(tmp_path) == []


def refuse_book(pwrite: Callable[[int, bytes, int], int]) -> Callable[[int, bytes, int], int]:
    """Give a write that takes half of each seal's line, as a disk does on which there is no more room."""

    def half(fd: int, data: bytes, at: int) -> int:
        return pwrite(fd, data[: len(data) // 2] if data.startswith(b'{"closed_us"') else data, at)

    return half


def fill(journal: Journal, segments: int) -> None:
    """Append until so many segments were begun, and have all on the disk."""
    number = 0
    while journal.append(event(number)).sequence < segments:
        number += 1
    journal.sync()


@pytest.mark.parametrize(
    ("field", "value"), [("root", "no hex"), ("signature", "\ud800"), ("key", "\ud800"), ("events", -1)]
)
def test_a_hostile_proof_is_refused(directory: Path, field: str, value: object) -> None:
    """Who checks a proof has it from somebody else."""
    stated = json.loads(prove(Book(directory), event(33)).encode())
    stated["seal"][field] = value
    try:
        faults = Proof.decode(json.dumps(stated)).faults(KEY)
    except SealError:
        return
    assert faults


def test_a_crash_while_segments_are_deleted_leaves_none_that_nobody_noted(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is noted and still there is no finding; what is gone and not noted was taken away."""
    sealer = Sealer(directory, SOURCE, KEY)
    journal = Journal(directory, SOURCE, sealing=sealer)
    stock = Holdings(journal, ["a"], clock=lambda: 0.0, adopt_every=1.0, retention=0.0)
    ((holding, end),) = stock.current()
    assert end is not None
    unlink, left = Path.unlink, [1]

    def crash(path: Path) -> None:
        if path.suffix == ".seg":
            if not left:
                raise OSError(errno.EIO, "crash")
            left.pop()
        unlink(path)

    monkeypatch.setattr(Path, "unlink", crash)
    stock.passed(holding, "a", end)
    assert segment_numbers(holding.path)[0] == 2
    assert findings(directory) == []
    stock.release()
