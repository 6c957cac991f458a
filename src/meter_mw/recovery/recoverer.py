"""Brings counts back, in a thread of its own: it watches the store, and takes over what the dead have left.

Rule 1: who holds the lock of a register recovers its estate; the kernel says who is dead, and no clock does.
Rule 2: an estate is let go of when it is settled, its requests are ended, and it is too old to be replayed.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.policy.policy import Recovery, StoreCheck
from meter_mw.recovery.estates import Heir, Own, Shipping, left_by_the_dead
from meter_mw.recovery.reaping import Reaper
from meter_mw.recovery.watching import Watcher
from meter_mw.stores.checking import Examined, findings
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.journal import Journal
    from meter_mw.policy.policy import Policy
    from meter_mw.recovery.trail import Trail
    from meter_mw.stores.access import Stores

_log = logging.getLogger(__name__)

BEAT_S = 1.0
"""Seconds between two looks at the store."""

AWAY_S = 0.2
"""The same while the store is away."""

LOOK_S = 30.0
"""Seconds between two looks for what the dead have left."""

_SLICE_S = 0.5
"""Seconds that one estate's closings are sent before others have their turn."""


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
        self._clock = clock
        self._shipping = Shipping(stores.blocking, trail.park)
        self._reaper = Reaper(policy, stores, journal, trail)
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self._own: Own | None = None
        self._heirs: list[Heir] = []
        self._look_at = self._clock()
        self._beat_at = float("-inf")
        learns = self._policy.recovery is Recovery.LEARN
        watched, now_us = self._shipping.watched, self._stores.blocking.now_us
        self._watcher = None if watched is None else Watcher(watched, now_us, learns=learns)
        self._checked = self._policy.store_check is not StoreCheck.WARN
        self._wake = threading.Event()
        self._stopping = False
        self._lock = threading.Lock()
        self._stepping = threading.Lock()
        self._thread: threading.Thread | None = None

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        for heir in self._heirs:
            heir.leave()
        self._begin()

    @property
    def learning(self) -> bool:
        """Whether counts are being brought back, so that a hard cap cannot be relied on."""
        return self._watcher is not None and self._watcher.learning

    def start(self) -> None:
        """Start this process's thread, if it does not run."""
        if self._thread is not None or self._stopping or not (self._watcher or self._trail.bills):
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
            self._follow()
            self._keep()
            for heir in self._heirs:
                heir.leave()
            self._heirs = []
            if self._own is not None:
                self._own.leave(is_retained=self._policy.events.retention_us > 0)
        except (OSError, StoreUnavailable) as error:
            _log.debug("our estate stays claimed: %s", error)
        finally:
            self._trail.forget()
            self._stepping.release()

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
                    heir.reaped = self._reaper.reap(heir.canaries.register)
            pause = self._bring_back()
            self._keep()
            return pause

    def _follow(self) -> None:
        """Watch the estate that this process writes."""
        if self._trail.moved():
            self._own = None
        self._trail.look(is_idle=self._stores.settler.waiting == 0)
        register = self._trail.register
        if register is not None and (self._own is None or self._own.canaries.register is not register):
            self._own = Own(register, self._trail, self._shipping)

    def _find(self) -> None:
        held = {each.canaries.estate for each in self._estates()}
        self._heirs += left_by_the_dead(self._journal, held, self._shipping)

    def _estates(self) -> list[Own | Heir]:
        return [*([self._own] if self._own else []), *self._heirs]

    def _bring_back(self) -> float:
        """Look at the store, and send what it has not; return the seconds to the next look."""
        if self._watcher is None:
            return BEAT_S
        try:
            if self._clock() >= self._beat_at:
                self._watcher.look(self._estates())
                self._beat_at = self._clock() + BEAT_S / 2
            self._check()
            return 0.0 if self._send_on() else BEAT_S
        except StoreUnavailable as outage:
            _log.debug("the store is away: %s", outage)
            self._beat_at = float("-inf")
            return AWAY_S

    def _send_on(self) -> bool:
        """Send what is to be sent from each estate, for a while; return whether there is more."""
        more, away = False, None
        for each in self._estates():
            try:
                more = each.send_on(self._for_a_while()) or more
            except StoreUnavailable as outage:  # one node of a cluster holds up no other's
                away = outage
        if away is not None:
            raise away
        return more

    def _for_a_while(self) -> Callable[[], bool]:
        end = self._clock() + _SLICE_S
        return lambda: self._clock() < end

    def _check(self) -> None:
        """Say once what of the store's settings loses counts."""
        store = self._stores.blocking
        if not self._checked and isinstance(store, Examined):
            self._checked = True
            for finding in findings(store):
                _log.warning("the store is not safe for counts: %s", finding)

    def _keep(self) -> None:
        """Say from where on each estate is needed, and let go of those that are not any more."""
        try:
            if self._own is not None:
                self._own.keep()
            for heir in tuple(self._heirs):
                if not heir.keep(self._policy.events.retention_us):
                    self._heirs.remove(heir)
        except (OSError, StoreUnavailable) as error:
            _log.debug("what the store needs is not noted: %s", error)


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
