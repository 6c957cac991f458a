"""Who takes part. A contender's module is imported only where it runs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.workload import Setting

Edge = Literal["asgi", "wsgi"]


@dataclass(frozen=True, slots=True)
class Contender:
    """A meter in an app, or the bare app; `base` names the framework, whose bare app it is compared with.

    `fields` says whether its answers carry limit fields. `rising` marks one that takes several limits only
    if they rise with their periods.
    """

    name: str
    edge: Edge
    base: str
    module: str
    package: str
    fields: bool = False
    rising: bool = False

    @property
    def bare(self) -> bool:
        """Whether nothing is metered."""
        return self.name == "bare"

    @property
    def title(self) -> str:
        """The head of its row."""
        if self.bare:
            return f"*bare {self.base}*"
        name = {"meter_mw": "**meter_mw**", "limits": "limits by hand"}.get(self.name, self.name)
        return f"{name} on {self.base}"

    def build(self, setting: Setting) -> Any:
        """Make the app."""
        return import_module(self.module).build(setting)

    def hook(self, name: str) -> Callable[[Any], None]:
        """Give the module's `drain` or `close`; one that does nothing where it has none."""
        return getattr(import_module(self.module), name, lambda _: None)


def _meter(name: str, edge: Edge, base: str, module: str, package: str, **facts: bool) -> Contender:
    return Contender(name, edge, base, f"bench.meters.{module}", package, **facts)


ALL = (
    Contender("bare", "asgi", "Starlette", "bench.apps.starlette_app", "starlette"),
    _meter("meter_mw", "asgi", "Starlette", "ours_asgi", "meter-mw", fields=True),
    _meter("slowapi", "asgi", "Starlette", "slowapi_asgi", "slowapi", fields=True),
    _meter("limits", "asgi", "Starlette", "limits_asgi", "limits"),
    Contender("bare", "asgi", "FastAPI", "bench.apps.fastapi_app", "fastapi"),
    _meter("meter_mw", "asgi", "FastAPI", "ours_fastapi", "meter-mw", fields=True),
    _meter("fastapi-limiter", "asgi", "FastAPI", "fastapi_limiter_asgi", "fastapi-limiter", rising=True),
    Contender("bare", "wsgi", "Flask", "bench.apps.flask_app", "flask"),
    _meter("meter_mw", "wsgi", "Flask", "ours_wsgi", "meter-mw", fields=True),
    _meter("Flask-Limiter", "wsgi", "Flask", "flask_limiter_wsgi", "flask-limiter", fields=True),
    _meter("limits", "wsgi", "Flask", "limits_wsgi", "limits"),
)
"""In the order in which they take turns."""

NAMES = tuple(dict.fromkeys(each.name for each in ALL if not each.bare))


def chosen(names: Iterable[str]) -> list[Contender]:
    """Give the contenders of these names with their bare apps; we stand on FastAPI only beside a rival."""
    wanted = [each for each in ALL if each.name in names]
    bases = {each.base for each in wanted if each.base != "FastAPI" or each.name == "fastapi-limiter"}
    return [each for each in ALL if each.base in bases and (each.bare or each in wanted)]
