"""What a Redis was asked for, in its own words (INFO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


@dataclass(frozen=True, slots=True)
class Asked:
    """Counts since the server started: reads of its sockets, calls of scripts, and its time for those (µs).

    One read takes in all that came together, so it is a round trip of one client, however many commands.
    """

    reads: int
    scripts: int
    scripts_us: int

    def __sub__(self, before: Asked) -> Asked:
        """Give what came between the two."""
        return Asked(
            self.reads - before.reads, self.scripts - before.scripts, self.scripts_us - before.scripts_us
        )


class Witness:
    """Asks a Redis, on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._looks = 0

    def __enter__(self) -> Self:
        """Connect, which is not counted."""
        self._client.ping()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the connection."""
        self._client.close()

    def look(self) -> Asked:
        """Give the counts so far, without those that come from looking."""
        self._looks += 1
        told = self._client.info("all")
        commands = [told.get(f"cmdstat_{name}", {"calls": 0, "usec": 0}) for name in ("evalsha", "eval")]
        return Asked(
            told["total_reads_processed"] - self._looks,
            sum(each["calls"] for each in commands),
            sum(each["usec"] for each in commands),
        )

    def forget_all(self) -> None:
        """Empty the server; before apps are made, as some would look for what they had there."""
        self._looks += 1
        self._client.flushall()

    def used_bytes(self) -> int:
        """Give the memory that the server has taken for everything."""
        self._looks += 1
        return int(self._client.info("memory")["used_memory"])
