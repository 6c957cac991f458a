"""Brings counts back, in a thread of its own: it watches the store, and takes over what the dead have left.

Rule 1: who holds the lock of a register recovers its estate; the kernel says who is dead, and no clock does.
Rule 2: a loss of the store's data is on record before the canary is written again (canary.py, rule 3).
Rule 3: while counts are being brought back, here or elsewhere, `learning` says so.
Rule 4: an estate is let go of when it is settled, its requests are ended, and it is too old to be replayed.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.events import encode
from meter_mw.journal import JournalError, Position
from meter_mw.journal.claims import claim, unclaim
from meter_mw.journal.estates import estate_paths, segment_numbers, segment_path, source_of
from meter_mw.policy.delivery import Reap
from meter_mw.policy.policy import Recovery, StoreCheck
from meter_mw.recovery import reaping
from meter_mw.recovery.backlog import Backlog, Inherited
from meter_mw.recovery.register import Marks, Register
from meter_mw.stores.canary import LEARN_US, Asked, Written, beat, clear
from meter_mw.stores.checking import Examined, findings
from meter_mw.stores.kept import born_us, unpack
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meter_mw.journal import Journal
    from meter_mw.policy.policy import Policy
    from meter_mw.recovery.register import Entry
    from meter_mw.recovery.trail import Trail
    from meter_mw.stores.access import Stores
    from meter_mw.stores.canary import Beat
    from meter_mw.stores.port import Closing

_log = logging.getLogger(__name__)

BEAT_S = 1.0
"""Seconds between two looks at the store."""

AWAY_S = 0.2
"""The same while the store is away."""

LOOK_S = 30.0
"""Seconds between two looks for what the dead have left."""

_SLICE_S = 0.5
"""Seconds that one estate's closings are sent before others have their turn."""

_IN_DOUBT_US = 5_000_000
"""A canary that was found is followed by the next within this time: what came later is surely lost (µs)."""


