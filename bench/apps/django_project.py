"""Django's own settings, made once a process, and a handler for each app of the run.

Django has one set of settings in a process. What differs between apps is given to each handler as it is
made: its middleware, and on its requests the URLs.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import TYPE_CHECKING

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.urls import path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.workload import Setting

_MEMORY: dict[str, object] = {
    "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
    "OPTIONS": {"MAX_ENTRIES": 10_000_000},
}

if not settings.configured:
    settings.configure(
        SECRET_KEY="bench",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        LOGGING_CONFIG=None,
        USE_TZ=True,
        CACHES={"default": _MEMORY},
        REST_FRAMEWORK={"DEFAULT_AUTHENTICATION_CLASSES": [], "UNAUTHENTICATED_USER": None},
    )
    django.setup()
    logging.getLogger("django.request").setLevel(logging.ERROR)  # a refusal is no news

urlpatterns: Sequence[object] = ()


def cache_of(setting: Setting) -> str:
    """Give the name of the cache that keeps counts there: Django's own Redis backend, or its memory."""
    if setting.redis is None:
        return "default"
    settings.CACHES.setdefault(
        setting.redis,
        {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": setting.redis},
    )
    return setting.redis


def handler(view: Callable[..., object], middleware: Sequence[str] = ()) -> WSGIHandler:
    """Make a WSGI app of one view."""
    urls = ModuleType("urls")
    urls.urlpatterns = [path("v1/items/<int:item_id>", view)]  # type: ignore[attr-defined]

    class Request(WSGIRequest):
        urlconf = urls

    settings.MIDDLEWARE = list(middleware)  # read while a handler is made, and not again
    made = WSGIHandler()
    made.request_class = Request
    return made
