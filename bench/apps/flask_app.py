"""The bare Flask app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask

if TYPE_CHECKING:
    from bench.workload import Setting


def item(item_id: int) -> dict[str, int]:
    return {"id": item_id}


def build(_: Setting) -> Flask:
    app = Flask("bench")
    app.add_url_rule("/v1/items/<int:item_id>", view_func=item)
    return app
