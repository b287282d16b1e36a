"""Whether the API accepts the account at all: spend limits, bills, keys."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Callable, Optional

from claude_throttle.account import refusal_messages as refusals
from claude_throttle.core.dispatch.call import Attempt, Call
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.events import Event, Suspended, SuspensionEnded
from claude_throttle.core.domain.feedback import DOUBT, AccountRefusal, Dispatch, Feedback
from claude_throttle.core.threads.clock import Clock
from claude_throttle.transport.headers import brings_own_proof
from claude_throttle.transport.verdicts import NOT_PERMITTED

if TYPE_CHECKING:
    from claude_throttle.account.doubts import Doubt
    from claude_throttle.account.suspension import Suspension

#: The scope of a suspension that holds for all lanes.
WHOLE_ACCOUNT = ""


class Suspensions:
    """The suspensions of one account, by lane. Thread-safe.

    *publish* passes them on to other processes, as JSON. *answered_at* is the instant of the last
    answer in a lane, or in any for WHOLE_ACCOUNT; *has_answered* tells whether a call's model ever
    was.
    """

    def __init__(
        self,
        lanes: Callable[[], list[Lane]],
        observe: Callable[[Event, Optional[Call]], None],
        clock: Clock,
        publish: Callable[[str], None],
        answered_at: Callable[[str], float],
        has_answered: Callable[[Call], bool],
    ) -> None:
        self._lanes = lanes
        self._observe = observe
        self._clock = clock
        # Guards both below. Never held while calling out. Reentrant for the same reason as the
        # lane's mutex.
        self._lock = threading.RLock()
        self._suspensions: dict[str, Suspension] = {}
        #: Refusals that do not count yet, by scope.
        self._doubts: dict[str, Doubt] = {}
        self._publish = publish
        self._answered_at = answered_at
        self._has_answered = has_answered

    def require(self, lane: str, probes: bool = True) -> bool:
        """Raise AccountSuspended if *lane* is suspended; True if this request may be the probe."""
        if not self._suspensions:
            return False
        now = self._clock.monotonic()
        with self._lock:
            found = self._found_locked(lane)
            for scope, suspension in found:
                if suspension.seconds_until_probe(now) > 0 or not probes:
                    raise refusals.suspended(suspension, scope, now)
            for scope, suspension in found:
                self._suspensions[scope] = suspension.probed(now)
        return bool(found)

    def _found_locked(self, lane: str) -> list[tuple[str, Suspension]]:
        scopes = (WHOLE_ACCOUNT, lane)
        return [(scope, self._suspensions[scope]) for scope in scopes if scope in self._suspensions]

    def reason(self, lane: str) -> Optional[str]:
        """Why nothing is sent in *lane*; None if it is not suspended."""
        suspension = self.suspension(lane)
        return None if suspension is None else suspension.reason

    def suspension(self, lane: str) -> Optional[Suspension]:
        """The suspension that holds for *lane*, or None."""
        with self._lock:
            found = self._found_locked(lane)
        return found[0][1] if found else None

    def weigh_call(self, attempt: Attempt, feedback: Feedback) -> Feedback:
        """*feedback* of a 404 or of a refused account, as the pacer has to take it.

        Not final, if it may pass and this call is to try again. Otherwise a refused account is
        suspended.
        """
        call, lane = attempt.call, attempt.call.callbacks.lane
        if brings_own_proof(call.extra_headers):
            return feedback
        if feedback.account is None:
            tries = self._has_answered(call) and self._may_try(lane, attempt.number)
            return feedback._replace(final=not tries)
        return self.weigh(lane, feedback, attempt.dispatch, attempt.number, call)

    def weigh(
        self,
        lane: str,
        feedback: Feedback,
        dispatch: Dispatch,
        number: int = 1,
        call: Optional[Call] = None,
    ) -> Feedback:
        """*feedback* on the send *number* of a request, as the pacer has to take it.

        Not final, if a refused account may pass; otherwise it is suspended. *call*: if it was one.
        """
        from claude_throttle.account import doubts  # rare, so loaded on use

        refusal = feedback.account
        if refusal is None:
            return feedback
        scope = _scope_of(lane, refusal)
        if doubts.may_pass(refusal, feedback.status) and self._is_doubted(
            scope, dispatch.at, tried=number > 1 or dispatch.probes
        ):
            return feedback._replace(cause=DOUBT, account=None, final=number > doubts.MOST_TRIES)
        self.suspend_lane(lane, refusal, call)
        return feedback

    def _is_doubted(self, scope: str, left_at: float, tried: bool) -> bool:
        """Whether a refusal does not count yet; *tried*: its request was sent to find out."""
        from claude_throttle.account import doubts

        now, worked_at = self._clock.monotonic(), self._answered_at(scope)
        with self._lock:
            doubt = self._doubts.pop(scope, None) or doubts.Doubt(now)
            if self._suspensions.keys() & {scope, WHOLE_ACCOUNT}:
                return False
            if tried and left_at > doubt.since:
                doubt = doubt._replace(tries=doubt.tries + 1)
            if now - worked_at > doubts.MOMENT_SECONDS or doubt.tries >= doubts.MOST_TRIES:
                return False
            self._doubts[scope] = doubt
        return True

    def _may_try(self, lane: str, number: int) -> bool:
        """Whether the send *number* of a call, answered with a 404, may be followed by another."""
        from claude_throttle.account import doubts

        now, worked_at = self._clock.monotonic(), self._answered_at(lane)
        with self._lock:
            doubt = self._doubts.get(_models_of(lane)) or doubts.Doubt(now)
            if (
                number > doubts.MOST_TRIES
                or now - worked_at > doubts.MOMENT_SECONDS
                or doubt.tries >= doubts.MOST_TRIES_FOR_A_MODEL
            ):
                return False
            self._doubts[_models_of(lane)] = doubt._replace(tries=doubt.tries + 1)
        return True

    def suspend_lane(self, lane: str, refusal: AccountRefusal, call: Optional[Call]) -> None:
        """The API refused the account of a request in *lane*; *call*, if it was one."""
        scope = _scope_of(lane, refusal)
        if self._begin(scope, refusal, call):
            self._publish(self._notice())

    def _begin(self, scope: str, refusal: AccountRefusal, call: Optional[Call]) -> bool:
        from claude_throttle.account.suspension import suspend  # rare, so loaded on use

        with self._lock:
            before = self._suspensions.get(scope)
            suspension = suspend(*refusal, self._clock.monotonic(), before)
            self._suspensions[scope] = suspension
        for lane in self._lanes():
            if scope in (WHOLE_ACCOUNT, lane.name):
                lane.shut(partial(refusals.suspended, suspension, scope))
        self._reopen()  # another thread may have ended it meanwhile
        if suspension is not before:
            self._observe(Suspended(scope, refusal.reason, refusal.until), call)
        return suspension is not before

    def answered(self, call: Call, left_at: float) -> None:
        """*call*, which left at that instant, was answered: end the suspension.

        The answer to a call that left before the refusal proves nothing.
        """
        if (self._suspensions or self._doubts) and not brings_own_proof(call.extra_headers):
            self.answered_in(call.callbacks.lane, left_at, call)

    def answered_in(self, lane: str, left_at: float, call: Optional[Call]) -> None:
        """A request in *lane* was answered; *call*, if it was one."""
        if not (self._suspensions or self._doubts):
            return
        with self._lock:
            for scope in (WHOLE_ACCOUNT, lane, _models_of(lane)):
                doubt = self._doubts.get(scope)
                if doubt is not None and doubt.since < left_at:
                    del self._doubts[scope]
            found = self._found_locked(lane)
            ended = [scope for scope, suspension in found if suspension.since < left_at]
        self._end(ended, call)

    def restore(self) -> None:
        """Clear all suspensions: resume() was called."""
        self._end(list(self._suspensions), None)

    def _reopen(self) -> None:
        for lane in self._lanes():
            if self.reason(lane.name) is None:
                lane.reopen()

    def _end(self, scopes: Iterable[str], call: Optional[Call], tell: bool = True) -> None:
        with self._lock:
            ended = [scope for scope in scopes if self._suspensions.pop(scope, None) is not None]
        if ended:
            self._reopen()
            if tell:
                self._publish(self._notice())
        for scope in ended:
            self._observe(SuspensionEnded(scope), call)

    # -- other processes -------------------------------------------------------------------------

    def _notice(self) -> str:
        """What is suspended, as JSON; "" if nothing is."""
        with self._lock:
            found = {
                scope: (s.reason, s.message, s.until) for scope, s in self._suspensions.items()
            }
        return json.dumps(found) if found else ""

    def apply(self, notice: str) -> None:
        """Take over what another process says is suspended; nothing else is."""
        refused = json.loads(notice) if notice else {}
        for scope, refusal in refused.items():
            if scope not in self._suspensions:
                self._begin(scope, AccountRefusal(*refusal), None)
        self._end(
            [scope for scope in list(self._suspensions) if scope not in refused],
            None,
            tell=False,
        )


def _scope_of(lane: str, refusal: AccountRefusal) -> str:
    # A key may be refused one model; anything else is about all of them.
    return lane if refusal.reason == NOT_PERMITTED else WHOLE_ACCOUNT


def _models_of(lane: str) -> str:
    """The scope of a doubt whether the models of *lane* exist."""
    return f"models of {lane}"
