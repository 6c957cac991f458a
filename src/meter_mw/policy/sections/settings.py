"""The settings that stand alone, such as mode, store and headers, and values that several sections have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from meter_mw.policy.policy import HeaderRules, Legacy, Mode, Recovery, StoreCheck
from meter_mw.policy.reading import NOT_YET, Field, Names
from meter_mw.policy.terms import Failure, Speed
from meter_mw.policy.units import NotationError, duration_us
from meter_mw.policy.yaml12 import Scalar

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_STORE = "${METER_STORE:-memory://}"

FAILURES = {each.value: each for each in Failure}

_SERVICE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_CLUSTERS = ("redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster")
_SCHEMES = ("memory", "redis", "rediss", "redis+unix", "unix", "valkey", "valkeys", *_CLUSTERS)
_SCHEMES_LATER = ("redis+sentinel",)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,19})://")

_DEADLINES_US = (5_000, 10_000_000)
CHECKPOINT_US = 60_000_000
_CHECKPOINTS_US = (1_000_000, 300_000_000)
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True)
class StoreFailure:
    """What limits do while the store does not answer, and when it counts as not answering."""

    rate: Failure = Failure.OPEN
    cap: Failure = Failure.CLOSED
    deadline_us: int = 100_000
    recovery: Recovery = Recovery.LEARN


def read_version(field: Field) -> None:
    """Check that the file is of a version that is read here."""
    field.integer("version: 1, the one that this meter_mw reads", least=1, most=1)


def read_service(field: Field) -> str | None:
    """Read the name that events carry in their source."""
    expected = "a name of lower-case letters, digits, dots, hyphens and underscores, at most 64"
    return named(field, _SERVICE, expected)


def named(field: Field, pattern: re.Pattern[str], expected: str) -> str | None:
    """Read a text that has the form of a name."""
    text = field.text(expected, quotable=True)
    if text is None or pattern.fullmatch(text):
        return text
    meant = re.sub("[^a-z0-9._-]+", "-", text[:64].lower()).strip("-._")
    field.reject(expected, meant=meant if pattern.fullmatch(meant) else None)
    return None


def read_mode(field: Field) -> Mode | None:
    """Read whether denials are enforced."""
    return field.choice({each.value: each for each in Mode})


def read_timezone(field: Field) -> str | None:
    """Read an IANA zone."""
    expected = "an IANA zone such as Europe/Paris"
    text = field.text(expected)
    if text is None or is_zone(text):
        return text
    cities = {zone.rpartition("/")[2]: zone for zone in sorted(_zones())}
    meant = field.suggestion(text, _zones())
    city = field.suggestion(text.replace(" ", "_"), cities) if meant is None else None
    field.reject(expected, because="which is no zone here", meant=cities[city] if city else meant)
    return None


def is_zone(name: object) -> bool:
    """Say whether a zone is known here; the server's own (`localtime`) is none."""
    if name == "UTC":
        return True
    if not isinstance(name, str) or name not in _zones():
        return False
    ZoneInfo(name)
    return True


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime", "Factory"})


def read_store(field: Field) -> str | None:
    """Read the URL of the store, which may hold a password."""
    expected = "the URL of a store: memory:// or redis://host:6379/0"
    hidden = field.as_private()
    text = hidden.text(expected)
    if text is None:
        return None
    scheme = _SCHEME.match(text)
    if scheme is None:
        hidden.reject(expected)
        return None
    if scheme[1] in _SCHEMES_LATER:
        field.complain(f"{scheme[1]}:// {NOT_YET}")
        return None
    if scheme[1] not in _SCHEMES:
        field.complain(
            "the store's scheme" + ("" if field.is_hidden else f" {scheme[1]}://") + " is unknown;"
            f" expected one of {', '.join(each + '://' for each in _SCHEMES)}",
            None
            if field.is_hidden
            else field.suggestion(f"{scheme[1]}://", [f"{each}://" for each in _SCHEMES]),
        )
        return None
    fault = _fault_of_cluster(text) if scheme[1] in _CLUSTERS else _fault_of_store(text, scheme[1])
    if fault is not None:
        hidden.complain(fault)
        return None
    return text


def _fault_of_store(url: str, scheme: str) -> str | None:
    """Say what is wrong with a store's URL, without showing it."""
    if not url.isprintable() or " " in url:
        return "the store's URL has a space or a control character"
    if scheme == "memory":
        return None if url == "memory://" else "the store memory:// takes nothing after it"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the store's URL cannot be read; expected the form redis://user:password@host:6379/0"
    if scheme in ("unix", "redis+unix"):
        is_path = len(parts.path) > 1 and not parts.netloc.rpartition("@")[2]
        return (
            None if is_path else f"the store {scheme}:// needs the whole path of a socket: {scheme}:///run/…"
        )
    if port == 0:
        return "the store's port is 0"
    return (
        None
        if re.fullmatch(r"/?[0-9]*", parts.path)
        else "the store's URL does not end in the number of a database"
    )


