"""What a journal has written, on its way to the disk: synced while it grows, finished when it does not."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meter_mw.journal.estates import SPARE

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.journal.estates import Estate
    from meter_mw.journal.segments import Segment

    Seal: TypeAlias = Callable[[Segment], bytes]
    """Gives the footer of a segment that is finished; empty for none."""


class Unsynced(NamedTuple):
    """The segment that is being written, those before it that are not finished, and the estate of both.

    `is_nameless` says that names in the estate are not on the disk yet.
    """

    estate: Estate | None
    segment: Segment | None
    retired: list[Segment]
    is_nameless: bool

    def sync(self, seal: Seal | None) -> list[OSError]:
        """Have all of it on the disk, with the retired segments finished; return what failed."""
        segment = self.segment
        errors = _attempt_each(*(_finishing(old, seal) for old in self.retired))
        if segment is not None:
            errors += _attempt_each(lambda: os.fdatasync(segment.fd))
        errors += self._name()
        if segment is not None and errors:
            # Linux forgets the pages that it failed to write: what follows goes elsewhere.
            segment.broken = True
        return errors

    def leave(self, seal: Seal | None, *, remove: bool) -> list[OSError]:
        """Finish all segments, and leave the estate to whoever locks it next or remove it."""
        segments = self.retired if self.segment is None else [*self.retired, self.segment]
        errors = _attempt_each(*(_finishing(segment, seal) for segment in segments)) + self._name()
        if self.estate is not None:
            with contextlib.suppress(OSError):
                if remove:
                    self.estate.remove()
                else:
                    (self.estate.path / SPARE).unlink(missing_ok=True)
            self.estate.release()
        return errors

    def _name(self) -> list[OSError]:
        return _attempt_each(self.estate.sync) if self.estate is not None and self.is_nameless else []


def _finishing(segment: Segment, seal: Seal | None) -> Callable[[], None]:
    return lambda: segment.finish(seal(segment) if seal else b"")


def _attempt_each(*actions: Callable[[], None]) -> list[OSError]:
    errors: list[OSError] = []
    for action in actions:
        try:
            action()
        except OSError as error:
            errors.append(error)
    return errors