@dataclass(slots=True, eq=False)
class _Watch:
    """What is known of the canaries of one estate: when they were written last, and what is lost."""

    estate: Path
    register: Register
    last: dict[str, Written] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Heir(_Watch):
    """The estate of a dead process, from when it was found until nothing of it is needed."""

    progress: Inherited | None = None
    backlog: Backlog | None = None
    reaped: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether the store has all that it is to have of it."""
        return self.reaped and self.backlog is None


class Recoverer:
    """Knows whether the store has lost data; brings back what this process and the dead have journaled."""

    def __init__(
        self,
        policy: Policy,
        stores: Stores,
        journal: Journal,
        trail: Trail,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._stores = stores
        self._journal = journal
        self._trail = trail
        self._watched = stores.blocking if isinstance(stores.blocking, Asked) else None
        self._clock = clock
        self._learns = policy.recovery is Recovery.LEARN
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self._own: _Watch | None = None
        self._backlog: Backlog | None = None
        self._heirs: list[_Heir] = []
        self._look_at = self._clock()
        self._learn_until_us = 0
        self._beaten_at = float("-inf")
        self._checked = self._policy.store_check is not StoreCheck.WARN
        self._wake = threading.Event()
        self._stopping = False
        self._lock = threading.Lock()
        self._stepping = threading.Lock()
        self._thread: threading.Thread | None = None

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        for heir in self._heirs:
            heir.register.disown()
        self._begin()

    @property
    def learning(self) -> bool:
        """Whether counts are being brought back, so that a hard cap cannot be relied on."""
        if self._learn_until_us == 0:
            return False
        return self._learn_until_us > self._stores.blocking.now_us()

    def start(self) -> None:
        """Start this process's thread, if it does not run."""
        if self._thread is not None or self._stopping or not (self._watched or self._trail.bills):
            return
        with self._lock:
            if self._thread is None:
                known = weakref.ref(self)
                thread = threading.Thread(
                    target=_run, args=(known, self._wake), name="meter-mw-recovery", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as failure:
                    _log.warning("nobody watches the store, as there is no thread for it: %s", failure)
                else:
                    self._thread = thread

    def wake(self) -> None:
        """Have the store looked at now: it is back."""
        self._wake.set()

    def close(self, timeout: float) -> None:
        """Note how far all is, and leave what the dead have left to others."""
        self._stopping = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, timeout))
        if not self._stepping.acquire(timeout=max(0.0, timeout)):
            return
        try:
            self._keep()
            for heir in self._heirs:
                heir.register.disown()
            self._heirs = []
            self._leave()
        finally:
            self._stepping.release()

    def _leave(self) -> None:
        """Leave our own estate to others, or to nobody where nothing of it is needed."""
        register, trail = self._trail.register, self._trail
        if register is None:
            return
        settled = trail.gap is None and trail.save().settled == trail.end
        if settled and register.is_empty and not self._policy.events.retention_us:
            try:
                unclaim(register.path.parent)
                register.drop()
                if self._watched is not None and self._own is not None:
                    clear(self._watched, self._own.estate.name, self._own.last)
            except (OSError, StoreUnavailable) as error:
                _log.debug("%s: stays claimed: %s", register.path, error)
        trail.forget()

    @property
    def stopping(self) -> bool:
        """Whether this is being closed."""
        return self._stopping

    def step(self) -> float:
        """Look at everything once; return the seconds to the next look."""
        with self._stepping:
            if self._stopping:
                return 0.0
            self._follow()
            if self._clock() >= self._look_at:
                self._look_at = self._clock() + LOOK_S
                self._find()
            for heir in self._heirs:
                if not heir.reaped:
                    self._reap(heir)
            pause = BEAT_S
            try:
                if self._watched is not None:
                    if self._clock() - self._beaten_at >= BEAT_S / 2 or self._learn_until_us == 0:
                        self._look(self._watched)
                    self._check()
                    if self._bring_back():
                        pause = 0.0
            except StoreUnavailable as outage:
                _log.debug("the store is away: %s", outage)
                self._beaten_at = float("-inf")
                pause = AWAY_S
            self._keep()
            return pause

    # The estates

    def _follow(self) -> None:
        """Watch the estate that this process writes."""
        if self._trail.moved():
            self._own = None
        self._trail.look(is_idle=self._stores.settler.waiting == 0)
        register = self._trail.ready()
        if register is not None and (self._own is None or self._own.register is not register):
            self._own = _Watch(register.path.parent, register)

    def _find(self) -> None:
        """Take over what the dead have left, if nobody else does."""
        try:
            paths = estate_paths(self._journal.directory)
        except OSError as error:
            _log.warning("%s: no look for what is left: %s", self._journal.directory, error.strerror)
            return
        held = {each.estate for each in (*self._heirs, *([self._own] if self._own else []))}
        for path in paths:
            if path in held:
                continue
            with forks.GATE:
                register = Register.take(path)
                if register is None:
                    continue
                heir = self._inherited(path, register)
                if heir is None:
                    register.disown()
                else:
                    self._heirs.append(heir)

    def _inherited(self, path: Path, register: Register) -> _Heir | None:
        try:
            if source_of(path) not in (self._journal.source, None):
                return None
        except OSError as error:
            _log.warning("%s: not recovered: %s", path, error.strerror)
            return None
        _log.info("%s: its process is dead, what it left is brought to an end", path)
        heir = _Heir(path, register, register.beats())
        if self._watched is not None:
            marks = register.marks()
            heir.progress = Inherited(register, marks, self._stores.blocking.now_us)
            heir.backlog = self._backlog_of(heir, marks, heir.progress)
        return heir

    def _backlog_of(self, watch: _Watch, marks: Marks, progress: Inherited | Trail) -> Backlog:
        return Backlog(
            watch.estate,
            marks,
            progress,
            store=self._stores.blocking,
            park=self._trail.park,
            lost=lambda closing: self._is_lost(watch, closing),
        )

    def _is_lost(self, watch: _Watch, closing: Closing) -> bool:
        """Whether a closing is all in parts of the store that have lost data."""
        tags = {closing.tag, *(each.charge.holder.partition(":")[0] for each in closing.bookings)} - {""}
        return self._watched is not None and {self._watched.part_of(tag) for tag in tags} <= watch.lost

    # The dead's requests

    def _reap(self, heir: _Heir) -> None:
        """End the requests that a dead process had on its way."""
        entries = [(reaping.rid_of(entry), entry) for entry in heir.register.entries()]
        rids = {rid for rid, _ in entries if rid is not None}
        try:
            since_us = min((born_us(rid) for rid in rids), default=0)
            known = reaping.ended(heir.estate, rids, since_us) if rids else set()
            for rid, entry in entries:
                if rid is not None and rid not in known:
                    self._end(entry)
                heir.register.cross_out(entry)
        except (OSError, JournalError) as error:
            _log.warning("%s: its requests are not ended yet: %s", heir.estate, error)
            return
        if rids - known:
            _log.warning(
                "%s: %d requests were on their way when it was killed: %s",
                heir.estate,
                len(rids - known),
                "billed" if self._policy.events.reap is Reap.BILL else "given back",
            )
        heir.reaped = True

    def _end(self, entry: Entry) -> None:
        """Give back what a request was charged, or bill it; raises JournalError."""
        event, kept = b"", None
        try:
            if entry.facts and self._policy.events.reap is Reap.BILL:
                usage, kept = reaping.bill(self._policy.source, entry)
                event = encode(usage)
            elif entry.packed:
                kept = unpack(entry.packed)
        except ValueError as error:
            _log.error("a request of a dead process cannot be ended: %s", error)
            return
        packed = b"" if kept is None else self._trail.packed(kept.closing, kept.admitted_us)
        if kept is not None and packed:
            self._trail.keep(kept.closing.rid, event, packed)
            self._stores.settler.put(kept.closing, admitted_us=kept.admitted_us)
        elif event:
            self._journal.append(event)

    # The store's data

    def _check(self) -> None:
        """Say once what of the store's settings loses counts."""
        store = self._stores.blocking
        if not self._checked and isinstance(store, Examined):
            self._checked = True
            for finding in findings(store):
                _log.warning("the store is not safe for counts: %s", finding)

    def _look(self, store: Asked) -> None:
        """Write all canaries, and find what is lost; raises StoreUnavailable."""
        learn_us = LEARN_US if self._brings_back() else 0
        for watch in (*([self._own] if self._own else []), *self._heirs):
            beats = self._beat(store, watch, learn_us)
            if not all(each.is_fine for each in beats):
                self._note_loss(watch, [each for each in beats if not each.is_fine])
                beats = self._beat(store, watch, LEARN_US if watch.lost else 0)
            until_us = max((each.learn_until_us for each in beats), default=0)
            if self._learns:
                self._learn_until_us = until_us if until_us > self._stores.blocking.now_us() else 0
        self._beaten_at = self._clock()

    def _beat(self, store: Asked, watch: _Watch, learn_us: int) -> list[Beat]:
        marks = self._marks_of(watch)
        said = "|".join(
            map(
                str,
                (
                    *_place(marks.settled),
                    *_place(marks.sent),
                    -1 if marks.since_us is None else marks.since_us,
                ),
            )
        )
        beats = beat(store, watch.estate.name, watch.last, said, learn_us=learn_us)
        told = {each.part: Written(each.at_us, each.run) for each in beats if each.is_fine}
        if told:
            watch.last |= told
            watch.register.beat(watch.last)
        return beats

    def _marks_of(self, watch: _Watch) -> Marks:
        if isinstance(watch, _Heir):
            return watch.progress.marks if watch.progress else Marks()
        return self._trail.save()

    def _note_loss(self, watch: _Watch, doubted: list[Beat]) -> None:
        """Go back to where an estate stood when the canary was written that is found."""
        back = _back(self._marks_of(watch), watch.last, doubted)
        lost = [each for each in doubted if each.lost]
        for each in doubted:
            ago = f"as it was {(each.now_us - each.at_us) / 1e6:.1f} s ago" if each.at_us else "empty"
            what = "has lost data: it is" if each.lost else "was started anew, and may be"
            _log.error("the store %s %s; what it was told since then is sent again", what, ago)
            watch.last.pop(each.part, None)
        watch.lost |= {each.part for each in lost}
        if isinstance(watch, _Heir):
            watch.register.mark(back)
            watch.progress = Inherited(watch.register, back, self._stores.blocking.now_us)
            watch.backlog = self._backlog_of(watch, back, watch.progress)
        else:
            self._trail.rewind(back)
            self._backlog = None
        if self._learns and lost:
            self._learn_until_us = lost[0].now_us + LEARN_US

    # What is to be sent again

    def _brings_back(self) -> bool:
        return any(each.lost for each in (*self._heirs, *([self._own] if self._own else [])))

    def _bring_back(self) -> bool:
        """Send what is to be sent from the journal, for a while; return whether there is more."""
        more = self._catch_up()
        for heir in self._heirs:
            until = self._clock() + _SLICE_S
            while heir.backlog is not None and self._clock() < until:
                if not heir.backlog.step():
                    if heir.lost:
                        _log.warning("%s: %d closings were sent again", heir.estate, heir.backlog.sent)
                    heir.backlog = None
                    heir.lost.clear()
            more = more or heir.backlog is not None
        return more

    def _catch_up(self) -> bool:
        """Send what this process has in its journal alone."""
        gap, own = self._trail.gap, self._own
        if gap is None or own is None:
            return False
        if self._backlog is None:
            marks = replace(self._trail.marks, settled=gap)
            self._backlog = self._backlog_of(own, marks, self._trail)
        until = self._clock() + _SLICE_S
        while self._trail.gap is not None:
            self._backlog.step(self._trail.end)
            if self._clock() >= until:
                return True
        if own.lost:
            _log.warning("%d closings were sent again, and all is as it was", self._backlog.sent)
        self._backlog = None
        own.lost.clear()
        return False

    # What is kept of it

    def _keep(self) -> None:
        """Say from where on each estate is needed, and let go of those that are not any more."""
        try:
            if self._own is not None and self._watched is not None:
                claim(self._own.estate, self._trail.save().settled)
            for heir in tuple(self._heirs):
                if heir.is_settled and (heir.progress is None or self._is_old(heir.estate)):
                    self._heirs.remove(heir)
                    unclaim(heir.estate)
                    heir.register.drop()
                    if self._watched is not None:
                        clear(self._watched, heir.estate.name, heir.last)
                elif heir.progress is not None:
                    claim(heir.estate, heir.progress.marks.settled)
        except (OSError, StoreUnavailable) as error:
            _log.debug("what the store needs is not noted: %s", error)

    def _is_old(self, estate: Path) -> bool:
        """Whether nothing of an estate is retained for a replay any more."""
        try:
            last = max(
                (segment_path(estate, each).stat().st_mtime for each in segment_numbers(estate)), default=0.0
            )
        except OSError:
            return True
        return last + self._policy.events.retention_us / 1_000_000 <= time.time()


