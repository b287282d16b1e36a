"""Who asks the API about batches: paced on a quota of their own, patient, easy to end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from claude_throttle.account.admission import BATCHES
from claude_throttle.config.validation import require_timeout
from claude_throttle.core.dispatch.permit import AdmissionOptions
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.condition import Condition
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import BrokenAnswer, Closed, DeadlineExceeded
from claude_throttle.features.batches import wire_format as batch_format
from claude_throttle.features.batches.wire_format import State
from claude_throttle.transport import sdk
from claude_throttle.transport.cancellable_request import (
    CancellableRequest,
    RawResponse,
    RequestSpec,
)
from claude_throttle.transport.endpoints import BATCHES_PATH
from claude_throttle.transport.error_text import describe
from claude_throttle.transport.foreign_verdicts import report_of_error
from claude_throttle.transport.http import READ_TIMEOUT_SECONDS, HttpTransport
from claude_throttle.transport.verdicts import backoff, classify, read_json

if TYPE_CHECKING:
    from claude_throttle.account.admission import Admission
    from claude_throttle.config.settings import Settings

CLOSED = (
    "the throttler was closed; the batches go on at the API: batches.resume(ids) gets their results"
)


class CreationUncertain(Exception):
    """A batch may have been created or not; ``__cause__`` tells why nobody knows."""


class BatchClient:
    """Of one process. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        wire: HttpTransport,
        thread_pool: ThreadPool,
        admission: Admission,
        clock: Clock,
    ) -> None:
        self.pid = os.getpid()
        self.clock = clock
        # Guards what the handles know of their batches, and `_closed`. Notified when an answer is
        # there, when a handle learned something, and at the end.
        self.changed = Condition()
        self._closed = False
        self._settings = settings
        self._wire = wire
        self._thread_pool = thread_pool
        self._admission = admission
        admission.at_end(self._close)

    @property
    def url(self) -> str:
        """Where batches are made; what errors tell."""
        return self._wire.url + "/batches"

    # -- what is asked ---------------------------------------------------------------------------

    def create(self, make_body: Callable[[], Any], deadline: Optional[float]) -> State:
        """Have a batch made. Raises Unsure rather than sending it twice."""
        question = RequestSpec("POST", BATCHES_PATH, make_body, read_timeout=READ_TIMEOUT_SECONDS)
        answer = self.ask(question, deadline, creates=True)
        try:
            return batch_format.read_state(read_json(answer.content))
        except BrokenAnswer as error:
            raise CreationUncertain from error

    def state(self, batch_id: str, deadline: Optional[float]) -> State:
        """How one batch stands."""
        answer = self.ask(RequestSpec("GET", f"{BATCHES_PATH}/{batch_id}"), deadline)
        return batch_format.read_state(read_json(answer.content))

    def recent(
        self, deadline: Optional[float], count: int = batch_format.LIST_LENGTH
    ) -> list[State]:
        """The newest batches of the workspace, newest first."""
        found: list[State] = []
        after = ""
        while len(found) < count:
            size = min(count - len(found), batch_format.LIST_LENGTH)
            answer = self.ask(RequestSpec("GET", f"{BATCHES_PATH}?limit={size}{after}"), deadline)
            page, more = batch_format.read_list(answer.content)
            found += page
            if not (page and more):
                break
            after = f"&after_id={page[-1].id}"
        return found

    def cancel(self, batch_id: str, deadline: Optional[float]) -> State:
        """Have a batch end now."""
        answer = self.ask(RequestSpec("POST", f"{BATCHES_PATH}/{batch_id}/cancel"), deadline)
        return batch_format.read_state(read_json(answer.content))

    def results(
        self, batch_id: str, sink: Callable[[Optional[bytes]], object], deadline: Optional[float]
    ) -> None:
        """Have the results brought to *sink*.

        Never from ``results_url``: it may name another host, and the key goes to ours only.
        """
        self.ask(RequestSpec("GET", f"{BATCHES_PATH}/{batch_id}/results", sink=sink), deadline)

    # -- asking ----------------------------------------------------------------------------------

    def ask(
        self, question: RequestSpec, deadline: Optional[float], creates: bool = False
    ) -> RawResponse:
        """A good answer, after retries. Raises what call() raises, and Unsure."""
        failures = 0
        while True:
            answer = self._try(question, deadline, creates)
            if isinstance(answer, RawResponse) and answer.status == 200:
                return answer
            failures += 1
            error, again, seconds = self._judge(answer, creates, failures)
            left = self.seconds_left(deadline)
            if not again or failures > self._settings.max_retries or seconds >= left:
                raise error
            self.wait(seconds, deadline)

    def _try(
        self, question: RequestSpec, deadline: Optional[float], creates: bool
    ) -> Union[RawResponse, Exception]:
        terms = AdmissionOptions(Priority.NORMAL, None, self._timeout(deadline))
        attempt = self._admission.admit_endpoint(BATCHES, terms)
        try:
            outcome = self._in_a_sender(question, deadline)
        except BaseException as error:
            attempt.failed(BaseException())  # ended from here: the server is not to blame
            if creates and isinstance(error, (Closed, DeadlineExceeded)):
                raise CreationUncertain from error
            raise
        if isinstance(outcome, Exception):
            attempt.failed(outcome)
        else:
            headers = self._wire.headers
            attempt.answered(outcome.status, outcome.headers, outcome.content, headers)
        return outcome

    def _in_a_sender(
        self, question: RequestSpec, deadline: Optional[float]
    ) -> Union[RawResponse, Exception]:
        """What came of one try. Not in this thread: whoever waits must be free to leave."""
        errand, outcomes = CancellableRequest(), list[Union[RawResponse, Exception]]()

        def carry() -> None:
            try:
                outcome: Union[RawResponse, Exception] = errand.send(self._wire, question)
            except Exception as error:  # noqa: BLE001 - raised, or retried, by whoever waits
                outcome = error
                if errand.began and type(error).__name__ == "SSLError":
                    # Not in the handshake: the request may have arrived.
                    outcome = BrokenAnswer(f"TLS failed amid the answer: {describe(error)}")
            with self.changed:
                outcomes.append(outcome)
                self.changed.notify_all()

        try:
            self._thread_pool.run(carry)
            with self.changed:
                while not outcomes:
                    self.wait_locked(None, deadline)
        except BaseException:
            errand.stop()
            raise
        return outcomes[0]

    def _judge(
        self, outcome: Union[RawResponse, Exception], creates: bool, failures: int
    ) -> tuple[Exception, bool, float]:
        """The error, whether to try again, and after how many seconds."""
        if isinstance(outcome, Exception):
            error, again, sent = self._no_answer(outcome)
            if creates and sent:
                raise CreationUncertain from error
            return error, again, backoff(failures)
        status, headers, content = outcome
        error = sdk.status_error(self.url, status, headers, content, read_json(content))
        verdict = classify(status, headers, content, self.clock.wall())
        # What is worth another try, or is no refusal at all, may have been done.
        may_be_done = verdict.retry or not 300 <= status < 500 or status in (408, 409, 499)
        if creates and may_be_done and status not in batch_format.CREATES_NOTHING:
            raise CreationUncertain from error
        if verdict.feedback.pauses_lane:
            return error, verdict.retry, 0.0  # the lane waits
        return error, verdict.retry, verdict.retry_after or backoff(failures)

    def _no_answer(self, error: Exception) -> tuple[Exception, bool, bool]:
        """The error to raise, whether to try again, whether anything may have been done."""
        if isinstance(error, BrokenAnswer):
            return error, True, True
        name, text = type(error).__name__, describe(error)
        if name == "SSLError":
            return sdk.connection_error(self.url, f"TLS failed: {text}"), False, False
        sent = report_of_error(error).keeps_tokens
        if name == "ReadTimeout":
            return sdk.timeout_error(self.url, f"no answer in time: {text}"), True, sent
        return sdk.connection_error(self.url, f"no answer: {text}"), True, sent

    # -- waiting ---------------------------------------------------------------------------------

    def deadline(self, timeout: Optional[float]) -> Optional[float]:
        """The instant until which a caller waits; None: as long as it takes."""
        return None if timeout is None else self.clock.monotonic() + require_timeout(timeout)

    def wait(self, seconds: float, deadline: Optional[float]) -> None:
        """Wait so long. Raises Closed, DeadlineExceeded."""
        until = self.clock.monotonic() + seconds
        with self.changed:
            while (left := until - self.clock.monotonic()) > 0:
                self.wait_locked(left, deadline)

    def wait_locked(self, seconds: Optional[float], deadline: Optional[float]) -> None:
        """Wait until something changes, or so long. Requires ``changed``."""
        if self._closed:
            raise Closed(CLOSED)
        left = self.seconds_left(deadline)
        if left <= 0.0:
            raise DeadlineExceeded(
                "the batches have not ended in time; they go on, and may be waited for again"
            )
        self.clock.wait(self.changed, min(left, float("inf") if seconds is None else seconds))

    def seconds_left(self, deadline: Optional[float]) -> float:
        """Until then; inf without one."""
        return float("inf") if deadline is None else deadline - self.clock.monotonic()

    def _timeout(self, deadline: Optional[float]) -> Optional[float]:
        return None if deadline is None else max(0.0, self.seconds_left(deadline))

    def _close(self) -> None:
        with self.changed:
            self._closed = True
            self.changed.notify_all()
