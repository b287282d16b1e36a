"""``Throttler``: what a program calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, Union, overload

from claude_throttle.config import wrong_use
from claude_throttle.config.settings import CHANGEABLE, FIELDS, QUOTAS, Settings
from claude_throttle.config.validation import UNSET, require_number, seconds_of
from claude_throttle.core.dispatch.call import CallFuture
from claude_throttle.core.dispatch.permit import AdmissionOptions, Permit
from claude_throttle.core.domain.cost import MOST_TOKENS, Cost
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.queueing.look_ahead import default_look_ahead, in_order
from claude_throttle.core.threads import exit_hooks
from claude_throttle.core.threads.clock import SYSTEM_CLOCK, Clock
from claude_throttle.core.threads.fork import importing
from claude_throttle.core.threads.local_values import ProcessLocal
from claude_throttle.errors import THROTTLER_CLOSED, Closed, ConfigurationError, InvalidCall
from claude_throttle.metrics.event_bus import Listener
from claude_throttle.metrics.recorder import Stats
from claude_throttle.transport import sdk
from claude_throttle.transport.request import require_options

if TYPE_CHECKING:
    from anthropic.types import Message
    from requests import Session
    from requests.adapters import HTTPAdapter
    from typing_extensions import Unpack

    from claude_throttle.account.admission import Admission, AdmittedAttempt
    from claude_throttle.account.limits import Limits
    from claude_throttle.config.call_options import (
        AnyRequest,
        Betas,
        CallOptions,
        EstimateOptions,
        ExtraFields,
        MapKeywords,
        StreamOptions,
    )
    from claude_throttle.config.settings import SettingsOptions
    from claude_throttle.config.validation import Timeout
    from claude_throttle.core.domain.priority import PriorityLike
    from claude_throttle.engine import Engine
    from claude_throttle.features.batches.api import Batches
    from claude_throttle.features.batches.client import BatchClient
    from claude_throttle.features.interop.requests_adapter import SessionAdapter
    from claude_throttle.features.sharing.virtual_queue import LineTicket
    from claude_throttle.features.streaming.message_stream import MessageStream
    from claude_throttle.features.test_mode.canned_transport import CannedLatency, CannedText
    from claude_throttle.features.test_mode.test_mode import CannedAnswers
    from claude_throttle.metrics.history import HistoryInterval


class Throttler:
    """Paces calls to the Claude API so that they keep to every quota, and returns futures.

        >>> throttler = Throttler(rpm=50, itpm=30_000, otpm=8_000)
        >>> message = throttler.call(model=model, max_tokens=100, messages=messages)

    :class:`Settings` explains every keyword; the environment fills in what is left out. A quota
    that is not configured is learned from the responses. Quotas hold for each group of models.

    Thread-safe: make one and share it. Fork-safe: a forked child starts with an empty queue, and
    its copies of the parent's futures raise :class:`Forked`. No thread starts before the first
    call. When the interpreter ends, submitted calls are finished; after Ctrl-C they are cancelled.
    As a context manager it closes itself, and cancels what is pending if the block raises.

    *on_event* is called with each :data:`Event` in the submitter's context. *clock* is for tests.
    Raises :class:`ConfigurationError` for settings that cannot work.
    """

    def __init__(
        self,
        settings: Optional[Settings] = None,
        *,
        on_event: Optional[Listener] = None,
        clock: Clock = SYSTEM_CLOCK,
        **options: Unpack[SettingsOptions],
    ) -> None:
        # Most of the package, and requests: a program that only imports this one should not load
        # them. Not later either: the first call may come from a thread while another one forks.
        with importing:
            from claude_throttle.engine import Engine

        self._make_engine = Engine
        self._settings = Settings.given(settings, options)
        if on_event is not None and not callable(on_event):
            raise ConfigurationError(
                f"on_event must be a function that takes an event, not {type(on_event).__name__}"
            )
        self._on_event = on_event
        self._clock = clock
        self._closed = False
        #: What was said already of requests that pass unpaced; see features/interop.
        self._notices: dict[str, object] = {}
        self._has_key = self._settings.has_key
        self._engines: ProcessLocal[Engine] = ProcessLocal(self._begin)
        #: Testing modes; the last one is in force.
        self._canned: list[CannedAnswers] = []
        if self._settings.testing:
            self.testing_mode()

    @property
    def settings(self) -> Settings:
        """The settings in force; reconfigure() changes them."""
        return self._settings

    @property
    def testing(self) -> bool:
        """Whether testing_mode() is in force: answers are canned, and no call is made."""
        return bool(self._canned)

    @property
    def closed(self) -> bool:
        """Whether drain() or close() was called: nothing is accepted any more."""
        return self._closed

    @property
    def batches(self) -> Batches:
        """Message Batches: half the price, results within a day; submit, resume, recent.

            >>> results = throttler.batches.submit(requests).result()

        Raises :class:`ConfigurationError` without a key and in testing mode, and :class:`Closed`.
        """
        from claude_throttle.features.batches.api import Batches  # few programs need it

        return Batches(self._batch_client)

    # -- calls -----------------------------------------------------------------------------------

    @overload
    def submit(
        self, *, raw: Literal[False] = ..., **options: Unpack[CallOptions]
    ) -> Future[Message]: ...

    @overload
    def submit(
        self, *, raw: Literal[True], **options: Unpack[CallOptions]
    ) -> Future[dict[str, Any]]: ...

    @overload
    def submit(
        self, *, raw: bool, **options: Unpack[CallOptions]
    ) -> Future[Union[Message, dict[str, Any]]]: ...

    def submit(
        self,
        *given: Any,
        raw: bool = False,
        priority: PriorityLike = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        block: bool = False,
        betas: Betas = None,
        extra_headers: ExtraFields = None,
        extra_body: ExtraFields = None,
        extra_query: ExtraFields = None,
        **params: Any,
    ) -> Future[Any]:
        """Queue one call; *params* are those of the Messages API. Returns its future at once.

            >>> future = throttler.submit(model=model, max_tokens=100, messages=messages)
            >>> message = future.result(timeout=60)

        The request is a snapshot: changing a list afterwards has no effect. It may hold what the
        SDK's may: a response's content, pydantic models, ``NOT_GIVEN``. *priority*: lower numbers
        go first, or a name as "interactive". *tenant*: tenants of equal priority share fairly.
        *timeout*: seconds for everything: queue, retries and the response. *block*: wait while the
        queue is full. *raw*: the result is a dict. *betas*: added to the ``anthropic-beta`` header.
        *extra_headers*: sent with this call in place of the account's own. *extra_body*: fields in
        place of the request's, or in addition. *extra_query*: added to the URL.

        Thread-safe. Never waits, except with *block*. In a forked child the parent's futures raise
        :class:`Forked`. Raises :class:`InvalidCall`, :class:`QuotaTooSmall`, :class:`QueueFull`,
        :class:`Closed`, :class:`CircuitOpen`, :class:`AccountSuspended`, or
        :class:`ConfigurationError` without a key. The future raises the official SDK's exceptions
        for what the API refuses, :class:`DeadlineExceeded`, :class:`Closed`,
        :class:`BrokenAnswer`.
        """
        if given:
            raise wrong_use.positional("submit", given)
        self._require_key()
        seconds = self._settings.timeout
        if timeout is not UNSET:
            seconds = seconds_of(timeout, seconds)
        if betas is not None:
            extra_headers = self._with_betas(betas, extra_headers)
        return self._engine().submit(
            params, raw, priority, tenant, seconds, block, extra_headers, extra_body, extra_query
        )

    @overload
    def call(self, *, raw: Literal[False] = ..., **options: Unpack[CallOptions]) -> Message: ...

    @overload
    def call(self, *, raw: Literal[True], **options: Unpack[CallOptions]) -> dict[str, Any]: ...

    @overload
    def call(
        self, *, raw: bool, **options: Unpack[CallOptions]
    ) -> Union[Message, dict[str, Any]]: ...

    def call(self, *given: Any, **options: Any) -> Any:
        """Make one call and wait for its result: ``submit(…).result()``, with its arguments.

            >>> message = throttler.call(model=model, max_tokens=100, messages=messages, timeout=60)

        Thread-safe. Ctrl-C ends the wait and the call. Raises what submit() and its future raise.
        """
        if given:
            raise wrong_use.positional("call", given)
        future = self.submit(**options)
        try:
            return future.result()
        except BaseException:
            if isinstance(future, CallFuture):
                future.give_up()
            raise

    @overload
    def stream(
        self, *, raw: Literal[False] = ..., **options: Unpack[StreamOptions]
    ) -> MessageStream: ...

    @overload
    def stream(
        self, *, raw: Literal[True], **options: Unpack[StreamOptions]
    ) -> MessageStream[dict[str, Any], dict[str, Any]]: ...

    @overload
    def stream(
        self, *, raw: bool, **options: Unpack[StreamOptions]
    ) -> MessageStream[Any, Union[Message, dict[str, Any]]]: ...

    def stream(
        self,
        *given: Any,
        raw: bool = False,
        priority: PriorityLike = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        block: bool = False,
        betas: Betas = None,
        extra_headers: ExtraFields = None,
        extra_body: ExtraFields = None,
        extra_query: ExtraFields = None,
        **params: Any,
    ) -> MessageStream[Any, Any]:
        """Send one call in this thread; return when its answer begins.

            >>> with throttler.stream(model=model, max_tokens=100, messages=messages) as stream:
            ...     for text in stream.text_stream:
            ...         print(text, end="")

        :class:`MessageStream` tells how to read it. Refusals and lost connections are retried like
        those of any call until content arrives; if the server begins a second time, its second
        ``message_start`` is left out. After that nothing is sent again. *timeout*: seconds until
        content arrives, queue and retries included; from then on, seconds without any event (pings
        count; 120 without a timeout). It does not bound the whole answer. The other arguments are
        submit()'s.

        Thread-safe; read one stream from one thread at a time. In a forked child reading it raises
        :class:`Forked`. Raises what submit() and its future raise.
        """
        if given:
            raise wrong_use.positional("stream", given)
        self._require_key()
        params.pop("stream", None)
        seconds = seconds_of(timeout, self._settings.timeout)
        if betas is not None:
            extra_headers = self._with_betas(betas, extra_headers)
        return self._engine().stream(
            params, raw, priority, tenant, seconds, block, extra_headers, extra_body, extra_query
        )

    @overload
    def map(
        self,
        requests: Iterable[AnyRequest],
        *,
        raw: Literal[False] = ...,
        return_exceptions: Literal[False] = ...,
        **common: Unpack[MapKeywords],
    ) -> Iterator[Message]: ...

    @overload
    def map(
        self,
        requests: Iterable[AnyRequest],
        *,
        raw: Literal[True],
        return_exceptions: Literal[False] = ...,
        **common: Unpack[MapKeywords],
    ) -> Iterator[dict[str, Any]]: ...

    @overload
    def map(
        self,
        requests: Iterable[AnyRequest],
        *,
        raw: Literal[False] = ...,
        return_exceptions: bool,
        **common: Unpack[MapKeywords],
    ) -> Iterator[Union[Message, Exception]]: ...

    @overload
    def map(
        self,
        requests: Iterable[AnyRequest],
        *,
        raw: Literal[True],
        return_exceptions: bool,
        **common: Unpack[MapKeywords],
    ) -> Iterator[Union[dict[str, Any], Exception]]: ...

    @overload
    def map(
        self,
        requests: Iterable[AnyRequest],
        *,
        raw: bool,
        return_exceptions: bool = ...,
        **common: Unpack[MapKeywords],
    ) -> Iterator[Union[Message, dict[str, Any], Exception]]: ...

    def map(
        self,
        requests: Iterable[Mapping[str, Any]],
        *,
        look_ahead: Optional[int] = None,
        return_exceptions: bool = False,
        **common: Any,
    ) -> Iterator[Any]:
        """The results of *requests*, in their order; each is a dict of submit()'s arguments.

            >>> for message in throttler.map(requests, raw=True):
            ...     print(message["content"])

        *common* holds for every call. Reads *look_ahead* requests ahead (twice ``max_concurrency``,
        or 1,000 without one), so an endless iterable is fine; waits where the queue is full. A
        failed call raises when its result is due, and ends the iteration; with *return_exceptions*
        the exception is yielded instead. Leaving early cancels the calls that wait.

        Use one iterator from one thread at a time. Raises what submit() and its futures raise.
        """
        if look_ahead is None:
            look_ahead = default_look_ahead(self._settings.max_concurrency)
        # A generator among them would be empty from the second row on.
        lasting = {n: list(v) if isinstance(v, Iterator) else v for n, v in common.items()}
        submit = partial(self.submit, block=True, **lasting)
        return in_order(submit, requests, max(1, look_ahead), return_exceptions)

    @wrong_use.permit_is_called
    def permit(
        self,
        *,
        model: str,
        input_tokens: float = 0,
        max_tokens: float = 0,
        priority: PriorityLike = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
    ) -> Permit:
        """Wait for the right to send one request yourself, at the pace of all other calls.

            >>> with throttler.permit(model=model, input_tokens=500, max_tokens=100) as permit:
            ...     message = client.messages.create(...)
            ...     permit.settle(message)

        *input_tokens* and *max_tokens* are booked when it is granted; ``settle(response)`` corrects
        them and passes on what the server said. It sends nothing, and nothing again. Calls that
        this thread makes meanwhile use its slot: they are paced, but do not count as one more in
        flight. *timeout*: seconds to wait for it.

        Thread-safe; a permit may be settled and closed by any thread, but not in a forked child.
        Raises :class:`DeadlineExceeded`, :class:`CircuitOpen`, :class:`AccountSuspended`,
        :class:`Closed`.
        """
        if not isinstance(model, str) or not model.strip():
            kind = type(model).__name__
            raise InvalidCall(f'model= must be a model\'s name, as "claude-haiku-4-5", not {kind}')
        cost = Cost(1.0, float(input_tokens), float(max_tokens))
        for name, tokens in (
            ("input_tokens=", cost.input_tokens),
            ("max_tokens=", cost.output_tokens),
        ):
            require_number(name, tokens, 0, MOST_TOKENS)
        return self._engine().account.admission.permit(
            model, cost, self._admission_options(priority, tenant, timeout)
        )

    @wrong_use.middleware_is_called
    def middleware(
        self,
        *,
        priority: PriorityLike = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
    ) -> Any:
        """Middleware for the official SDK, so that its requests keep to the same pace.

            >>> client = anthropic.Anthropic(middleware=[throttler.middleware()])

        Each attempt of ``messages.create`` or ``stream``, the SDK's retries included, waits for its
        turn, and its response counts like the response to a call. A stream holds its slot until it
        is read to its end or closed. ``count_tokens`` and batches have quotas of their own;
        everything else passes untouched. *timeout*: seconds for a request, all attempts and the
        waits between them included, until it is answered or its stream begins; the SDK's own
        ``timeout`` is for one attempt. The SDK's own key is sent, and should belong to the same
        organization.

        Thread-safe, and works in forked children. Raises :class:`ConfigurationError` if the SDK is
        too old, and ``AsyncAnthropic`` raises TypeError. The SDK's methods then also raise
        :class:`QuotaTooSmall`, :class:`DeadlineExceeded`, :class:`CircuitOpen`,
        :class:`AccountSuspended` and :class:`Closed`.
        """
        from claude_throttle.features.interop.sdk_middleware import make_middleware  # rarely used

        return make_middleware(
            self._outer_admission,
            self._admission_options(priority, tenant, timeout),
            self._clock,
            self._notices,
        )

    @wrong_use.adapter_is_called
    def adapter(
        self,
        *,
        priority: PriorityLike = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        **options: Any,
    ) -> HTTPAdapter:
        """An adapter for a ``requests`` session, so that its requests keep to the same pace.

            >>> session.mount(throttler.settings.base_url, throttler.adapter())

        mount() and session() put it where it belongs. An adapter that is mounted for a host by name
        paces that host; one for all hosts paces the API's and ``base_url`` only.

        Each POST to ``/v1/messages`` waits for its turn, and its response counts like the response
        to a call; with ``stream=True`` it holds its slot until it is read to its end or closed.
        Everything else is as with middleware(). Alone it sends nothing again, other than in
        session() and mount(): the session's owner sees each refusal, and after a 429 the next
        request waits. *options* are those of ``requests.adapters.HTTPAdapter``, without
        ``max_retries``.

        Thread-safe as ``requests`` is. Raises :class:`ConfigurationError` for ``max_retries``.
        ``session.post()`` raises what the SDK's methods raise with middleware().
        """
        return self._session_adapter(priority, tenant, timeout, options)

    @wrong_use.session_is_called
    def session(self, **options: Any) -> Session:
        """A ``requests`` session whose requests to the Claude API keep to the same pace.

            >>> session = throttler.session()
            >>> response = session.post("https://api.anthropic.com/v1/messages", json={…})

        ``mount(requests.Session(), …)``, with its arguments: what a rate limit refused is sent
        again in its turn. Key, headers and time-outs are the caller's, as in any session.
        """
        from claude_throttle.features.interop.requests_session import make_session  # few need it

        return self.mount(make_session(), **options)

    def mount(
        self,
        session: Session,
        *,
        priority: PriorityLike = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        **options: Any,
    ) -> Session:
        """Mount an ``adapter()`` in *session*, for ``base_url`` and for the API's own host.

            >>> session = throttler.mount(requests.Session())

        Other hosts are as before. An adapter of the session's own for ``base_url`` goes on sending,
        and its retries go on, each in its turn. Where they do not cover it, a request that a limit
        refused, and which only time mends, is sent again in its turn: a 429, and a 529 that names
        ``retry-after``. Neither was processed. That is as often as ``max_retries`` of the settings
        says, and within *timeout*; then the refusal is returned, as all other answers are.

        The arguments are those of adapter(). Returns *session*. Raises :class:`ConfigurationError`
        for what is no ``requests`` session.
        """
        from claude_throttle.features.interop.requests_session import mount_on  # few need it

        return mount_on(session, self._session_adapter(priority, tenant, timeout, options))

    @wrong_use.transport_is_called
    def transport(
        self,
        *,
        priority: PriorityLike = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        transport: Optional[Any] = None,
        **options: Any,
    ) -> Any:
        """A transport for ``httpx.Client``, so that its requests keep to the same pace.

            >>> client = httpx.Client(transport=throttler.transport())

        For SDKs of any release, for what is built on one (LangChain …), and for requests of your
        own; ``httpx`` and ``httpx2`` alike. Each attempt of a POST to ``/v1/messages`` at the
        throttler's ``base_url`` or the API's own host waits for its turn, and its response counts
        like the response to a call; a stream holds its slot until it is read to its end or closed.
        ``count_tokens`` and batches have quotas of their own; everything else passes, and other
        hosts are told of once in the log. *timeout*: seconds that a request may wait for its turn;
        ``httpx``'s own time-outs begin after it. Of a client that does not send again by itself, as
        the SDK does, a request that a rate limit refused is sent again, as with mount().

        *options* are those of ``httpx.HTTPTransport``: ``verify``, ``cert``, ``http1``, ``http2``,
        ``limits``, ``trust_env``, ``proxy``, ``uds``, ``local_address``, ``socket_options``. Or
        *transport* is a transport of your own that sends.

        Thread-safe, and works in forked children. Raises :class:`ConfigurationError` for
        ``retries``, and TypeError for other options; ``AsyncClient`` raises TypeError. Requests
        raise what the SDK's methods raise with middleware().
        """
        from claude_throttle.features.interop.httpx_transport import PacedTransport  # few need it

        return PacedTransport(
            self._outer_admission,
            self._admission_options(priority, tenant, timeout),
            self._clock,
            self._settings,
            self._notices,
            transport,
            **options,
        )

    # -- looking ---------------------------------------------------------------------------------

    @wrong_use.by_name_only("throttler.stats()", *Stats._fields)
    def stats(self) -> Stats:
        """The counters of this process's calls, frozen; ``print()`` it for a report. Thread-safe.

        >>> throttler.stats().succeeded
        0
        """
        return self._engine().stats()

    @wrong_use.by_name_only("throttler.limits()", "lanes", "in_flight", "paused", "store")
    def limits(self) -> Limits:
        """Each lane's limits: configured, learned and in force; ``print()`` it for a table.

            >>> throttler.limits().in_flight
            0

        Thread-safe; of this process, except for what processes share.
        """
        return self._engine().limits()

    def history(self) -> tuple[HistoryInterval, ...]:
        """The last ten minutes of this process's calls, oldest first, in intervals of ten seconds.

            >>> [interval.sent for interval in throttler.history()]
            []

        The last interval is not over yet; before the first call there is none. Takes a fixed amount
        of memory. Thread-safe.
        """
        return self._engine().history()

    def estimate_wait(self, **params: Unpack[EstimateOptions]) -> float:
        """Seconds that such a call, submitted now, would wait before it is sent; inf while paused.

            >>> seconds = throttler.estimate_wait(model=model, max_tokens=100, messages=messages)

        Takes submit()'s arguments, and submits nothing. Thread-safe. Raises :class:`InvalidCall`,
        :class:`Closed`.
        """
        return self._engine().estimate_wait(params)

    def line_up(
        self, ticket: Optional[LineTicket] = None, **params: Unpack[EstimateOptions]
    ) -> tuple[LineTicket, float]:
        """A place in the shared queue for such a call, and the seconds after which to come back.

            >>> ticket, seconds = throttler.line_up(model=model, max_tokens=100, messages=messages)

        For a job queue that would rather run the job later than wait here. Call it again with the
        *ticket*, in any process that shares the store: the call's turn may have moved. Calls that
        wait in call() or submit() never wait for tickets.

        Thread-safe; a ticket pickles. Asks the store once or twice (three times if the store lost
        the queue). Raises :class:`ConfigurationError` without ``shared=``, and
        :class:`InvalidCall`.
        """
        from claude_throttle.features.sharing.virtual_queue import (  # few programs need it
            line_up,
            line_up_alone,
        )

        ask = line_up_alone if self._canned and self._settings.shared is not None else line_up
        engine = self._engine()
        return ask(engine.account, *engine.priced(params), ticket)

    # -- steering --------------------------------------------------------------------------------

    def pause(self, *, everywhere: bool = False) -> None:
        """Send nothing until resume(); calls are still accepted, and responses still arrive.

            >>> throttler.pause()

        Of this process only. *everywhere*: of all processes that share the store and the key, also
        of those that start later, until somebody calls resume(everywhere=True); drain() and close()
        end a pause for their own process. If the store cannot be reached, the others are told when
        it can. Thread-safe. Raises :class:`ConfigurationError` for *everywhere* if ``shared=`` is
        not set.
        """
        self._pause(True, everywhere)

    def resume(self, *, everywhere: bool = False) -> None:
        """End a pause() or a suspension. A pause that the server asked for goes on.

            >>> throttler.resume()

        Of this process only; a pause(everywhere=True) goes on. *everywhere* ends that, too, in all
        processes; where another process itself called pause(), it stays paused. Thread-safe. Raises
        :class:`ConfigurationError` for *everywhere* if ``shared=`` is not set.
        """
        self._pause(False, everywhere)

    def _pause(self, paused: bool, everywhere: bool) -> None:
        if everywhere and self._settings.shared is None:
            raise ConfigurationError(
                "everywhere=True needs shared=: without a store no other process can be told"
            )
        for engine in self._all():
            engine.account.pause(paused, everywhere)

    def reconfigure(self, **options: Unpack[SettingsOptions]) -> None:
        """Change quotas, burst, headroom, max_concurrency, max_queue or timeout while running.

            >>> throttler.reconfigure(rpm=100)

        Calls that wait keep to the new values. Thread-safe; a forked child inherits them. Raises
        :class:`ConfigurationError` for any other setting, or a value that cannot work.
        """
        self._settings = self._settings.reconfigured(options)
        for engine in self._all():
            engine.reconfigure(self._settings)

    def preload(self) -> None:
        """Import the official SDK now instead of during the first call; takes 0.5 to 2 s.

        >>> throttler.preload()
        """
        sdk.load()

    def testing_mode(
        self, text: Optional[CannedText] = None, *, latency: CannedLatency = 0.0
    ) -> CannedAnswers:
        """Answer every call with *text*, after *latency* seconds, and send nothing; needs no key.

            >>> with throttler.testing_mode("Hello!", latency=0.5):
            ...     throttler.call(model=model, max_tokens=100, messages=messages)

        For work on a user interface. In force at once, for all threads, until its ``with`` block
        ends; without one, as long as the throttler. Without *text* a call that asks for JSON, or
        forces a tool, gets the least that fits. *text* and *latency* may be functions of the
        request's parameters, called in a sender thread; what one raises is the call's error.
        Quotas, priorities, events and our own errors work as usual; stats() and limits() are the
        mode's own, and ``shared=`` is ignored. Calls submitted before go on to the API. permit()
        grants as usual: what its holder sends is sent.

        Thread-safe, and in force in forked children. Raises :class:`ConfigurationError`. The
        setting ``testing=True`` (CLAUDE_THROTTLE_TESTING=1) turns it on from the start.
        """
        from claude_throttle.features.test_mode.canned_transport import CannedAnswer
        from claude_throttle.features.test_mode.test_mode import (
            CannedAnswers,  # no program in production
        )

        return CannedAnswers(
            self._canned,
            CannedAnswer(text, latency),
            lambda: self._settings,
            self._clock,
            lambda settings, transport: self._make_engine(
                settings, self._clock, self._on_event, transport
            ),
        )

    # -- the end ---------------------------------------------------------------------------------

    def drain(self, timeout: Optional[float] = None) -> int:
        """Accept no more calls, finish all others, end a pause(). Returns how many calls are left.

            >>> throttler.drain(timeout=30)
            0

        *timeout*: seconds to wait; None: as long as it takes. Thread-safe; Ctrl-C ends the wait.
        """
        give_up_at = None if timeout is None else self._clock.monotonic() + timeout
        self._closed = True
        return sum(engine.drain(self._seconds_until(give_up_at)) for engine in self._all())

    def close(self, timeout: Optional[float] = None, cancel_pending: bool = False) -> None:
        """Drain for *timeout* seconds (None: as long as it takes), then end what is left.

            >>> throttler.close(timeout=30)

        *cancel_pending* cancels the calls that have not been sent. Calls that are in flight after
        *timeout* are cut off and raise :class:`Closed`. Idempotent and thread-safe; closes what
        this process has, never its parent's. Ctrl-C ends the wait.
        """
        give_up_at = None if timeout is None else self._clock.monotonic() + timeout
        self._closed = True
        for engine in self._begun():
            engine.close(self._seconds_until(give_up_at), cancel_pending)
            exit_hooks.forget(engine)

    def __enter__(self) -> Throttler:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *_rest: object) -> None:
        if kind is not None:
            self.close(timeout=0, cancel_pending=True)
            return
        try:
            self.close()
        except BaseException:  # Ctrl-C while it waited
            self.close(timeout=0, cancel_pending=True)
            raise

    if not TYPE_CHECKING:  # a type checker finds a wrong name by itself

        def __getattr__(self, name: str) -> Any:
            raise wrong_use.no_attribute(self, name, FIELDS, CHANGEABLE)

    def __repr__(self) -> str:
        quotas = ", ".join(f"{n}={q.amount:g}" for n in QUOTAS if (q := getattr(self._settings, n)))
        state = "closed" if self._closed else "open"
        told = self._settings
        where = told.platform if told.calls_elsewhere else told.base_url
        where = "TESTING MODE, makes no call:" if self._canned else where
        return f"<Throttler {where} {quotas or 'limits learned'} {state}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Throttler holds threads and sockets; make one in each process instead")

    # -- inside ----------------------------------------------------------------------------------

    def _engine(self) -> Engine:
        """The engine in force in this process."""
        engines = self._engines
        if self._canned:
            # A slice, since another thread may end the mode between two looks.
            engines = next((canned.engines for canned in self._canned[-1:]), engines)
        engine = engines.mine()
        if self._closed:  # perhaps while there was no engine yet: asked after mine()
            engine.drain(0)
        return engine

    def _begun(self) -> list[Engine]:
        """This process's engines: the one that calls the API, and those of testing modes."""
        kinds = [self._engines, *(canned.engines for canned in list(self._canned))]
        return [engine for kind in kinds if (engine := kind.mine_if_any()) is not None]

    def _all(self) -> list[Engine]:
        """This process's engines, after making the one in force if there was none."""
        engine = self._engine()
        return self._begun() if self._canned else [engine]

    def _seconds_until(self, instant: Optional[float]) -> Optional[float]:
        return None if instant is None else max(0.0, instant - self._clock.monotonic())

    def _outer_admission(self) -> Admission:
        """Admits requests that other clients send."""
        if self._canned:
            raise ConfigurationError(
                "testing mode answers this throttler's own calls only: this request, of the SDK or "
                "of a session, would be a real one, and is refused"
            )
        return self._engine().account.admission

    def _batch_client(self) -> BatchClient:
        self._require_key()
        if self._closed:
            raise Closed(THROTTLER_CLOSED)
        return self._engine().batch_client()

    def _require_key(self) -> None:
        if not (self._has_key or self._canned):
            self._settings.require_key()

    def _begin(self) -> Engine:
        engine = self._make_engine(self._settings, self._clock, self._on_event)
        exit_hooks.finish_at_exit(engine)
        return engine

    def _session_adapter(
        self,
        priority: PriorityLike,
        tenant: Optional[str],
        timeout: Timeout,
        options: dict[str, Any],
    ) -> SessionAdapter:
        from claude_throttle.features.interop.requests_adapter import AdapterTerms
        from claude_throttle.features.interop.requests_session import make_adapter

        admit = partial(self._admit_request, self._admission_options(priority, tenant, timeout))
        base_url = self._settings.base_url
        max_retries = self._settings.max_retries
        terms = AdapterTerms(admit, base_url, self._notices, lambda: self._closed, max_retries)
        return make_adapter(terms, options)

    def _admit_request(
        self, options: AdmissionOptions, method: str, path: str, read_body: Callable[[], Any]
    ) -> Optional[AdmittedAttempt]:
        return self._outer_admission().admit_request(method, path, read_body, options)

    def _admission_options(
        self, priority: PriorityLike, tenant: Optional[str], timeout: Timeout
    ) -> AdmissionOptions:
        number, name, _headers = require_options(priority, tenant)
        return AdmissionOptions(number, name, seconds_of(timeout, self._settings.timeout))

    def _with_betas(self, betas: Any, extra_headers: Any) -> Any:
        from claude_throttle.transport.keywords import with_betas  # few calls have any

        return with_betas(betas, extra_headers, self._settings.default_headers)
