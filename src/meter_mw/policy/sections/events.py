"""The section `events`: where usage events wait, and where they go."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meter_mw.policy.policy import EventRules, FileSinkRule, HttpSinkRule, SinkRule, StdoutSinkRule
from meter_mw.policy.reading import NOT_YET, Field, Names
from meter_mw.policy.yaml12 import Entries
from meter_mw.sinks.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEFAULT_JOURNAL = "var/meter"
DEFAULT_FILE = "usage.jsonl"

_EVENTS = Names(("journal", "durability", "privacy", "sinks"), later=("reap", "retention"))
_SINKS_LATER = (
    "openmeter",
    "lago",
    "stripe",
    "kafka",
    "nats",
    "redis_stream",
    "sql",
    "clickhouse",
    "webhook",
    "otlp",
    "prometheus",
)
_SINK_EXPECTED = "{file: PATH}, stdout or {http: URL}"
_KINDS = ("file", "stdout", "http")
_SINK = Names((*_KINDS, "secret", "plain_http"), later=_SINKS_LATER)


def read_events(field: Field) -> EventRules:
    """Read where events wait and go."""
    fields = field.section(_EVENTS) or {}
    journal = _path(fields["journal"], "the path of a folder") if "journal" in fields else None
    if journal is None:
        journal = field.document.folder / DEFAULT_JOURNAL
    if "durability" in fields:
        fields["durability"].choice({"standard": None}, ("strict",))
    if "privacy" in fields:
        for each in (fields["privacy"].section(Names(("ip", "user_agent"))) or {}).values():
            _privacy(each)
    sinks = _sinks(fields["sinks"], journal) if "sinks" in fields else (FileSinkRule(journal / DEFAULT_FILE),)
    return EventRules(journal, sinks)


def _privacy(field: Field) -> None:
    if field.text("none") not in ("none", None):
        field.complain(f"found {field.found()}; anything but none {NOT_YET}")


def _path(field: Field, expected: str) -> Path | None:
    text = field.location(expected)
    return field.document.folder / text if text is not None else None


def _sinks(field: Field, journal: Path) -> tuple[SinkRule, ...]:
    items = field.items(f"a list of sinks: {_SINK_EXPECTED}")
    if items is not None and not items:
        field.complain(f"found no sink; leave sinks out for {DEFAULT_FILE} in the journal's folder")
    paths: dict[tuple[str, str], str] = {}
    sinks: list[SinkRule] = []
    for item in items or ():
        sink = _sink(item)
        if sink is None:
            continue
        other = paths.setdefault(_target(sink), item.path)
        if other != item.path:
            item.complain(f"events go there already, by {other}; each would arrive twice")
        elif isinstance(sink, FileSinkRule) and _is_folder(sink.path, journal):
            item.complain(f"this is a folder; write a file in it, such as {DEFAULT_FILE}")
        sinks.append(sink)
    return tuple(sinks)


def _is_folder(path: Path, journal: Path) -> bool:
    """Say whether a file cannot be there: a folder is, or the journal will be."""
    return os.path.isdir(path) or os.path.normpath(path) == os.path.normpath(journal)  # noqa: PTH112 - raises nothing


def _target(sink: SinkRule) -> tuple[str, str]:
    if isinstance(sink, FileSinkRule):
        return ("file", str(sink.path))
    return ("http", sink.url) if isinstance(sink, HttpSinkRule) else ("stdout", "")


def _sink(field: Field) -> SinkRule | None:
    if not isinstance(field.node, Entries):
        return _named_sink(field)
    fields = field.section(_SINK) or {}
    kinds = [name for name in _KINDS if name in fields]
    if len(kinds) != 1:
        if kinds or not field.has_others(_SINK.known):
            field.complain(
                f"found {' and '.join(kinds) or 'no kind of sink'}; expected one of {_SINK_EXPECTED}"
            )
        return None
    for name in ("secret", "plain_http"):
        if name in fields and kinds != ["http"]:
            fields[name].complain_of_name(f"only an http sink has a {name}")
    return _READERS[kinds[0]](fields)


def _named_sink(field: Field) -> SinkRule | None:
    text = field.text(_SINK_EXPECTED)
    if text == "stdout":
        return StdoutSinkRule()
    if text in _SINKS_LATER and not field.is_hidden:
        field.complain(f"{text} {NOT_YET}")
    elif text is not None:
        meant = field.suggestion(text, ("stdout",))
        (field if meant else field.as_private()).reject(_SINK_EXPECTED, meant=meant)
    return None


def _file(fields: dict[str, Field]) -> SinkRule | None:
    path = _path(fields["file"], "the path of a file")
    return FileSinkRule(path) if path is not None else None


def _stdout(fields: dict[str, Field]) -> SinkRule | None:
    if fields["stdout"].scalar() is True:
        return StdoutSinkRule()
    fields["stdout"].reject("stdout: true, or the word stdout alone")
    return None


def _http(fields: dict[str, Field]) -> SinkRule | None:
    is_plain = "plain_http" in fields and fields["plain_http"].boolean() is True
    url = _url(fields["http"].as_private(), allow_plain=is_plain)
    secret = None
    if "secret" in fields:
        secret = _signing_secret(fields["secret"])
        if secret is None:
            return None
    return HttpSinkRule(url, secret) if url is not None else None


def _signing_secret(field: Field) -> str | None:
    secret = field.secret("a secret by reference: ${HOOK_SECRET}")
    if secret is None:
        return None
    try:
        Signer(secret)
    except ValueError:
        field.complain("the secret is empty, or begins with whsec_ and does not go on in base64")
        return None
    return secret


def _url(field: Field, *, allow_plain: bool) -> str | None:
    """Read where events are posted; the URL is not shown, as a token may be in it."""
    expected = "a URL such as https://billing.example/events"
    text = field.text(expected)
    if text is None:
        return None
    fault = _fault_of_url(text, allow_plain=allow_plain)
    if fault is None:
        return text
    field.complain(f"{fault}; expected {expected}")
    return None


def _fault_of_url(url: str, *, allow_plain: bool) -> str | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "the URL cannot be read"
    is_odd = "#" in url or " " in url or not url.isascii() or not url.isprintable()
    is_plain = parts.scheme == "http" and not allow_plain and not _is_loopback(host)
    faults = {
        "the URL begins with neither https:// nor http://": parts.scheme not in ("http", "https"),
        "the URL has no host, or the port 0": not host or port == 0,
        "the URL has credentials in it, which logs would show; use secret": "@" in parts.netloc,
        "the URL has a fragment, a space, or a character beyond ASCII": is_odd,
        "plain http to another machine can be read on the way; use https, or say plain_http: true": is_plain,
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_READERS: dict[str, Callable[[dict[str, Field]], SinkRule | None]] = {
    "file": _file,
    "stdout": _stdout,
    "http": _http,
}
