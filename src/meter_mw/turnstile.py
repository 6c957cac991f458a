"""Lets requests in at once for which nobody has to be asked: whose caller is known, and who has a lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.admission import Admission, Answer
from meter_mw.core import decide
from meter_mw.identifying import Acquaintances
from meter_mw.policy.paths import OddPath
from meter_mw.policy.policy import Mode
from meter_mw.policy.terms import Exemption
from meter_mw.rids import new_rid

if TYPE_CHECKING:
    from meter_mw.model import Request
    from meter_mw.policy.policy import Policy
    from meter_mw.ready import Readies
    from meter_mw.talk import Conversation


class Turnstile:
    """Decides as the conversation of the core would, without holding one; whatever is unusual it leaves."""

    def __init__(self, policy: Policy, readies: Readies) -> None:
        self._policy = policy
        self._readies = readies
        self._acquaintances = Acquaintances(policy)
        self._is_open = policy.mode is Mode.ENFORCE

    def admit(self, request: Request, now_us: int) -> Admission | Conversation[Admission] | None:
        """Decide a request, or give the conversation with the store that it takes, which has to be held.

        `None` where there is more to find out.
        """
        if not self._is_open or request.method == "OPTIONS" or request.is_socket:
            return None
        caller = self._acquaintances.find(request, now_us)
        if caller is None:
            return None
        policy, readies = self._policy, self._readies
        try:
            route = policy.route(request.method, request.path)
        except OddPath:
            return None
        if route.exemption is not Exemption.NONE or caller.exemption is not Exemption.NONE or route.pricing:
            return None
        ready = readies.of(route, caller, request, now_us)
        sized = readies.weighs and request.declared is not None
        asked = Admission(Answer.ALLOWED, new_rid(now_us), now_us, route, caller, sized=sized)
        return decide(policy, asked, ready)

    def meet(self, request: Request, admission: Admission, now_us: int) -> None:
        """Be told what a conversation that began at `now_us` has found out about the caller of a request."""
        if self._is_open and admission.caller is not None and request.method != "OPTIONS":
            self._acquaintances.meet(request, admission.caller, now_us)
