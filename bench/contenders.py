"""Who takes part. A contender's module is imported only where it runs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from bench.workload import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.workload import Setting

Edge = Literal["asgi", "wsgi", "async call", "call"]

STRICT, LEASED = "meter_mw strict", "meter_mw leased"
OURS = (STRICT, LEASED)
FLOOR = "redis-py EVALSHA"


@dataclass(frozen=True, slots=True)
class Contender:
    """A meter in an app, the bare app, or a call without any app.

    `base` names the framework, whose bare app it is compared with. `fields` says whether its answers carry
    limit fields. `most` is how many limits it takes at a time, `rising` marks one that takes several only if
    they rise with their periods, and `floor` one that counts a single limit however many are asked for.
    `shared` marks one that counts in Redis alone; `speed` is what ours is told of it.
    """

    name: str
    edge: Edge
    base: str
    module: str
    package: str
    fields: bool = False
    most: int = len(LIMITS)
    rising: bool = False
    floor: bool = False
    shared: bool = False
    speed: str = ""

    @property
    def bare(self) -> bool:
        """Whether nothing is metered."""
        return self.name == "bare"

    @property
    def ours(self) -> bool:
        """Whether it is meter_mw."""
        return self.package == "meter-mw"

    @property
    def title(self) -> str:
        """The head of its row."""
        if self.bare:
            return f"*bare {self.base}*"
        if self.ours:
            return f"{self.name.replace('meter_mw', '**meter_mw**')} on {self.base}"
        return f"{self.label} on {self.base}" if self.has_server else f"{self.label}, {self.base}"

    @property
    def label(self) -> str:
        """Its name in a sentence."""
        return {"limits": "limits by hand", "throttles": "DRF's throttles"}.get(self.name, self.name)

    @property
    def has_server(self) -> bool:
        """Whether it is an app, which a server can run."""
        return self.edge in ("asgi", "wsgi")

    @property
    def folder_name(self) -> str:
        """A name of its own for a folder."""
        return f"{self.name}-{self.base}".replace(" ", "-")

    def fits(self, setting: Setting) -> bool:
        """Whether it can do what is asked for there."""
        return len(setting.limits) <= self.most and not (self.shared and setting.redis is None)

    def build(self, setting: Setting) -> Any:
        """Make the app."""
        return import_module(self.module).build(setting, *filter(None, [self.speed]))

    def hook(self, name: str) -> Callable[[Any], None]:
        """Give the module's `drain`, `leave` or `close`; one that does nothing where it has none."""
        return getattr(import_module(self.module), name, lambda _: None)


def _meter(name: str, edge: Edge, base: str, module: str, package: str, **facts: Any) -> Contender:
    return Contender(name, edge, base, f"bench.meters.{module}", package, **facts)


def _ours(edge: Edge, base: str, module: str) -> tuple[Contender, Contender]:
    return (
        _meter(STRICT, edge, base, module, "meter-mw", fields=True, speed="strict"),
        _meter(LEASED, edge, base, module, "meter-mw", fields=True, speed="leased", shared=True),
    )


ALL = (
    Contender("bare", "asgi", "Starlette", "bench.apps.starlette_app", "starlette"),
    *_ours("asgi", "Starlette", "ours_asgi"),
    _meter("slowapi", "asgi", "Starlette", "slowapi_asgi", "slowapi", fields=True),
    _meter("limits", "asgi", "Starlette", "limits_asgi", "limits"),
    _meter("asgi-ratelimit", "asgi", "Starlette", "asgi_ratelimit_asgi", "asgi-ratelimit", most=3),
    _meter("throttled-py", "asgi", "Starlette", "throttled_asgi", "throttled-py"),
    _meter("pyrate-limiter", "asgi", "Starlette", "pyrate_asgi", "pyrate-limiter", rising=True),
    _meter(FLOOR, "asgi", "Starlette", "evalsha_asgi", "redis", floor=True, shared=True),
    _meter(FLOOR, "async call", "asyncio", "evalsha_acall", "redis", floor=True, shared=True),
    Contender("bare", "asgi", "FastAPI", "bench.apps.fastapi_app", "fastapi"),
    *_ours("asgi", "FastAPI", "ours_fastapi"),
    _meter("fastapi-limiter", "asgi", "FastAPI", "fastapi_limiter_asgi", "fastapi-limiter", rising=True),
    Contender("bare", "wsgi", "Flask", "bench.apps.flask_app", "flask"),
    *_ours("wsgi", "Flask", "ours_wsgi"),
    _meter("Flask-Limiter", "wsgi", "Flask", "flask_limiter_wsgi", "flask-limiter", fields=True),
    _meter("limits", "wsgi", "Flask", "limits_wsgi", "limits"),
    _meter(FLOOR, "wsgi", "Flask", "evalsha_wsgi", "redis", floor=True, shared=True),
    _meter(FLOOR, "call", "blocking", "evalsha_call", "redis", floor=True, shared=True),
    Contender("bare", "wsgi", "Django", "bench.apps.django_app", "django"),
    *_ours("wsgi", "Django", "ours_django"),
    _meter("django-ratelimit", "wsgi", "Django", "django_ratelimit_wsgi", "django-ratelimit"),
    Contender("bare", "wsgi", "DRF", "bench.apps.drf_app", "djangorestframework"),
    _meter("throttles", "wsgi", "DRF", "drf_wsgi", "djangorestframework"),
)
"""In the order in which they take turns."""

EVENTS = (
    ALL[0],
    _meter("meter_mw", "asgi", "Starlette", "ours_event", "meter-mw"),
    _meter("Moesif", "asgi", "Starlette", "moesif_asgi", "moesifasgi"),
    _meter("Apitally", "asgi", "Starlette", "apitally_asgi", "apitally"),
)
"""Those that record each request and send it away, and limit nothing."""

NAMES = tuple(dict.fromkeys(each.name for each in ALL if not each.bare))


def chosen(names: Iterable[str]) -> list[Contender]:
    """Give the contenders of these names with their bare apps; we stand on FastAPI only beside a rival."""
    wanted = [each for each in ALL if each.name in names]
    bases = {each.base for each in wanted if each.base != "FastAPI" or each.name not in OURS}
    return [each for each in ALL if each.base in bases and (each.bare or each in wanted)]


def one(name: str, base: str) -> Contender:
    """Give the contender of that name on that framework."""
    return next(each for each in ALL if (each.name, each.base) == (name, base))
