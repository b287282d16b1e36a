"""Sends requests about batches: paced by a quota of their own, ended by close() and deadlines.

Each request takes a permit in the endpoint's own lane, is sent in a thread of the pool while the
caller waits, and goes through the retry loop of ``transport/retry`` with rules of its own: a GET is
sent again after any failure that may pass, a creation only if the server certainly did nothing.

The trap: the thread that sends may be stuck in a name look-up, which nothing can end. So the caller
never sends by itself; it waits on a condition that deadlines, close() and Ctrl-C can end.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from claude_throttle.account.admission import BATCHES
from claude_throttle.account.doubts import MOST_TRIES
from claude_throttle.config.validation import seconds_of
from claude_throttle.core.dispatch.permit import AdmissionOptions
from claude_throttle.core.domain.feedback import Feedback, RetryDelay
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.threads.clock import Clock, Condition
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import BrokenAnswer, Closed, DeadlineExceeded
from claude_throttle.features.batches import wire_format
from claude_throttle.features.batches.upload import CreationExtras
from claude_throttle.features.batches.wire_format import State
from claude_throttle.transport import sdk
from claude_throttle.transport.cancellable_request import (
    CancellableRequest,
    RawResponse,
    RequestSpec,
)
from claude_throttle.transport.endpoints import BATCHES_PATH
from claude_throttle.transport.error_text import describe
from claude_throttle.transport.http import READ_TIMEOUT_SECONDS, HttpTransport
from claude_throttle.transport.retry import RetryExchange, RetryRules, verdict_on_error
from claude_throttle.transport.verdicts import classify, is_not_found, read_json

if TYPE_CHECKING:
    from claude_throttle.account.admission import Admission
    from claude_throttle.config.settings import Settings
    from claude_throttle.metrics.recorder import Recorder

CLOSED = (
    "the throttler was closed; the batches go on at the API: batches.resume(ids) gets their results"
)


class CreationUncertain(Exception):
    """Raised inside this folder if a batch may have been created; ``__cause__`` is the reason.

    Users see :class:`BatchIncomplete` instead.
    """


class BatchAttempt:
    """One request about batches, as the retry loop needs it (``RetriedAttempt``).

    Used by the thread that waits for the request. Its waits raise Closed and DeadlineExceeded.
    """

    #: Always False: close() and deadlines end its waits and sends by exceptions.
    stopped = False

    def __init__(self, client: BatchClient, deadline: Optional[float]) -> None:
        self._client = client
        self._deadline = deadline
        #: The number of the send, from 1.
        self.number = 1
        #: What was refused has just worked, or may be too new to be known: it is tried again.
        self.may_pass = False

    def seconds_left(self) -> Optional[float]:
        """Seconds until its deadline; None without one."""
        return None if self._deadline is None else self._client.seconds_left(self._deadline)

    def on_refusal(self, feedback: Feedback, wait_seconds: float) -> RetryDelay:
        """The delay before another send. The permit has reported the refusal to the lane."""
        # Where the lane is paused, the next send waits for its permit: no second wait before that.
        doubted = self.may_pass and self.number <= MOST_TRIES
        return RetryDelay(
            0.0 if feedback.pauses_lane else wait_seconds, alone=True, doubted=doubted
        )

    def again(
        self,
        *,
        status: Optional[int],  # noqa: ARG002 - RetriedAttempt's signature
        reason: str,  # noqa: ARG002
        delay: RetryDelay,
        keep_tokens: bool,  # noqa: ARG002
    ) -> None:
        """Wait until it may be sent again. Raises Closed, DeadlineExceeded."""
        self.number += 1
        self._client.wait_seconds(delay.seconds, self._deadline)


class BatchClient:
    """Sends the requests of all handles of one process. Thread-safe.

    Belongs to one process: a forked child has another one, with its own transport. Its methods take
    a deadline by the monotonic clock (None for no limit), and raise what ``Throttler.call`` raises,
    Closed and DeadlineExceeded included.
    """

    def __init__(
        self,
        settings: Settings,
        transport: HttpTransport,
        thread_pool: ThreadPool,
        admission: Admission,
        clock: Clock,
        recorder: Recorder,
    ) -> None:
        #: The counters of ``stats()``.
        self.recorder = recorder
        self.pid = os.getpid()
        self.clock = clock
        # Guards what the handles know of their batches, and `_closed`. Notified when a response
        # came, when a handle learned something, and by close().
        self.changed = Condition()
        self._closed = False
        self._settings = settings
        self._transport = transport
        self._thread_pool = thread_pool
        self._admission = admission
        admission.at_end(self._close)

    @property
    def url(self) -> str:
        """The URL at which batches are created, for errors to show."""
        return self._transport.url + "/batches"

    @property
    def default_headers(self) -> Mapping[str, str]:
        """Header fields that the settings add to every request."""
        return self._settings.default_headers

    # -- requests ------------------------------------------------------------------------------

    def create(
        self, make_body: Callable[[], Any], deadline: Optional[float], extras: CreationExtras
    ) -> State:
        """Create a batch. Raises CreationUncertain rather than sending it twice."""
        spec = RequestSpec(
            "POST",
            BATCHES_PATH + extras.query,
            make_body,
            read_timeout=READ_TIMEOUT_SECONDS,
            extra_headers=extras.headers,
        )
        response = self.send(spec, deadline, creates=True)
        try:
            return wire_format.read_state(read_json(response.content))
        except BrokenAnswer as error:
            raise CreationUncertain from error

    def status_of(self, batch_id: str, deadline: Optional[float]) -> State:
        """Ask for the state of one batch."""
        response = self.send(RequestSpec("GET", f"{BATCHES_PATH}/{batch_id}"), deadline)
        return wire_format.read_state(read_json(response.content))

    def recent(
        self, deadline: Optional[float], count: int = wire_format.LIST_LENGTH
    ) -> list[State]:
        """The newest batches of the workspace, newest first."""
        found: list[State] = []
        after = ""
        while len(found) < count:
            size = min(count - len(found), wire_format.LIST_LENGTH)
            response = self.send(
                RequestSpec("GET", f"{BATCHES_PATH}?limit={size}{after}"), deadline
            )
            page, more = wire_format.read_list(response.content)
            found += page
            if not (page and more):
                break
            after = f"&after_id={page[-1].id}"
        return found

    def cancel(self, batch_id: str, deadline: Optional[float]) -> State:
        """Ask the API to end a batch; return its state, in which it may not have ended yet."""
        response = self.send(RequestSpec("POST", f"{BATCHES_PATH}/{batch_id}/cancel"), deadline)
        return wire_format.read_state(read_json(response.content))

    def results(
        self, batch_id: str, sink: Callable[[Optional[bytes]], object], deadline: Optional[float]
    ) -> None:
        """Pass the results to *sink*, piece by piece.

        Never from ``results_url``: it may name another host, and the key goes to ours only.
        """
        self.send(RequestSpec("GET", f"{BATCHES_PATH}/{batch_id}/results", sink=sink), deadline)

    # -- sending ---------------------------------------------------------------------------------

    def send(
        self, spec: RequestSpec, deadline: Optional[float], creates: bool = False
    ) -> RawResponse:
        """Send a request until it has a response of status 200, and return that.

        Raises what call() raises; CreationUncertain where a request that *creates* may have been
        carried out.
        """
        attempt = BatchAttempt(self, deadline)
        # A GET changes nothing, so timeouts, resets and half answers are all tried again.
        rules = RetryRules(
            self._settings.max_retries,
            read_timeouts=True,
            resets=True,
            only_untaken=creates,
            broken_answers=True,
        )
        exchange = RetryExchange(attempt, rules, self.clock)
        while True:
            outcome = self._send_once(spec, deadline, creates, attempt)
            if isinstance(outcome, Exception):
                may_resend = exchange.may_resend(error=outcome)
                error, untaken = self._no_answer(outcome, attempt.number, rules)
            elif outcome.status == 200:
                return outcome
            else:
                may_resend = exchange.may_resend(response=outcome)
                error, untaken = self._refused(outcome)
            if creates and not untaken:
                raise CreationUncertain from error
            if not may_resend:
                raise error
            exchange.wait_for_turn()

    def _send_once(
        self,
        spec: RequestSpec,
        deadline: Optional[float],
        creates: bool,
        attempt: BatchAttempt,
    ) -> Union[RawResponse, Exception]:
        options = AdmissionOptions(Priority.NORMAL, None, self._timeout(deadline))
        admitted = self._admission.admit_endpoint(BATCHES, options)
        self.recorder.count_batches(batch_sends=1)
        try:
            outcome = self._send_in_a_thread(spec, deadline)
        except BaseException as error:
            admitted.failed(BaseException())  # ended from here: the server is not to blame
            if creates and isinstance(error, (Closed, DeadlineExceeded)):
                raise CreationUncertain from error
            raise
        if isinstance(outcome, Exception):
            admitted.failed(outcome)
        else:
            status, headers, content = outcome
            admitted.answered(status, headers, content, self._transport.headers)
            is_missing = status == 404 and not creates and is_not_found(read_json(content))
            attempt.may_pass = admitted.again is True or is_missing
        return outcome

    def _send_in_a_thread(
        self, spec: RequestSpec, deadline: Optional[float]
    ) -> Union[RawResponse, Exception]:
        """The response to one send, or its error. Sent by a thread of the pool, see above."""
        request, outcomes = CancellableRequest(), list[Union[RawResponse, Exception]]()

        def send() -> None:
            try:
                outcome: Union[RawResponse, Exception] = request.send(self._transport, spec)
            except Exception as error:  # noqa: BLE001 - the waiting thread raises it, or retries
                outcome = error
                if request.began and type(error).__name__ == "SSLError":
                    # Not in the handshake: the request may have arrived.
                    outcome = BrokenAnswer(f"TLS failed during the answer: {describe(error)}")
            with self.changed:
                outcomes.append(outcome)
                self.changed.notify_all()

        try:
            self._thread_pool.run(send)
            with self.changed:
                while not outcomes:
                    self.wait_locked(None, deadline)
        except BaseException:
            request.stop()
            raise
        return outcomes[0]

    def _refused(self, response: RawResponse) -> tuple[Exception, bool]:
        """The error of a response that is not 200, and whether the server certainly did nothing."""
        status, headers, content = response
        error = sdk.status_error(self.url, status, headers, content, read_json(content))
        if status in wire_format.CREATES_NOTHING:
            return error, True
        # What is worth another try may have been done, as may all that is not a 3xx or 4xx. 499:
        # a proxy that gave up waiting for the API.
        worth_another = classify(status, headers, content, self.clock.wall()).retry
        return error, 300 <= status < 500 and not worth_another and status not in (408, 409, 499)

    def _no_answer(
        self, error: Exception, number: int, rules: RetryRules
    ) -> tuple[Exception, bool]:
        """The error to raise where no answer came, and whether nothing was sent."""
        if isinstance(error, BrokenAnswer):
            return error, False
        verdict = verdict_on_error(error, rules)
        if verdict.reason == "read timeout":
            text = f"no answer in time: {describe(error)}"
            return sdk.timeout_error(self.url, text), False
        text = f"{verdict.reason}, attempt {number}: {describe(error)}"
        return sdk.connection_error(self.url, text), not verdict.keeps_tokens

    # -- waiting ---------------------------------------------------------------------------------

    def deadline(self, timeout: Optional[float]) -> Optional[float]:
        """The instant at which a caller's *timeout* ends; None for no limit."""
        seconds = seconds_of(timeout, None)
        return None if seconds is None else self.clock.monotonic() + seconds

    def wait_seconds(self, seconds: float, deadline: Optional[float]) -> None:
        """Wait for *seconds*. Raises Closed or DeadlineExceeded if that comes first."""
        until = self.clock.monotonic() + seconds
        with self.changed:
            while (left := until - self.clock.monotonic()) > 0:
                self.wait_locked(left, deadline)

    def wait_locked(self, seconds: Optional[float], deadline: Optional[float]) -> None:
        """Wait until ``changed`` is notified, or for *seconds*. The caller must hold ``changed``.

        Raises Closed or DeadlineExceeded if that is so already: call it in a loop.
        """
        if self._closed:
            raise Closed(CLOSED)
        left = self.seconds_left(deadline)
        if left <= 0.0:
            raise DeadlineExceeded(
                "the batches have not ended in time; they go on, and may be waited for again"
            )
        self.clock.wait(self.changed, min(left, float("inf") if seconds is None else seconds))

    def seconds_left(self, deadline: Optional[float]) -> float:
        """Seconds until *deadline*, negative after it; inf without one."""
        return float("inf") if deadline is None else deadline - self.clock.monotonic()

    def _timeout(self, deadline: Optional[float]) -> Optional[float]:
        return None if deadline is None else max(0.0, self.seconds_left(deadline))

    def _close(self) -> None:
        with self.changed:
            self._closed = True
            self.changed.notify_all()
