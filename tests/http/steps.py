"""What a client does, what it is told and what is recorded, as data.

A step is told its subject by `{key}` in field values: a key of its plan that no other scenario has.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

Expected: TypeAlias = "str | re.Pattern[str] | Callable[[str], bool] | None"
"""A whole field value, a pattern of it, a judgement of it, or that there is none."""

KEY = (("X-API-Key", "{key}"),)
PROBLEM = "application/problem+json"
EDGES = ("asgi", "wsgi", "django", "adjango")


@dataclass(frozen=True)
class Between:
    """A number that only lies between two others."""

    least: int
    most: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and self.least <= other <= self.most

    def __hash__(self) -> int:
        return hash((self.least, self.most))


@dataclass(frozen=True)
class Step:
    """One request, its answer and its event; `event` is None where nothing may be recorded.

    `key` is whose it is, made of the scenario's plan and name. `after_wait` sleeps exactly as long as the
    Retry-After of the step before said, `pause` so many seconds; `takes` are those of the server.
    `size` is the length of the body that comes, which is not `whole` where it is cut. `during` is what
    happens while the body is on its way. `amended` gives what an event that amends this step's says.
    """

    target: str
    method: str = "GET"
    fields: tuple[tuple[str, str], ...] = KEY
    body: bytes | tuple[bytes, ...] = b""
    status: int = 200
    answer: dict[str, Expected] = field(default_factory=dict)
    content: bytes | re.Pattern[bytes] | None = None
    event: dict[str, object] | None = field(default_factory=dict)
    amended: dict[str, object] = field(default_factory=dict)
    after_wait: bool = False
    key: str = "{plan}.{name}"
    pause: float = 0.0
    takes: float = 0.0
    size: int | None = None
    whole: bool = True
    during: tuple[Step, ...] = ()


@dataclass(frozen=True, eq=False)
class Scenario:
    """Steps that one client takes. `edges` names those that the scenario is about, all by default.

    `thresholds` are the limits and counts that are announced, each once.
    """

    name: str
    steps: tuple[Step, ...]
    plan: str = "free"
    variant: str = "main"
    edges: tuple[str, ...] = EDGES
    thresholds: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return self.name


ITEM = Step("/v1/items/1", content=b"item 1", event={"route": "items"})


def denied(name: str, **changes: object) -> Step:
    """Give a refusal by the limit `name`."""
    problem = re.compile(
        rb'\{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":.*'
        rb'"status":429,'
        rb'.*"instance":"urn:uuid:[0-9a-f-]{36}","violated-policies":\["' + name.encode() + rb'"\]\}'
    )
    step: dict[str, object] = {
        "target": "/v1/items/1",
        "status": 429,
        "content": problem,
        "event": None,
        "answer": {"Content-Type": PROBLEM, "Cache-Control": "no-store", "Retry-After": "1"},
    }
    return Step(**(step | changes))  # type: ignore[arg-type]
