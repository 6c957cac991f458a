"""The operator's own callables: imported when the policy is loaded, or passed in a mapping."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.policy.problems import quoted
from meter_mw.policy.yaml12 import Scalar

if TYPE_CHECKING:
    from meter_mw.policy.reading import Field

Found: TypeAlias = Callable[..., object]


def read_callable(field: Field) -> Found | None:
    """Import a callable; whatever its module raises is a problem of the policy."""
    expected = 'a callable as "module:name"'
    if isinstance(field.node, Scalar) and callable(field.node.value):
        return field.node.value
    text = field.text(expected)
    if text is None:
        return None
    module, _, name = text.partition(":")
    found = _imported(module, name)
    if not isinstance(found, str):
        return found
    field.reject(expected, because=found)
    return None


def _imported(module: str, name: str) -> Found | str:
    """Give the operator's callable, or say why there is none."""
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        return "which does not read as one"
    try:
        found: object = reduce(getattr, name.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the operator's module may raise anything
        return f"and importing it raised {type(error).__name__}{_missing(error)}"
    return found if callable(found) else f"which is a {type(found).__name__} and cannot be called"


def _missing(error: BaseException) -> str:
    """Name the module that was not found; whatever else an error says may be a value."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    is_name = name is not None and all(part.isidentifier() for part in name.split("."))
    return f", as there is no module {quoted(name)}" if name is not None and is_name else ""
