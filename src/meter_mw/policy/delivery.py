"""What a policy says of its events: where they wait, how surely, and where they go."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from meter_mw.policy.evidence import EvidenceRules

if TYPE_CHECKING:
    from pathlib import Path

    from meter_mw.sinks.kinds import Settings, SinkKind

HOUR_US = 3_600_000_000


class Durability(Enum):
    """When an event is on the disk."""

    STANDARD = "standard"
    """Within 20 ms: it survives the death of its process at once, that of the machine soon."""

    STRICT = "strict"
    """Before the last byte of its response leaves."""


class OnFull(Enum):
    """What becomes of requests while the journal takes no events."""

    DENY = "deny"
    COUNT = "count"
    """They are served, and counted in the store alone."""


class Reap(Enum):
    """What becomes of a request whose process was killed before it ended."""

    VOID = "void"
    BILL = "bill"


class Forwarding(Enum):
    """Who brings events to the sinks."""

    THREAD = "thread"
    """The process that recorded them."""

    DAEMON = "daemon"
    """`meter-mw forward`, beside it."""


@dataclass(frozen=True, slots=True)
class SealRule:
    """What sealed segments are signed with: a secret (HMAC-SHA256), or a private key (ed25519, PEM)."""

    secret: bytes | None = field(default=None, repr=False)
    private_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse two keys, and none."""
        if (self.secret is None) == (self.private_key is None):
            raise ValueError("a seal has either a secret or a private key")


@dataclass(frozen=True, slots=True)
class SinkRule:
    """A destination of events, and what is set for it."""

    kind: SinkKind
    settings: Settings

    def __repr__(self) -> str:
        return f"SinkRule({self.kind.word})"


@dataclass(frozen=True, slots=True)
class EventRules:
    """Where usage events wait and where they go.

    The journal holds `max_bytes` at most, and keeps what every sink has for `retention_us` more.
    """

    journal: Path
    sinks: tuple[SinkRule, ...]
    durability: Durability = Durability.STANDARD
    on_full: OnFull = OnFull.DENY
    max_bytes: int = 1 << 30
    retention_us: int = HOUR_US
    reap: Reap = Reap.VOID
    forwarder: Forwarding = Forwarding.THREAD
    seal: SealRule | None = None
    privacy: EvidenceRules = field(default_factory=EvidenceRules)
