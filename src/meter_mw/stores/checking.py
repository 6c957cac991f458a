"""What of a store's settings loses counts, by what its servers say of themselves; needs no CONFIG.

Rule 1: each finding says what was found, what is expected, and at which server.
Rule 2: a check takes a bounded time, and a store that cannot be asked is a finding too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from meter_mw.stores.port import Refusal, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.stores.redis_protocol import Call

PATIENCE_US = 2_000_000
"""How long each server may take to answer (µs)."""

OLDEST = (6, 2)
"""The oldest version that the scripts are made for."""

# CVE-2025-49844, -46817, -46818 and -46819: code of a script leaves its sandbox. The first release of each
# branch that has it mended; of a branch that is not named, none has before the first that is.
_MENDED = {
    "redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}


@runtime_checkable
class Examined(Protocol):
    """A store whose servers tell of themselves."""

    def told(
        self, calls: Sequence[Call], *, patience_us: int
    ) -> Mapping[str, list[object] | StoreUnavailable]:
        """Have each server answer all calls, by its place; error replies are values."""


def findings(store: Examined) -> list[str]:
    """Ask every server of a store, and give what is wrong; nothing where all is well."""
    try:
        told = store.told((("INFO",), ("CLUSTER", "INFO")), patience_us=PATIENCE_US)
    except StoreUnavailable as outage:
        return [f"the store cannot be asked: {outage}"]
    found: list[str] = []
    for place, replies in told.items():
        if isinstance(replies, Refusal):
            found.append(f"{place}: refuses INFO, so nothing is known of it: {replies}")
        elif isinstance(replies, StoreUnavailable):
            found.append(f"{place}: cannot be asked: {replies}")
        else:
            found += [f"{place}: {each}" for each in _judged(replies)]
    return found


def _judged(replies: Sequence[object]) -> list[str]:
    info = replies[0]
    if not isinstance(info, bytes):
        return [f"refuses INFO, so nothing is known of it; an access list needs +info: {info}"]
    fields = _fields(info)
    found = [*_eviction(fields), *_persistence(fields), *_role(fields), *_version(fields)]
    if fields.get("cluster_enabled") == "1" and isinstance(replies[1], bytes):
        state = _fields(replies[1]).get("cluster_state", "")
        if state != "ok":
            found.append(f"cluster_state is {state!r}, expected 'ok': it does not serve all slots")
    return found


def _fields(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, colon, value in lines if colon}


def _eviction(fields: Mapping[str, str]) -> list[str]:
    policy, most = fields.get("maxmemory_policy", ""), fields.get("maxmemory", "0")
    if most != "0" and policy not in ("", "noeviction"):
        return [f"maxmemory-policy is {policy}, expected noeviction: a server that evicts forgets counts"]
    return []


def _persistence(fields: Mapping[str, str]) -> list[str]:
    found = []
    if fields.get("aof_enabled") == "0":
        found.append(
            "appendonly is no, expected yes: a crash loses all counts since the last snapshot, and what the "
            "journals retain is all that can be brought back"
        )
    elif fields.get("aof_last_write_status", "ok") != "ok":
        found.append(
            f"aof_last_write_status is {fields['aof_last_write_status']}, expected ok: its disk fails"
        )
    return found


def _role(fields: Mapping[str, str]) -> list[str]:
    role = fields.get("role", "master")
    return [] if role == "master" else [f"role is {role}, expected master: it cannot be written to"]


def _version(fields: Mapping[str, str]) -> list[str]:
    name = "valkey" if "valkey_version" in fields else "redis"
    text = fields.get(f"{name}_version", "")
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if not match:
        return []
    branch, patch = (int(match[1]), int(match[2])), int(match[3])
    if branch < OLDEST:
        return [f"{name} is {text}, expected {'.'.join(map(str, OLDEST))} or newer"]
    mended = _MENDED[name]
    if branch > max(mended) or (branch in mended and patch >= mended[branch]):
        return []
    newer = min((each for each in mended if each >= branch), default=max(mended))
    wanted = f"{newer[0]}.{newer[1]}.{mended[newer]}"
    why = "scripts can leave their sandbox there (CVE-2025-49844), unless your distribution has mended it"
    return [f"{name} is {text}, expected {wanted} or newer: {why}"]
