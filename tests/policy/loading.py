"""Policies of the folders and of mappings, loaded in one environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meter_mw.policy.identity import Credential, pseudonym
from meter_mw.policy.loader import load
from meter_mw.policy.problems import PolicyError

if TYPE_CHECKING:
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.terms import Limit

ROOT = Path(__file__).parents[2]
GOOD = ROOT / "tests" / "policies" / "good"
BAD = ROOT / "tests" / "policies" / "bad"
EXAMPLE = ROOT / "meter.yaml.example"

ENVIRON = {
    "METER_KEY_SECRET": "canary-secret-0123456789",
    "CANARY": "canary-value",
    "SHORT": "canary",
    "EMPTY": "",
    "STRUCTURE": "{default: {limits: []}}",
    "ACME_KEY": "canary-acme",
    "ACME_KEY_TOO": "canary-acme",
    "OTHER_KEY": "canary-other",
    "MONITOR_KEY": "canary-monitor",
    "KEY_WITH_COMMA": "canary,other",
    "HOOK_SECRET": "canary-hook",
    "BAD_HOOK_SECRET": "whsec_canary!",
    "STRIPE_KEY": "sk_test_canary",
    "FIVE": "5",
    "TRUE": "true",
}
SECRET = ENVIRON["METER_KEY_SECRET"].encode()


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def good(name: str) -> Policy:
    return load(GOOD / f"{name}.yaml", ENVIRON)


def of(**sections: object) -> Policy:
    return load({"version": 1, "service": "shop", **sections}, ENVIRON)


def complaints(source: str | Path | dict[str, Any], environ: dict[str, str] = ENVIRON) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load(source, environ)
    return [str(problem) for problem in caught.value.problems]


def acme(policy: Policy) -> str:
    return pseudonym(policy.identity.keyring.oldest.value, Credential("canary-acme"))


def limits_of(policy: Policy, plan: str = "default") -> dict[str, Limit]:
    return {limit.name: limit for limit in policy.plans[plan].limits}
