"""The `stdout` sink: usage events as JSON lines on a file descriptor."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from meter_mw.sinks.base import Delivered, Outcome, Retry
from meter_mw.sinks.file import line
from meter_mw.sinks.kinds import Form, Option, SinkKind

if TYPE_CHECKING:
    from collections.abc import Sequence


class StdoutSink:
    """Writes whole lines, so that workers which share a pipe do not mix theirs.

    POSIX keeps a write to a pipe whole up to PIPE_BUF bytes (4,096 on Linux): lines are written in
    groups no longer than that. A longer single line may be mixed with another worker's.
    """

    max_batch = 1000
    horizon = None

    def __init__(self, *, fd: int = 1, name: str = "stdout") -> None:
        self.name = name
        self._fd = fd
        self._torn = False

    def __repr__(self) -> str:
        return f"StdoutSink(fd={self._fd})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Write the batch; after a failure the events not yet written are to be retried."""
        written = 0
        try:
            for group in _groups([line(payload) for payload in batch]):
                self._write(b"".join(group))
                written += len(group)
        except OSError as error:
            failed = Retry(reason=f"file descriptor {self._fd}: {error.strerror}")
            return [Delivered()] * written + [failed] * (len(batch) - written)
        return [Delivered()] * len(batch)

    def close(self) -> None:
        """Standard output is not ours to close."""

    def _write(self, text: bytes) -> None:
        rest = memoryview(b"\n" + text if self._torn else text)
        while rest:
            count = os.write(self._fd, rest)
            self._torn = count < len(rest)
            rest = rest[count:]


def _groups(lines: Sequence[bytes]) -> list[list[bytes]]:
    groups: list[list[bytes]] = []
    room = 0
    for text in lines:
        if not groups or len(text) > room:
            groups.append([])
            room = select.PIPE_BUF
        groups[-1].append(text)
        room -= len(text)
    return groups


KIND = SinkKind(
    "stdout",
    Option(Form.FLAG, "stdout: true, or the word stdout alone", needed=True),
    {},
    lambda _settings, _service: StdoutSink(),
)
