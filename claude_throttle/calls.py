"""The ways in: what a throttler is asked to send, or to let others send."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, overload

from claude_throttle.config.settings import Settings
from claude_throttle.config.timeouts import UNSET, Timeout, seconds_of
from claude_throttle.core.dispatch.call import Call, CallFuture
from claude_throttle.core.dispatch.permit import AdmissionOptions, Permit
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.queueing.look_ahead import default_look_ahead, in_order
from claude_throttle.core.queueing.ticket import Priority
from claude_throttle.transport.request import require_options

if TYPE_CHECKING:
    from anthropic.types import Message
    from requests.adapters import HTTPAdapter

    from claude_throttle.account.admission import Admission, AdmittedAttempt
    from claude_throttle.engine import Engine
    from claude_throttle.features.streaming.message_stream import MessageStream


class Calls:
    """The half of :class:`Throttler` that calls go through."""

    _settings: Settings

    def _process(self) -> Engine:
        raise NotImplementedError

    def _require_key(self) -> None:
        raise NotImplementedError

    @overload
    def submit(
        self,
        *,
        raw: Literal[True],
        priority: int = ...,
        tenant: Optional[str] = ...,
        timeout: Timeout = ...,
        block: bool = ...,
        extra_headers: Optional[Mapping[str, str]] = ...,
        **params: Any,
    ) -> Future[dict[str, Any]]: ...

    @overload
    def submit(
        self,
        *,
        raw: Literal[False] = ...,
        priority: int = ...,
        tenant: Optional[str] = ...,
        timeout: Timeout = ...,
        block: bool = ...,
        extra_headers: Optional[Mapping[str, str]] = ...,
        **params: Any,
    ) -> Future[Message]: ...

    def submit(
        self,
        *,
        raw: bool = False,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        block: bool = False,
        extra_headers: Optional[Mapping[str, str]] = None,
        **params: Any,
    ) -> Future[Any]:
        """Queue one call; *params* are those of the Messages API. Returns its future at once.

        The request is a snapshot: changing a list afterwards has no effect. *priority*: lower
        leaves first. *tenant*: those of equal priority share fairly. *timeout*: seconds for queue,
        retries and wire. *block*: wait for a place in a full queue. *raw*: the answer as a dict.

        Raises :class:`InvalidCall`, :class:`QuotaTooSmall`, :class:`QueueFull`, :class:`Closed`,
        :class:`CircuitOpen`, :class:`AccountSuspended`, or :class:`ConfigurationError` without a
        key. The future raises the official SDK's
        exceptions for what the API refuses, :class:`DeadlineExceeded`, :class:`Closed`,
        :class:`BrokenAnswer`.
        """
        self._require_key()
        call = self._process().accept(
            Call,
            params,
            priority=priority,
            tenant=tenant,
            timeout=seconds_of(timeout, self._settings.timeout),
            raw=raw,
            block=block,
            extra_headers=extra_headers,
        )
        return call.future

    @overload
    def call(self, *, raw: Literal[True], **options: Any) -> dict[str, Any]: ...

    @overload
    def call(self, *, raw: Literal[False] = ..., **options: Any) -> Message: ...

    def call(self, **options: Any) -> Any:
        """``submit(...).result()``; Ctrl-C ends the wait and the call."""
        future = self.submit(**options)
        try:
            return future.result()
        except BaseException:
            if isinstance(future, CallFuture):
                future.give_up()
            raise

    def stream(
        self,
        *,
        raw: bool = False,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        block: bool = False,
        extra_headers: Optional[Mapping[str, str]] = None,
        **params: Any,
    ) -> MessageStream:
        """Send one call in this thread, and return when its answer begins to come.

        ``with throttler.stream(…) as stream: for text in stream.text_stream: …``; the rest is
        told at :class:`MessageStream`. Refusals and errors are retried as those of any call until
        content comes, also while it is read: a second ``message_start`` is left out then. Once
        content has begun nothing is sent again. *timeout*: seconds until content, queue and
        retries included; after that, seconds without a sign of life (pings are one; 120 without
        a timeout). It bounds no whole answer. Raises what submit() and its future would raise.
        """
        self._require_key()
        params.pop("stream", None)
        return self._process().stream(
            params,
            priority=priority,
            tenant=tenant,
            timeout=seconds_of(timeout, self._settings.timeout),
            raw=raw,
            block=block,
            extra_headers=extra_headers,
        )

    def map(
        self,
        requests: Iterable[Mapping[str, Any]],
        *,
        look_ahead: Optional[int] = None,
        return_exceptions: bool = False,
        **common: Any,
    ) -> Iterator[Any]:
        """Answers to *requests*, in order; each is a dict of keywords for submit().

        Reads *look_ahead* ahead (twice ``max_concurrency``, or 1,000 if that is unbounded), so an
        endless iterable is fine; waits for a place instead of raising QueueFull. A failed call
        raises where its answer would be, and ends the iteration, unless *return_exceptions*
        yields the exception instead. Leaving early cancels what waits.
        """
        if look_ahead is None:
            look_ahead = default_look_ahead(self._settings.max_concurrency)
        submit = partial(self.submit, block=True, **common)
        return in_order(submit, requests, max(1, look_ahead), return_exceptions)

    def permit(
        self,
        *,
        model: str,
        input_tokens: float = 0,
        max_tokens: float = 0,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
    ) -> Permit:
        """Wait for the right to send one request yourself, at the same pace as all the others.

        A context manager; ``permit.settle(usage=…, headers=…, status=…)`` books what it really
        took, and teaches the pace what the server said. Calls made by this thread meanwhile ride
        on it: they are paced, but need no permit of their own.
        Raises :class:`DeadlineExceeded`, :class:`CircuitOpen`, :class:`AccountSuspended` or
        :class:`Closed`.
        """
        cost = Cost(1.0, float(input_tokens), float(max_tokens))
        return self._admission().permit(model, cost, self._terms(priority, tenant, timeout))

    def middleware(
        self,
        *,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
    ) -> Any:
        """For ``anthropic.Anthropic(middleware=[throttler.middleware()])``: the same pace for it.

        Each attempt at ``messages.create`` or ``stream``, the SDK's retries included, waits for its
        turn, and what was answered is heard as the answer to a call is. A stream holds its place
        until it is read to its end or closed. ``count_tokens`` has a pace of its own; everything
        else passes untouched. *timeout*: seconds to wait for a turn, of each attempt. The SDK's key
        is used, and should be of the same organization. Thread-safe, and good in forked children.

        The SDK's methods then raise, as they are, :class:`QuotaTooSmall`,
        :class:`DeadlineExceeded`, :class:`CircuitOpen`, :class:`AccountSuspended` and
        :class:`Closed`. Raises :class:`ConfigurationError` if the SDK is too old, and
        ``AsyncAnthropic`` a TypeError.
        """
        from claude_throttle.features.interop.sdk_middleware import (
            make_middleware,  # few programs need it
        )

        return make_middleware(self._outer_admission, self._terms(priority, tenant, timeout))

    def adapter(
        self,
        *,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        **options: Any,
    ) -> HTTPAdapter:
        """For ``session.mount("https://api.anthropic.com", throttler.adapter())``, with requests.

        Each POST to ``/v1/messages`` waits for its turn; its answer is heard as the answer to a
        call is, with ``stream=True`` until it is read to its end or closed. Everything else is as
        with middleware(). It sends nothing again: the session's owner sees what the API says, and
        a 429 pauses the lane, so that the next try waits. *options* are those of
        ``requests.adapters.HTTPAdapter`` without ``max_retries`` (:class:`ConfigurationError`).
        ``session.post()`` raises our errors as the SDK's methods do under middleware().
        """
        from claude_throttle.features.interop.requests_adapter import SessionAdapter  # few need it

        terms = self._terms(priority, tenant, timeout)
        return SessionAdapter(partial(self._admit_request, terms), **options)

    def _admit_request(
        self, terms: AdmissionOptions, method: str, path: str, read_body: Callable[[], Any]
    ) -> Optional[AdmittedAttempt]:
        return self._outer_admission().admit_request(method, path, read_body, terms)

    def _outer_admission(self) -> Admission:
        """For requests that others send. Raises ConfigurationError in testing mode."""
        raise NotImplementedError

    def _admission(self) -> Admission:
        return self._process().admission

    def _terms(self, priority: int, tenant: Optional[str], timeout: Timeout) -> AdmissionOptions:
        require_options(priority, tenant)
        return AdmissionOptions(priority, tenant, seconds_of(timeout, self._settings.timeout))
