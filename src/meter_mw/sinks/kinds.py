"""The kinds of sinks: the word for each in a policy, what can be set for it, and how one is opened.

Ours and those of third parties are one mechanism. A module declares

    KIND = SinkKind("pigeon", Option(Form.TEXT, "the name of a loft"), {...}, open_pigeon)

and, where it is not ours, an entry point `pigeon = "loft.sink:KIND"` in the group `meter_mw.sinks`.
The policy reads what is set by these declarations, so a kind never sees a value that does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from importlib import import_module, metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meter_mw.sinks.base import Sink

_T = TypeVar("_T")

GROUP = "meter_mw.sinks"
"""The group of entry points that third parties add their kinds to."""

_MODULES = MappingProxyType(
    {
        "file": "meter_mw.sinks.file",
        "stdout": "meter_mw.sinks.stdout",
        "http": "meter_mw.sinks.http",
        "kafka": "meter_mw.sinks.kafka",
        "nats": "meter_mw.sinks.nats",
        "redis_stream": "meter_mw.sinks.redis_stream",
        "sql": "meter_mw.sinks.sql",
        "clickhouse": "meter_mw.sinks.clickhouse",
        "otlp": "meter_mw.sinks.otlp",
        "prometheus": "meter_mw.sinks.prometheus",
        "webhook": "meter_mw.sinks.webhook",
        "openmeter": "meter_mw.sinks.openmeter",
        "lago": "meter_mw.sinks.lago",
        "stripe": "meter_mw.sinks.stripe",
    }
)

_EXTRAS = MappingProxyType({"kafka": "kafka", "nats": "nats", "sql": "sql", "prometheus": "prometheus"})


class Form(Enum):
    """What a setting is, and what a sink is handed for it."""

    TEXT = "text"  # str
    SECRET = "secret"  # str, by reference only and never shown  # noqa: S105
    URL = "url"  # str that begins with http(s)://, never shown beyond its origin
    ADDRESS = "address"  # str, a URL of one of `words` schemes that may hold a password: never shown
    PATH = "path"  # Path
    COUNT = "count"  # int, `least` to `most`
    LENGTH = "length"  # float, seconds, `least` to `most`
    FLAG = "flag"  # bool
    WORD = "word"  # str, one of `words`
    TABLE = "table"  # Mapping[str, str]
    LENGTHS = "lengths"  # Mapping[str, float], a length by each of some `words`


@dataclass(frozen=True, slots=True)
class Option:
    """Something that can be set for a sink; `expected` says what, as a complaint would.

    `fault` says what else is wrong with a value, or gives None. `within` gives an ADDRESS that leads to a
    file as the folder of the policy has it.
    """

    form: Form
    expected: str
    needed: bool = False
    default: object = None
    words: tuple[str, ...] = ()
    least: int = 0
    most: int = 2**31
    fault: Callable[[str], str | None] | None = None
    within: Callable[[str, Path], str] | None = None


class Settings:
    """What a policy sets for one sink: a value for every option, the defaults among them."""

    __slots__ = ("_values", "main")

    def __init__(self, word: str, values: Mapping[str, object]) -> None:
        self._values = dict(values)
        self.main = self._values[word]
        """The value of the word itself."""

    def __repr__(self) -> str:
        return f"Settings({', '.join(self._values)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self._values == other._values

    def __hash__(self) -> int:
        return hash(frozenset(self._values))

    def has(self, name: str) -> bool:
        """Say whether an option has a value."""
        return self._values.get(name) is not None

    def text(self, name: str) -> str:
        """Give a TEXT, SECRET, URL, ADDRESS or WORD."""
        return _typed(self._values[name], str)

    def get_text(self, name: str) -> str | None:
        """Give a text, or None where it is not set."""
        return self.text(name) if self.has(name) else None

    def count(self, name: str) -> int:
        """Give a COUNT."""
        return _typed(self._values[name], int)

    def seconds(self, name: str) -> float:
        """Give a LENGTH in seconds."""
        return _typed(self._values[name], float)

    def flag(self, name: str) -> bool:
        """Give a FLAG, false where it is not set."""
        return self._values.get(name) is True

    def path(self, name: str) -> Path:
        """Give a PATH."""
        return _typed(self._values[name], Path)

    def table(self, name: str) -> Mapping[str, str]:
        """Give a TABLE, empty where it is not set."""
        return _typed(self._values.get(name) or {}, dict)

    def lengths(self, name: str) -> Mapping[str, float]:
        """Give LENGTHS in seconds, empty where they are not set."""
        return _typed(self._values.get(name) or {}, dict)


def _typed(value: object, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"a setting is of type {type(value).__name__}, not {kind.__name__}")
    return value


@dataclass(frozen=True, slots=True)
class Service:
    """What a sink may know of the policy: the source of its events, and the quantities in their data.

    `journal` is the folder where a sink may keep what has to outlive the process.
    """

    source: str
    fields: tuple[str, ...]
    journal: Path


@dataclass(frozen=True, slots=True)
class SinkKind:
    """A kind of sink. `main` is the value of the word itself: `{word: value, option: value}`.

    Where it is a FLAG, or not needed, the word may stand alone.

    `for_billing` is false for destinations that may count an event twice, or not at all. `open` connects
    to nothing yet; it raises `ValueError` for settings that contradict each other.
    """

    word: str
    main: Option
    options: Mapping[str, Option]
    open: Callable[[Settings, Service], Sink]
    for_billing: bool = True

    def __post_init__(self) -> None:
        """Check what the reader of a policy relies on."""
        if self.word in self.options:
            raise ValueError(f"sink {self.word}: an option has the name of the kind")

    def set(self, values: Mapping[str, object]) -> Settings:
        """Give settings with these values, and the defaults of all other options."""
        defaults = {name: option.default for name, option in self.options.items()}
        return Settings(self.word, {self.word: self.main.default, **defaults, **values})

    def shown(self, settings: Settings) -> str:
        """Give the kind and where it leads, without what may be secret."""
        if not settings.has(self.word):
            where = ""
        elif self.main.form in (Form.URL, Form.ADDRESS):
            parts = urlsplit(settings.text(self.word))
            where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
        else:
            where = "" if self.main.form in (Form.FLAG, Form.SECRET) else str(settings.main)
        return f"{self.word} {where}".rstrip()


class MissingClient(Exception):
    """The client that a kind of sink needs is not installed; says what to install."""


def words() -> tuple[str, ...]:
    """Give the words of all kinds that are known here."""
    return (
        *_MODULES,
        *(each.name for each in metadata.entry_points(group=GROUP) if each.name not in _MODULES),
    )


def find(word: str) -> SinkKind | None:
    """Give the kind of a word; None for one that nobody declares. Raises MissingClient."""
    try:
        if word in _MODULES:
            found = import_module(_MODULES[word]).KIND
        else:
            entry = next(iter(metadata.entry_points(group=GROUP, name=word)), None)
            found = entry.load() if entry else None
    except ImportError as error:
        extra = _EXTRAS.get(word)
        cure = f"pip install 'meter-mw[{extra}]'" if extra else f"install {error.name or 'its client'}"
        raise MissingClient(f"the sink {word} needs {error.name or 'a client'}: {cure}") from error
    if found is not None and not isinstance(found, SinkKind):
        raise MissingClient(f"the entry point {word} of {GROUP} is no SinkKind")
    return found


URL = Option(Form.URL, "a URL such as https://billing.example/events", needed=True)
PLAIN_HTTP = Option(Form.FLAG, "true, to let events go to another machine unencrypted")
TIMEOUT = Option(Form.LENGTH, "a time such as 10 s, 1 s to 60 s", default=10.0, least=1, most=60)