def _fault_of_cluster(url: str) -> str | None:
    """Say what is wrong with the URL of a cluster, which has several hosts, without showing it."""
    rest = url.partition("://")[2]
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    user, at, several = rest[:end].rpartition("@")
    hosts = several.split(",")
    if not all(hosts):
        return "a cluster's hosts stand one after the other, as in redis+cluster://host:7000,host:7001"
    if urlsplit(rest[end:]).path not in ("", "/", "/0"):
        return "a cluster has one database, and its URL names none"
    faults = (_fault_of_store(f"redis://{user}{at}{host}{rest[end:]}", "redis") for host in hosts)
    return next((fault for fault in faults if fault is not None), None)


def default_store(root: Field) -> Field:
    """Give the field that stands for a store where the policy names none."""
    return root.child(Scalar(DEFAULT_STORE, DEFAULT_STORE, root.node.at), "store")


def read_headers(field: Field) -> HeaderRules:
    """Read which limit fields an answer carries."""
    fields = field.section(Names(("ietf", "legacy"))) or {}
    ietf = fields["ietf"].boolean() if "ietf" in fields else True
    legacy = _legacy(fields["legacy"]) if "legacy" in fields else Legacy.OFF
    return HeaderRules(ietf=ietf is not False, legacy=legacy or Legacy.OFF)


def _legacy(field: Field) -> Legacy | None:
    words = {"epoch": Legacy.EPOCH, "delta": Legacy.DELTA}
    value = field.scalar()
    if isinstance(value, bool):
        return Legacy.EPOCH if value else Legacy.OFF
    if isinstance(value, str) and value in words:
        return words[value]
    if isinstance(value, str):
        field.reject("false, true, epoch or delta", meant=field.suggestion(value, words))
    else:
        field.reject("false, true, epoch or delta")
    return None


def read_store_failure(field: Field) -> StoreFailure:
    """Read what limits do while the store does not answer."""
    fields = field.section(Names(("rate", "cap", "deadline", "recovery"))) or {}
    found: Mapping[str, Failure | None] = {
        name: fields[name].choice(FAILURES) for name in ("rate", "cap") if name in fields
    }
    default = StoreFailure()
    expected = "a duration from 5ms to 10s, such as 100ms"
    deadline_us = (
        read_duration_us(fields["deadline"], expected, _DEADLINES_US, unit="ms")
        if "deadline" in fields
        else None
    )
    recovery = (
        fields["recovery"].choice({each.value: each for each in Recovery}) if "recovery" in fields else None
    )
    return StoreFailure(
        found.get("rate") or default.rate,
        found.get("cap") or default.cap,
        deadline_us or default.deadline_us,
        recovery or default.recovery,
    )


def read_store_check(field: Field) -> StoreCheck | None:
    """Read what becomes of a store whose settings lose counts."""
    return field.choice({each.value: each for each in StoreCheck})


def read_speed(field: Field) -> Speed | None:
    """Read who decides a request that is far from a limit."""
    return field.choice({each.value: each for each in Speed})


def read_week_start(field: Field) -> int | None:
    """Read the day on which weeks begin; 0 is Monday."""
    return field.choice({day: number for number, day in enumerate(DAYS)})


def read_checkpoint(field: Field) -> int | None:
    """Read after how many microseconds a long exchange is recorded in part."""
    return read_duration_us(field, "a duration from 1s to 5m, such as 60s", _CHECKPOINTS_US, unit="s")


def read_duration_us(field: Field, expected: str, span_us: tuple[int, int], *, unit: str) -> int | None:
    """Read a duration into microseconds, the least and the greatest that it may be given."""
    if isinstance(field.node, Scalar) and isinstance(field.node.value, int):
        field.reject(expected, because="which has no unit", meant=f"{field.node.text}{unit}")
        return None
    text = field.text(expected)
    if text is None:
        return None
    try:
        microseconds = duration_us(text)
    except NotationError as error:
        field.reject(expected, because=str(error), meant=error.meant)
        return None
    if span_us[0] <= microseconds <= span_us[1]:
        return microseconds
    field.reject(expected)
    return None


def read_date(field: Field, expected: str) -> date | None:
    """Read a day as ISO 8601 writes it."""
    text = field.text(expected)
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        field.reject(expected)
        return None
    if day.isoformat() != text:
        field.reject(expected, meant=day.isoformat())
        return None
    return day
