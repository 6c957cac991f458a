"""All that one run found, and in which settings; what was not measured is not there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.contenders import ALL, one
from bench.inprocess import Added
from bench.servers import Served
from bench.workload import LIMITS, SPENT, Setting

if TYPE_CHECKING:
    from pathlib import Path

    from bench.admitted import Row
    from bench.contenders import Contender
    from bench.figures import Spread
    from bench.store_cost import Bytes
    from bench.workload import Store

PACE = 1_000
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the counts of a run are kept."""

    memory: Store
    tcp: Store
    unix: Store
    far: Store
    folder: Path

    def setting(self, store: Store, number: int = 3, **more: int) -> Setting:
        """Give a setting of so many limits."""
        return Setting(LIMITS[:number], store, self.folder, **more)

    @property
    def refused(self) -> Setting:
        """Give the setting in which all is refused."""
        return Setting(SPENT, self.tcp, self.folder, refuses=True)

    @property
    def paced(self) -> Setting:
        """Give the setting of one busy key."""
        return self.setting(self.tcp, paced=PACE)

    @property
    def crowded(self) -> Setting:
        """Give the setting of several processes."""
        return self.setting(self.tcp, workers=WORKERS)


@dataclass(slots=True)
class Results:
    """What was found."""

    stores: Stores
    added: Added = field(default_factory=Added)
    served: Served = field(default_factory=Served)
    events: Added | None = None
    admitted: list[Row] = field(default_factory=list)
    crept: Row | None = None
    killed: Row | None = None
    server_us: dict[int, float] = field(default_factory=dict)
    """The server's own µs for an admission, by the number of limits."""
    bytes: Bytes | None = None
    resident: dict[tuple[Contender, str], float] = field(default_factory=dict)
    """Bytes of process memory for 100,000 subjects."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part took."""

    def beyond(self, name: str, base: str, setting: Setting, *, cpu: bool = False) -> Spread | None:
        """Give what a contender adds to its bare app, in µs; `None` where that was not measured."""
        figures, title = self.added.cpu_us if cpu else self.added.time_us, setting.title
        each = one(name, base)
        if not figures.has(each, title):
            return None
        return (
            figures.beyond(each, one("bare", base), title) if each.has_server else figures.spread(each, title)
        )

    def share(self, name: str, base: str, setting: Setting) -> Spread | None:
        """Give the requests per second of a contender as a share of the bare app's."""
        each, figures = one(name, base), self.served.per_second
        if not figures.has(each, setting.title):
            return None
        return figures.share(each, one("bare", base), setting.title)

    def passed(self, contender: Contender) -> Row | None:
        """Give what a contender let pass, when all shared one limit in Redis."""
        return next(
            (
                row
                for row in self.admitted
                if row.contender == contender and row.store == self.stores.tcp.name
            ),
            None,
        )


def bare_of(contender: Contender) -> Contender | None:
    """Give the bare app that a contender is compared with."""
    return next((each for each in ALL if each.bare and each.base == contender.base), None)
