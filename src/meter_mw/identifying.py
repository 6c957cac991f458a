"""Who makes a request: by its key, by the operator's word, by its address, or nobody."""

from __future__ import annotations

import hashlib
import marshal
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw.admission import Answer, Refused
from meter_mw.policy.identity import (
    AmbiguousCredential,
    BearerKey,
    QueryKey,
    find_credential,
)
from meter_mw.policy.policy import Unknown
from meter_mw.policy.terms import KeyEntry
from meter_mw.recent import Recent
from meter_mw.talk import KeyEnded, Registered, Resolve, ResolverUnavailable

if TYPE_CHECKING:
    from meter_mw.model import Request
    from meter_mw.policy.identity import Credential
    from meter_mw.policy.keyring import Secret
    from meter_mw.policy.policy import Caller, Policy
    from meter_mw.talk import Conversation, Reply

NOBODY = "anon_nobody"
"""The subject of requests that are served without any identity; no key and no address has its name."""

_POOLED = "unknown_keys"
"""The one subject of all unknown keys, where the policy pools them."""


def identify(policy: Policy, request: Request, now_us: int) -> Conversation[Caller | Refused]:
    """Say who makes a request, or why nobody does; `now_us` is the best guess at the store's time."""
    rules = policy.identity
    places = rules.places
    if request.is_preflight:
        # It has the URL of the request to come, and so a key in its query, and nothing else of it.
        places = tuple(place for place in places if not isinstance(place, QueryKey))
    try:
        credential = find_credential(places, request.field, request.query)
    except AmbiguousCredential as ambiguity:
        return Refused(Answer.AMBIGUOUS, str(ambiguity))
    secret = rules.keyring.at(now_us)
    if credential is None:
        return _anonymous(policy, request, secret)
    key = secret.pseudonym(credential)
    return policy.listed(key) or (yield from _unlisted(policy, key, credential, secret))


def _anonymous(policy: Policy, request: Request, secret: Secret) -> Caller | Refused:
    rules = policy.identity
    if rules.anonymous is None and request.is_preflight:
        return policy.stranger(NOBODY)
    if rules.anonymous is None:
        return Refused(Answer.UNIDENTIFIED, "this API needs a key")
    address = rules.trusted_proxies.client_address(request.peer, request.field("x-forwarded-for"))
    return policy.stranger(secret.anonymous(address or "unknown"), rules.anonymous.plan)


def _unlisted(
    policy: Policy, key: str, credential: Credential, secret: Secret
) -> Conversation[Caller | Refused]:
    entry: Reply = None
    if policy.resolver is not None or policy.registry:
        try:
            entry = yield Resolve(key, credential, _further(policy, secret, credential))
        except ResolverUnavailable as outage:
            return Refused(Answer.UNAVAILABLE, str(outage))
        except KeyEnded as ended:
            return Refused(Answer.UNIDENTIFIED, str(ended))
    if isinstance(entry, Registered):
        key, entry = entry.key, entry.entry
    if isinstance(entry, KeyEntry):
        return policy.caller(entry, key)
    if policy.identity.unknown is Unknown.REJECT:
        return Refused(Answer.UNIDENTIFIED, "the key is not known")
    if policy.identity.unknown is Unknown.POOL:
        return replace(policy.stranger(_POOLED), key=key)
    return policy.stranger(key, key=key)


def _further(policy: Policy, secret: Secret, credential: Credential) -> tuple[str, ...]:
    """Give what else the registry may know a key by: a record stays under the secret that it began with."""
    keyring = policy.identity.keyring
    if not (policy.registry and keyring.rotates):
        return ()
    return tuple(each.pseudonym(credential) for each in keyring.others(secret))


_MOST_KNOWN = 8_192
"""Callers that are known again by the words of their requests, at least as many as this."""


class Acquaintances:
    """Callers that are known again by what their requests say of them, without looking it up anew.

    What they say is kept as a digest under a secret of this process, as it holds their keys. Callers whom a
    resolver or a registry describes are asked for each time, as what those say changes.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._secret = secrets.token_bytes(32)
        places = policy.identity.places
        self._fields = tuple(
            dict.fromkeys(
                "authorization" if isinstance(place, BearerKey) else place.name
                for place in places
                if not isinstance(place, QueryKey)
            )
        )
        self._reads_query = any(isinstance(place, QueryKey) for place in places)
        self._changes = policy.resolver is not None or policy.registry
        self._keyring = policy.identity.keyring
        self._rotates = self._keyring.rotates
        self._known: Recent[bytes, Caller] = Recent(_MOST_KNOWN)

    def find(self, request: Request, now_us: int) -> Caller | None:
        """Give who made a request, where one that said the same of its caller was here lately."""
        found = self._known.get(self._words(request, now_us))
        if found is None and self._policy.identity.anonymous is not None:
            found = self._known.get(self._words(request, now_us, with_address=True))
        return found

    def meet(self, request: Request, caller: Caller, now_us: int) -> None:
        """Be told who made a request, which was identified at `now_us`: the secret of then has named it."""
        if caller.key is None:
            self._known.put(self._words(request, now_us, with_address=True), caller)
        elif not self._changes or self._policy.listed(caller.key) is caller:
            self._known.put(self._words(request, now_us), caller)

    def _words(self, request: Request, now_us: int, *, with_address: bool = False) -> bytes:
        said: list[object] = [request.field(name) for name in self._fields]
        if self._reads_query:
            said.append(request.query)
        if with_address:
            said += (request.peer, request.field("x-forwarded-for"))
        if self._rotates:
            said.append(self._keyring.at(now_us).id)
        return hashlib.blake2b(marshal.dumps(said, 2), key=self._secret, digest_size=16).digest()
