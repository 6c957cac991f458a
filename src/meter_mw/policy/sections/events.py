"""The section `events`: where usage events wait, how surely, and where they go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from meter_mw.policy.delivery import Durability, EventRules, Forwarding, OnFull, Reap, SealRule, SinkRule
from meter_mw.policy.evidence import Address, Agent, EvidenceRules
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.settings import read_duration_us
from meter_mw.policy.sections.sinks import EXPECTED, read_sink
from meter_mw.policy.units import NotationError, amount
from meter_mw.sinks.kinds import Form, find

if TYPE_CHECKING:
    from enum import Enum
    from pathlib import Path

DEFAULT_JOURNAL = "var/meter"
DEFAULT_FILE = "usage.jsonl"

_EVENTS = Names(
    (
        "journal",
        "durability",
        "on_full",
        "max_size",
        "retention",
        "reap",
        "forwarder",
        "seal",
        "privacy",
        "sinks",
    )
)
_PRIVACY = Names(("ip", "user_agent"))
_SMALLEST = 16 << 20
_LARGEST = 1 << 44
_LONGEST_US = 400 * 24 * 3_600_000_000


def read_events(field: Field) -> EventRules:
    """Read where events wait and go."""
    fields = field.section(_EVENTS) or {}
    journal = _folder(fields["journal"]) if "journal" in fields else None
    if journal is None:
        journal = field.document.folder / DEFAULT_JOURNAL
    settings: dict[str, object] = {
        name: _word(fields[name], kind) for name, kind in _WORDS.items() if name in fields
    }
    settings["max_bytes"] = _size(fields["max_size"]) if "max_size" in fields else None
    settings["retention_us"] = _retention(fields["retention"]) if "retention" in fields else None
    settings["privacy"] = _privacy(fields["privacy"]) if "privacy" in fields else None
    settings["seal"] = _seal(fields["seal"]) if "seal" in fields else None
    given = {name: value for name, value in settings.items() if value is not None}
    sinks = _sinks(fields["sinks"], journal) if "sinks" in fields else (_default(journal),)
    return EventRules(journal, sinks, **given)  # type: ignore[arg-type]  # each reader gives its own type


_WORDS: dict[str, type[Enum]] = {
    "durability": Durability,
    "on_full": OnFull,
    "reap": Reap,
    "forwarder": Forwarding,
}


def _word(field: Field, kind: type[Enum]) -> Enum | None:
    return field.choice({str(each.value): each for each in kind})


def _default(journal: Path) -> SinkRule:
    kind = find("file")
    if kind is None:
        raise LookupError("the file sink is always there")
    return SinkRule(kind, kind.set({"file": journal / DEFAULT_FILE}))


def _privacy(field: Field) -> EvidenceRules:
    fields = field.section(_PRIVACY) or {}
    address = _word(fields["ip"], Address) if "ip" in fields else None
    agent = _word(fields["user_agent"], Agent) if "user_agent" in fields else None
    return EvidenceRules(
        address if isinstance(address, Address) else Address.NONE,
        agent if isinstance(agent, Agent) else Agent.NONE,
    )


def _folder(field: Field) -> Path | None:
    text = field.location("the path of a folder")
    return field.document.folder / text if text is not None else None


def _size(field: Field) -> int | None:
    expected = "a size from 16 MiB to 16384 GiB, such as 1 GiB"
    text = field.text(expected)
    if text is None:
        return None
    try:
        size = amount(text, sized=True)
    except NotationError as error:
        field.reject(expected, because=str(error), meant=error.meant)
        return None
    if _SMALLEST <= size <= _LARGEST:
        return size
    field.reject(expected)
    return None


def _retention(field: Field) -> int | None:
    return read_duration_us(
        field, "a duration from 0s to 400 days, such as 1 hour", (0, _LONGEST_US), unit="s"
    )


def _seal(field: Field) -> SealRule | None:
    fields = field.section(Names(("secret", "private_key"))) or {}
    if len(fields) != 1:
        field.complain("expected either secret or private_key, as ${NAME} or ${file:/path}")
        return None
    name, each = next(iter(fields.items()))
    text = each.secret("a secret by reference: ${NAME} or ${file:/path}")
    if not text:
        return None
    return SealRule(**{name: text.encode()})


def _sinks(field: Field, journal: Path) -> tuple[SinkRule, ...]:
    items = field.items(f"a list of sinks: {EXPECTED}")
    if items is not None and not items:
        field.complain(f"found no sink; leave sinks out for {DEFAULT_FILE} in the journal's folder")
    paths: dict[tuple[str, object], str] = {}
    sinks: list[SinkRule] = []
    for item in items or ():
        sink = read_sink(item)
        if sink is None:
            continue
        other = paths.setdefault((sink.kind.word, sink.settings.main), item.path)
        if other != item.path:
            item.complain(f"events go there already, by {other}; each would arrive twice")
        elif sink.kind.main.form is Form.PATH and _is_folder(sink.settings.path(sink.kind.word), journal):
            item.complain(f"this is a folder; write a file in it, such as {DEFAULT_FILE}")
        sinks.append(sink)
    if sinks and len(sinks) == len(items or ()) and not any(sink.kind.for_billing for sink in sinks):
        field.complain(
            "none of these sinks is for billing: events may be lost there, or count twice;"
            " add one that keeps each, such as {file: usage.jsonl}"
        )
    return tuple(sinks)


def _is_folder(path: Path, journal: Path) -> bool:
    """Say whether a file cannot be there: a folder is, or the journal will be."""
    return os.path.isdir(path) or os.path.normpath(path) == os.path.normpath(journal)  # noqa: PTH112 - raises nothing
