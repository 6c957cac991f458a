"""The sinks of the section `events`: each is read as its kind declares."""

from __future__ import annotations

import ipaddress
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meter_mw.policy.delivery import SinkRule
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.settings import read_duration_us
from meter_mw.policy.yaml12 import Entries
from meter_mw.sinks.kinds import Form, MissingClient, Option, SinkKind, find, words

if TYPE_CHECKING:
    from collections.abc import Callable

EXPECTED = "{file: PATH}, stdout, {http: URL} or another kind"


def read_sink(field: Field) -> SinkRule | None:
    """Read one destination: `{kind: value, option: value}`, or the word of a kind that needs no value."""
    if not isinstance(field.node, Entries):
        return _named(field)
    known = words()
    fields = field.entries("a mapping") or {}
    chosen = [name for name in fields if name in known]
    if len(chosen) == 1:
        kind = _found(fields[chosen[0]], chosen[0])
        return _read(field, kind) if kind else None
    if chosen or not field.has_others(known):
        field.complain(f"found {' and '.join(chosen) or 'no kind of sink'}; expected one of {EXPECTED}")
    else:
        field.section(Names(known))
    return None


def _named(field: Field) -> SinkRule | None:
    text = field.text(EXPECTED)
    if text is None:
        return None
    kind = _found(field, text) if text in words() and not field.is_hidden else None
    if kind is not None and kind.main.form is Form.FLAG:
        return SinkRule(kind, kind.set({kind.word: True}))
    if kind is not None and not kind.main.needed:
        return SinkRule(kind, kind.set({}))
    if kind is not None:
        field.reject(f"{{{kind.word}: …}} with {kind.main.expected}")
        return None
    meant = field.suggestion(text, words())
    (field if meant else field.as_private()).reject(EXPECTED, meant=meant)
    return None


def _found(field: Field, word: str) -> SinkKind | None:
    try:
        return find(word)
    except MissingClient as missing:
        field.complain(str(missing))
        return None


def _read(field: Field, kind: SinkKind) -> SinkRule | None:
    options = {kind.word: kind.main, **kind.options}
    needed = tuple(name for name, option in options.items() if option.needed)
    fields = field.section(Names(tuple(options), needed))
    if fields is None:
        return None
    is_plain = "plain_http" in fields and fields["plain_http"].scalar() is True
    values: dict[str, object] = {}
    for name, each in fields.items():
        value = _READERS[options[name].form](each, options[name])
        if value is None:
            return None
        if options[name].form is Form.URL and not _is_safe(each, str(value), plain=is_plain):
            return None
        values[name] = value
    if any(name not in values for name in needed):
        return None
    return SinkRule(kind, kind.set(values))


def _sound(field: Field, value: str | None, option: Option) -> str | None:
    fault = option.fault(value) if value is not None and option.fault else None
    if fault is not None:
        field.complain(fault)
        return None
    return value


def _text(field: Field, option: Option) -> object:
    return _sound(field, field.text(option.expected), option)


def _secret(field: Field, option: Option) -> object:
    return _sound(field.as_private(), field.secret(option.expected), option)


def _path(field: Field, option: Option) -> object:
    text = field.location(option.expected)
    return field.document.folder / text if text is not None else None


def _count(field: Field, option: Option) -> object:
    return field.integer(option.expected, least=option.least, most=option.most)


def _length(field: Field, option: Option) -> object:
    span_us = (option.least * 1_000_000, option.most * 1_000_000)
    microseconds = read_duration_us(field, option.expected, span_us, unit="s")
    return microseconds / 1_000_000 if microseconds is not None else None


def _flag(field: Field, option: Option) -> object:
    if field.scalar() is True:
        return True
    if option.needed:
        field.reject(option.expected)
        return None
    return field.boolean()


def _word(field: Field, option: Option) -> object:
    return field.choice({each: each for each in option.words})


def _table(field: Field, option: Option) -> object:
    entries = field.entries(option.expected)
    if entries is None:
        return None
    texts = {name: each.text(option.expected, quotable=True) for name, each in entries.items()}
    return texts if all(text is not None for text in texts.values()) else None


def _lengths(field: Field, option: Option) -> object:
    entries = field.section(Names(option.words))
    if entries is None:
        return None
    lengths = {name: _length(each, option) for name, each in entries.items()}
    return lengths if all(length is not None for length in lengths.values()) else None


def _url(field: Field, option: Option) -> object:
    """Read where events are sent; the URL is not shown, as a token may be in it."""
    return _sound(field.as_private(), field.as_private().text(option.expected), option)


def _address(field: Field, option: Option) -> object:
    hidden = field.as_private()
    text = hidden.text(option.expected)
    if text is None:
        return None
    if text.partition("://")[0] not in option.words or not text.isprintable():
        hidden.complain(
            f"the address begins with none of {', '.join(f'{each}://' for each in option.words)};"
            f" expected {option.expected}"
        )
        return None
    sound = _sound(hidden, text, option)
    return option.within(sound, field.document.folder) if sound and option.within else sound


def _is_safe(field: Field, url: str, *, plain: bool) -> bool:
    fault = _fault_of_url(url, allow_plain=plain)
    if fault is not None:
        field.as_private().complain(f"{fault}; expected a URL such as https://billing.example/events")
    return fault is None


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


_READERS: MappingProxyType[Form, Callable[[Field, Option], object]] = MappingProxyType(
    {
        Form.TEXT: _text,
        Form.SECRET: _secret,
        Form.URL: _url,
        Form.ADDRESS: _address,
        Form.PATH: _path,
        Form.COUNT: _count,
        Form.LENGTH: _length,
        Form.FLAG: _flag,
        Form.WORD: _word,
        Form.TABLE: _table,
        Form.LENGTHS: _lengths,
    }
)
