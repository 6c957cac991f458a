"""Request ids are UUIDv7, made here, and never the same twice."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.rids import new_rid

NOW_US = 1_767_225_600_123_456


def test_a_rid_is_a_uuid_of_version_7() -> None:
    """Version and variant are in their bits, and it is written as UUIDs are."""
    rid = new_rid(NOW_US)
    read = UUID(rid)
    assert str(read) == rid
    assert (read.version, read.variant) == (7, RFC_4122)


@given(st.lists(st.integers(0, 2**48 * 1_000 - 1), max_size=20))
def test_every_rid_is_a_uuid_of_its_time(moments: list[int]) -> None:
    """Whatever the times and their order, each has its own millisecond, version and variant."""
    rids = [new_rid(now_us) for now_us in moments]
    for now_us, rid in zip(moments, rids, strict=True):
        read = UUID(rid)
        assert (str(read), read.version, read.variant) == (rid, 7, RFC_4122)
        assert read.int >> 80 == now_us // 1_000
    assert sorted(rids, key=lambda rid: UUID(rid).int) == sorted(rids)


def test_threads_never_share_a_rid() -> None:
    """Of those that several threads make in one millisecond no two are equal."""
    with ThreadPoolExecutor(8) as threads:
        rids = list(threads.map(lambda _: [new_rid(NOW_US) for _ in range(1_000)], range(8)))
    assert len({rid for each in rids for rid in each}) == 8_000


@pytest.mark.parametrize("now_us", [0, 999, 1_000, NOW_US, (2**48 - 1) * 1_000 + 999])
def test_a_rid_begins_with_its_millisecond(now_us: int) -> None:
    """The first 48 bits are whole milliseconds since 1970 (RFC 9562, section 5.7)."""
    assert UUID(new_rid(now_us)).int >> 80 == now_us // 1_000


def test_rids_sort_by_time() -> None:
    """As text they are in the order of their milliseconds."""
    rids = [new_rid(NOW_US + 1_000 * step) for step in range(1_000)]
    assert sorted(rids) == rids


def test_all_random_bits_are_random() -> None:
    """Each of the 74 bits behind the time is 0 in some and 1 in others; the others never change."""
    numbers = [UUID(new_rid(NOW_US)).int for _ in range(200)]
    ones = zeros = 0
    for number in numbers:
        ones |= number
        zeros |= ~number
    varying = (ones & zeros) & (2**80 - 1)
    assert varying == (2**80 - 1) & ~(0xF << 76) & ~(0x3 << 62)


def test_100_000_rids_differ_across_a_fork() -> None:
    """A forked child draws its own bits: of 100,000 in the same millisecond no two are equal."""
    new_rid(NOW_US)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        try:
            with os.fdopen(write_end, "w") as pipe:
                pipe.write("\n".join(new_rid(NOW_US) for _ in range(50_000)))
        finally:
            os._exit(0)
    os.close(write_end)
    rids = [str(new_rid(NOW_US)) for _ in range(50_000)]
    with os.fdopen(read_end) as pipe:
        rids += pipe.read().split("\n")
    os.waitpid(pid, 0)
    assert len(rids) == 100_000
    assert len(set(rids)) == 100_000
