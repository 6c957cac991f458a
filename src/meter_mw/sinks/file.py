"""The `file` sink: usage events as JSON lines in a file that several processes may share."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING

from meter_mw.sinks.base import Delivered, Outcome, Retry
from meter_mw.sinks.kinds import Form, Option, SinkKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LOCK_PATIENCE = 1.0
_LOCK_POLL = 0.002


class FileSink:
    """Appends each batch as whole lines, and answers when they are on the disk.

    The file is opened for each batch, so log rotation by renaming needs no signal. It is created
    with mode 0600; one that exists keeps its mode.
    """

    max_batch = 1000
    horizon = None

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        self.name = name or f"file:{path}"
        self._path = path

    def __repr__(self) -> str:
        return f"FileSink({str(self._path)!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Append the batch with one write."""
        try:
            append_lines(self._path, batch)
        except OSError as error:
            return [Retry(reason=f"{self._path}: {error.strerror}")] * len(batch)
        return [Delivered()] * len(batch)

    def close(self) -> None:
        """Nothing is held between batches."""


def line(payload: bytes) -> bytes:
    """Return the JSON text on one line, ended.

    Raw line ends in JSON are white space between tokens (RFC 8259, section 2), so blanks replace them.
    """
    return payload.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"


def lines(payloads: Sequence[bytes]) -> bytes:
    """Return JSON texts on a line each; nearly always they are that already."""
    text = b"\n".join(payloads) + b"\n"
    if text.count(b"\n") == len(payloads) and b"\r" not in text:
        return text
    return b"".join(map(line, payloads))


def append_lines(path: Path, payloads: Sequence[bytes], *, flags: int = 0) -> None:
    """Append JSON texts as lines, all or none, durably, beside other processes that do the same.

    A half line that a crashed writer left is ended first, so it spoils no line but its own.
    Raises `OSError`; what a failed write left behind is cut off again.
    """
    if not payloads:
        return
    text = lines(payloads)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            _append_to_file(fd, text)
        else:
            _write_all(fd, text)
    finally:
        os.close(fd)


def _append_to_file(fd: int, text: bytes) -> None:
    _lock(fd)
    try:
        end = os.fstat(fd).st_size
        torn = end > 0 and os.pread(fd, 1, end - 1) != b"\n"
        try:
            _write_all(fd, b"\n" + text if torn else text)
            os.fdatasync(fd)
        except OSError:
            os.ftruncate(fd, end)
            raise
    finally:
        # Said aloud: a fork in the meantime may have copied the descriptor, and with it the lock.
        fcntl.flock(fd, fcntl.LOCK_UN)


def _lock(fd: int) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.EAGAIN, "another process keeps the file locked") from None
            time.sleep(_LOCK_POLL)
        else:
            return


def _write_all(fd: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(fd, rest) :]


KIND = SinkKind(
    "file",
    Option(Form.PATH, "the path of a file", needed=True),
    {},
    lambda settings, _: FileSink(settings.path("file")),
)
