"""The book of seals: what it keeps, what it refuses, and what a crash leaves."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from meter_mw.audit import merkle
from meter_mw.audit.book import Book
from meter_mw.audit.ed25519 import private_key, public_key
from meter_mw.audit.seals import BEFORE_ALL, HmacKey, Seal, SealError

if TYPE_CHECKING:
    from pathlib import Path

KEY = HmacKey(b"a secret of the seals")
LEAVES = [merkle.leaf(b"one"), merkle.leaf(b"two")]


def stated(segment: int = 1, estate: str = "p1", *, discarded: bool = False) -> Seal:
    root = merkle.root(LEAVES).hex()
    return Seal(0, "urn:meter-mw:shop", estate, segment, len(LEAVES), root, 7, "", discarded=discarded)


def test_seals_are_numbered_and_linked(tmp_path: Path) -> None:
    book = Book(tmp_path)
    kept = [book.add(stated(number), KEY, LEAVES) for number in range(30)]
    assert list(book.seals()) == kept
    assert [each.number for each in kept] == list(range(30))
    assert [each.previous for each in kept] == [BEFORE_ALL, *(each.digest() for each in kept[:-1])]
    assert all(KEY.accepts(each.message(), each.signature) for each in kept)
    assert book.leaves(kept[3]) == LEAVES


def test_a_segment_is_sealed_once(tmp_path: Path) -> None:
    book = Book(tmp_path)
    first = book.add(stated(), KEY, LEAVES)
    assert book.add(stated(), KEY, LEAVES) == first
    assert book.add(stated(discarded=True), KEY).number == 1
    assert len(list(book.seals())) == 2


def test_a_torn_line_gives_way_to_the_next_seal(tmp_path: Path) -> None:
    book = Book(tmp_path)
    first = book.add(stated(1), KEY, LEAVES)
    second = book.add(stated(2), KEY, LEAVES)
    whole = book.path.read_bytes()
    book.path.write_bytes(whole[: -len(second.encode()) // 2])
    assert list(book.seals()) == [first]
    assert book.add(stated(2), KEY, LEAVES) == second
    assert book.path.read_bytes() == whole


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.add(stated(), KEY, LEAVES)
    with book.path.open("ab") as file:
        file.write(b'{"number": true}\n')
    with pytest.raises(SealError, match="line 2: not a seal"):
        list(book.seals())
    with pytest.raises(SealError, match="not a seal"):
        book.add(stated(2), KEY, LEAVES)


def test_leaves_cut_short_are_said(tmp_path: Path) -> None:
    book = Book(tmp_path)
    seal = book.add(stated(), KEY, LEAVES)
    (path,) = book.folder.glob("*.leaves")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SealError, match="63 bytes for 2 records"):
        book.leaves(seal)


def test_an_estate_cannot_lead_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(SealError, match="is no estate"):
        Book(tmp_path).add(stated(estate="../elsewhere"), KEY, LEAVES)


def add_many(directory: Path, estate: str) -> None:
    for number in range(25):
        Book(directory).add(stated(number, estate), KEY, LEAVES)


def test_processes_share_a_book(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_many, args=(tmp_path, f"p{each}")) for each in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join(60)
    seals = list(Book(tmp_path).seals())
    assert [each.number for each in seals] == list(range(100))
    assert [each.previous for each in seals[1:]] == [each.digest() for each in seals[:-1]]


def test_a_public_key_checks_and_does_not_sign(pem: bytes) -> None:
    private = private_key(pem)
    public = public_key(private.pem().encode())
    signature = private.sign(b"message")
    assert public.name == private.name
    assert public.accepts(b"message", signature)
    assert not public.accepts(b"another", signature)
    assert not public.accepts(b"message", "no hex")
    assert not hasattr(public, "sign")


@pytest.mark.parametrize(
    "text", [b"", b"canary", b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----"]
)
def test_a_key_that_is_none_is_refused_and_not_shown(text: bytes) -> None:
    with pytest.raises(SealError) as refused:
        public_key(text)
    assert "canary" not in str(refused.value)
    with pytest.raises(SealError):
        private_key(text)


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(SealError, match="empty"):
        HmacKey(b"")
