"""DRF's own SimpleRateThrottle, once a limit, on Django's own Redis cache; it sends no fields.

It keeps the time of every request of the period in one entry of the cache, which grows with the run: what is
measured here is a young entry, its best case. Rates go past its parser, which knows no multiples of a period.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.apps import drf_app
from bench.apps.django_project import cache_of

# isort: split
# what follows reads Django's settings
from django.core.cache import caches
from rest_framework.throttling import SimpleRateThrottle

if TYPE_CHECKING:
    from django.core.handlers.wsgi import WSGIHandler
    from rest_framework.request import Request
    from rest_framework.views import APIView

    from bench.workload import Limit, Setting


class Throttle(SimpleRateThrottle):
    """One limit for each API key; each limit has a subclass."""

    rate = "1/s"
    of: Limit

    def parse_rate(self, _: object) -> tuple[int, int]:
        """Give the limit that this class is of."""
        return self.of.amount, self.of.seconds

    def get_cache_key(self, request: Request, _: APIView) -> str:
        """Name the caller's entry."""
        return f"throttle_{self.of.seconds}_{request.META['HTTP_X_API_KEY']}"


def build(setting: Setting) -> WSGIHandler:
    cache = caches[cache_of(setting)]
    throttles = [type("Each", (Throttle,), {"of": limit, "cache": cache}) for limit in setting.limits]
    return drf_app.build(setting, throttles)
