"""meter_mw as the one middleware of the bare app, with everything that it does: fields, bytes and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from django.conf import settings

from bench.apps.django_app import item
from bench.apps.django_project import handler
from bench.meters.ours import policy
from meter_mw.django import MeterMiddleware

if TYPE_CHECKING:
    from django.core.handlers.wsgi import WSGIHandler

    from bench.workload import Setting
    from meter_mw.meter import Meter


class Middleware(MeterMiddleware):
    """The one that Django has made last is known, as Django gives no handle to it."""

    latest: ClassVar[Meter]

    def __init__(self, get_response: object) -> None:
        super().__init__(get_response)  # type: ignore[arg-type]
        Middleware.latest = self.meter


def build(setting: Setting, speed: str) -> WSGIHandler:
    settings.METER_POLICY = policy(setting, speed)
    app = handler(item, [f"{__name__}.Middleware"])
    app.meter = Middleware.latest
    return app


def drain(app: WSGIHandler) -> None:
    app.meter.flush()


def close(app: WSGIHandler) -> None:
    app.meter.close()
