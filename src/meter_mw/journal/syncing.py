"""What a journal has written, on its way to the disk: synced while it grows, finished when it does not."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.journal.estates import SPARE

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.journal.estates import Estate
    from meter_mw.journal.sealing import Sealing
    from meter_mw.journal.segments import Segment


class Unsynced(NamedTuple):
    """The segment that is being written, those before it that are not finished, and the estate of both.

    `is_nameless` says that names in the estate are not on the disk yet.
    """

    estate: Estate | None
    segment: Segment | None
    retired: list[Segment]
    is_nameless: bool

    def sync(self) -> list[OSError]:
        """Have all of it on the disk, with the retired segments finished; return what failed."""
        segment = self.segment
        errors = _attempt_each(*(old.finish for old in self.retired))
        if segment is not None:
            errors += _attempt_each(lambda: os.fdatasync(segment.fd))
        errors += self._name()
        if segment is not None and errors:
            # Linux forgets the pages that it failed to write: what follows goes elsewhere.
            segment.broken = True
        return errors

    def leave(self, sealing: Sealing | None, *, remove: bool) -> list[OSError]:
        """Finish all segments, and leave the estate to whoever locks it next or remove it.

        A sealed one stays: who adopts it notes in the book of seals what is deleted.
        """
        segments = self.retired if self.segment is None else [*self.retired, self.segment]
        errors = _attempt_each(*(segment.finish for segment in segments)) + self._name()
        if self.estate is not None:
            if sealing is not None:
                for segment in segments:
                    self._seal(sealing, segment)
            with contextlib.suppress(OSError):
                if remove and sealing is None:
                    self.estate.remove()
                else:
                    (self.estate.path / SPARE).unlink(missing_ok=True)
            self.estate.release()
        return errors

    def seal(self, sealing: Sealing) -> None:
        """Seal what was finished."""
        for old in self.retired:
            self._seal(sealing, old)

    def _seal(self, sealing: Sealing, segment: Segment) -> None:
        if self.estate is not None:
            sealing.seal(self.estate.segment_path(segment.header.sequence), segment.header.sequence)

    def _name(self) -> list[OSError]:
        return _attempt_each(self.estate.sync) if self.estate is not None and self.is_nameless else []


def _attempt_each(*actions: Callable[[], None]) -> list[OSError]:
    errors: list[OSError] = []
    for action in actions:
        try:
            action()
        except OSError as error:
            errors.append(error)
    return errors
