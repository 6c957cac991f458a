"""django-ratelimit by its `is_ratelimited`, once a limit, on Django's own Redis cache; it sends no fields.

That is what its decorator calls, without the exception that a refusal is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.http import HttpResponse
from django_ratelimit.core import is_ratelimited

from bench.apps.django_app import item
from bench.apps.django_project import cache_of, handler

if TYPE_CHECKING:
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpRequest

    from bench.workload import Setting


def build(setting: Setting) -> WSGIHandler:
    settings.RATELIMIT_USE_CACHE = cache_of(setting)
    rates = [(limit.amount, limit.seconds) for limit in setting.limits]

    def metered(request: HttpRequest, item_id: int) -> HttpResponse:
        for rate in rates:
            if is_ratelimited(request, group="items", key="header:x-api-key", rate=rate, increment=True):
                return HttpResponse(status=429)
        return item(request, item_id)

    return handler(metered)