def _place(position: Position) -> tuple[int, int]:
    return position.sequence, position.offset


def _said(text: str) -> Marks:
    """Read what a canary said; the beginning where it says nothing."""
    try:
        settled, settled_at, sent, sent_at, since = map(int, text.split("|"))
    except ValueError:
        return Marks()
    return Marks(Position(settled, settled_at), Position(sent, sent_at), None if since < 0 else since)


def _back(before: Marks, last: dict[str, Written], doubted: list[Beat]) -> Marks:
    """Give what is known of an estate's closings once the store went back to these canaries."""
    found = [_said(each.said) for each in doubted]
    settled = min(before.settled, *(each.settled for each in found))
    since = [each.at_us for each in doubted] + [each.since_us for each in found if each.since_us is not None]
    lost = [each for each in doubted if each.lost]
    if not lost:  # the store may have all of it
        return replace(before, settled=settled, since_us=min(since))
    follows_us = max(_followed_us(each, last.get(each.part)) for each in lost)
    if before.lost_after_us is not None:
        follows_us = max(follows_us, before.lost_after_us)
        since.append(before.lost_since_us or 0)
    return Marks(settled, settled, None, follows_us, min(since))


def _followed_us(beat: Beat, last: Written | None) -> int:
    """Give the moment after which all is lost: at the latest when the next canary was written."""
    latest_us = beat.at_us + _IN_DOUBT_US if beat.at_us else 0
    return min(latest_us, last.at_us) if last else latest_us


def _run(known: weakref.ref[Recoverer], wake: threading.Event) -> None:
    pause = 0.0
    while True:
        if pause:
            wake.wait(pause)
        wake.clear()
        recoverer = known()
        if recoverer is None or recoverer.stopping:
            return
        try:
            pause = recoverer.step()
        except Exception:  # noqa: BLE001 - the thread must outlive any one failure
            _log.exception("counts are not watched for a moment")
            pause = BEAT_S
        del recoverer
