"""A policy file, or a mapping of its shape, into a checked `Policy`, or all of its problems at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from meter_mw.policy.keyring import Keyring
from meter_mw.policy.nodes import nodes_of
from meter_mw.policy.policy import HeaderRules, IdentityRules, Mode, Policy, StoreCheck, Unknown
from meter_mw.policy.problems import PolicyError, Problem, printable
from meter_mw.policy.reading import Document, Field, Names
from meter_mw.policy.sections.charge import read_charge
from meter_mw.policy.sections.events import read_events
from meter_mw.policy.sections.identity import Edges, complain_of_edges, read_identity
from meter_mw.policy.sections.keys import Keys, Terms, read_keys
from meter_mw.policy.sections.limits import LimitRules
from meter_mw.policy.sections.meters import DEFAULT_METERS, read_meters
from meter_mw.policy.sections.plans import DEFAULT_PLAN, read_plans
from meter_mw.policy.sections.routes import RouteRules, read_routes
from meter_mw.policy.sections.settings import (
    CHECKPOINT_US,
    StoreFailure,
    default_store,
    read_checkpoint,
    read_headers,
    read_mode,
    read_service,
    read_speed,
    read_store,
    read_store_check,
    read_store_failure,
    read_timezone,
    read_version,
    read_week_start,
)
from meter_mw.policy.sections.signals import read_signals
from meter_mw.policy.signals import SignalRules
from meter_mw.policy.terms import ChargeRules, Speed
from meter_mw.policy.yaml12 import LARGEST_BYTES, MOST_PROBLEMS, Entries, Items, Node, Scalar, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.policy.terms import Plan

__all__ = ["PolicyError", "Problem", "load"]

_TOP = Names(
    (
        "version",
        "service",
        "mode",
        "store",
        "timezone",
        "week_start",
        "identity",
        "keys",
        "meters",
        "routes",
        "plans",
        "charge",
        "checkpoint",
        "headers",
        "on_store_failure",
        "store_check",
        "speed",
        "events",
        "signals",
    ),
    needed=("version", "service"),
)

_SOURCE = "the path of a policy file, a mapping, or a loaded Policy"

_STAND_IN = Keyring.of(bytes(16))
"""Stands for a secret whose problem is noted, so that keys are still checked beside each other."""


def load(
    source: str | Path | Mapping[str, object] | Policy, environ: Mapping[str, str] = os.environ
) -> Policy:
    """Read a policy from a path, or from a mapping of the same shape; a loaded one is given back.

    Relative paths in it begin at the file's folder, or for a mapping at the working directory.
    Raises PolicyError with all problems at once.
    """
    if isinstance(source, Policy):
        return source
    read = _read(source, environ)
    del source, environ  # reporters print the locals of frames, and these hold secrets
    if isinstance(read, Policy):
        return read
    raise PolicyError(read)


def _read(source: object, environ: Mapping[str, str]) -> Policy | list[Problem]:
    problems: list[Problem] = []
    if isinstance(source, Mapping):
        document = Document(None, Path.cwd(), environ, problems)
        node, digest = _from_mapping(source, document)
    elif not isinstance(source, str | os.PathLike):
        return [Problem(f"found a value of type {type(source).__name__}; expected {_SOURCE}")]
    elif not str(source).strip():
        return [Problem(f"the path of the policy is empty; expected {_SOURCE}")]
    elif "\n" in str(source):
        return [Problem("found several lines of text; expected the path of a policy file, or a mapping")]
    else:
        document = Document(printable(str(source)), Path(source).absolute().parent, environ, problems)
        node, digest = _from_file(source, document)
    policy = _policy(Field(node, "", document), digest) if node is not None else None
    return policy or _sorted(problems, document.label)


def _from_file(source: str | os.PathLike[str], document: Document) -> tuple[Node | None, str]:
    try:
        with Path(source).open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a path"
        document.complain(f"the policy cannot be read: {printable(reason or 'no reason given')}", "", None)
        return None, ""
    node = parse(data, document.complain, private="keys")
    return node, _digest(data)


def _from_mapping(source: Mapping[str, object], document: Document) -> tuple[Node | None, str]:
    node = nodes_of(source)
    if isinstance(node, str):
        document.complain(node, "", None)
        return None, ""
    return node, _digest(json.dumps(_without_secrets(node, top=True)).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _without_secrets(node: Node, *, top: bool = False) -> object:
    """Give what the digest of a mapping is made of: everything but keys and secrets, in a fixed order."""
    match node:
        case Scalar():
            return [type(node.value).__name__, node.text]
        case Items():
            return [_without_secrets(each) for each in node.nodes]
        case Entries():
            return {
                name.text: _without_secrets(each)
                for name, each in sorted(node.pairs, key=lambda pair: pair[0].text)
                if name.text not in ("secret", "private_key") and not (top and name.text == "keys")
            }


def _policy(root: Field, digest: str) -> Policy | None:
    """Read every section; the result is good only if no problem was noted."""
    if not isinstance(root.node, Entries):
        root.as_private().reject("a mapping that begins with version: 1")
        return None
    found = root.section(_TOP) or {}
    if "version" in found:
        read_version(found["version"])
    service = read_service(found["service"]) if "service" in found else None
    mode = read_mode(found["mode"]) if "mode" in found else Mode.ENFORCE
    store = read_store(found.get("store") or default_store(root))
    zone = read_timezone(found["timezone"]) if "timezone" in found else "UTC"
    failure = read_store_failure(found["on_store_failure"]) if "on_store_failure" in found else StoreFailure()
    headers = read_headers(found["headers"]) if "headers" in found else HeaderRules()
    nothing = Entries((), root.node.at)
    meters = read_meters(found["meters"]) if "meters" in found else DEFAULT_METERS
    speed = (read_speed(found["speed"]) if "speed" in found else None) or Speed.AUTO
    rules = LimitRules(meters, failure, shadow=mode is Mode.SHADOW, speed=speed)
    plans, limits = read_plans(found.get("plans") or root.child(nothing, "plans"), rules)
    charge = (read_charge(found["charge"], ChargeRules()) if "charge" in found else None) or ChargeRules()
    routes = read_routes(found["routes"], RouteRules(rules, charge, limits)) if "routes" in found else ()
    identity = read_identity(found.get("identity") or root.child(nothing, "identity"), plans, zone or "UTC")
    terms = Terms(plans, routes, zone or "UTC", store, identity.keyring if identity else _STAND_IN)
    before = len(root.document.problems)
    keys = read_keys(found["keys"], terms) if "keys" in found else Keys()
    identity = identity and _with_default(identity, found.get("identity"), keys)
    if mode is Mode.ENFORCE and identity and len(root.document.problems) == before:
        _complain_of_nobody(identity, keys, found.get("keys") or found.get("identity", root))
    week_start = read_week_start(found["week_start"]) if "week_start" in found else 0
    if identity and identity.keyring.rotates and len(root.document.problems) == before:
        of_routes = [limit for route in routes for limit in route.limits]
        edges = Edges(zone or "UTC", week_start or 0)
        complain_of_edges(found["identity"], identity, _of_strangers(identity, plans), of_routes, edges)
    checkpoint_us = read_checkpoint(found["checkpoint"]) if "checkpoint" in found else None
    check = read_store_check(found["store_check"]) if "store_check" in found else None
    events = read_events(found.get("events") or root.child(nothing, "events"))
    signals = read_signals(found["signals"]) if "signals" in found else None
    if root.document.problems or not (service and mode and store and zone and identity):
        return None
    return Policy(
        service=service,
        digest=digest,
        mode=mode,
        store=store,
        deadline_us=failure.deadline_us,
        timezone=zone,
        identity=identity,
        keys=MappingProxyType(dict(keys.entries)),
        resolver=keys.resolver,
        meters=tuple(meter for meter in meters.values() if meter),
        routes=routes,
        plans=MappingProxyType(plans),
        headers=headers,
        events=events,
        charge=charge,
        week_start=week_start or 0,
        checkpoint_us=checkpoint_us or CHECKPOINT_US,
        registry=keys.registry,
        aliases=MappingProxyType(dict(keys.aliases)),
        recovery=failure.recovery,
        store_check=check or StoreCheck.WARN,
        speed=speed,
        signals=signals or SignalRules(),
    )


def _with_default(identity: IdentityRules, field: Field | None, keys: Keys) -> IdentityRules:
    """Reject unknown keys where a registry says which there are, unless the policy says otherwise."""
    is_said = field is not None and field.has("unknown")
    return replace(identity, unknown=Unknown.REJECT) if keys.registry and not is_said else identity


def _of_strangers(identity: IdentityRules, plans: Mapping[str, Plan]) -> list[Plan]:
    """Give the plans of callers who are known by a pseudonym alone."""
    names = [DEFAULT_PLAN] if identity.unknown is Unknown.ACCEPT else []
    names += [identity.anonymous.plan] if identity.anonymous else []
    return [plans[name] for name in dict.fromkeys(names)]


def _complain_of_nobody(identity: IdentityRules, keys: Keys, field: Field) -> None:
    """Note that no request can get in: without keys, and with those that have none or another refused."""
    has_keys = keys.entries or keys.resolver or keys.registry
    if identity.unknown is Unknown.REJECT and identity.anonymous is None and not has_keys:
        field.complain(
            "nobody can get in: no key is listed, unknown ones are rejected, and so are requests without one;"
            " list keys, or let unknown or anonymous ones in"
        )


def _sorted(problems: Sequence[Problem], label: str | None) -> list[Problem]:
    """Give the problems in the order of the file, those of another file after it."""
    ordered = sorted(problems, key=lambda each: (each.file != label, each.line or 0, each.column or 0))
    if len(ordered) > MOST_PROBLEMS:
        ordered[MOST_PROBLEMS:] = [Problem(f"and at least {len(ordered) - MOST_PROBLEMS} more", file=label)]
    return ordered
