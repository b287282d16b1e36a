"""One client's connection: reads requests, sends responses. Used in the server's thread only.

:class:`Service` decides what is answered, as a :class:`ResponsePlan` of bytes and delays; this
module plays the plan on a socket. Delays are timers of the event loop, not sleeps, so one thread
serves any number of slow or stalled responses at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Optional, cast

from claude_throttle.testing import replies
from claude_throttle.testing.http_reader import BadRequest, HttpRequest, RequestReader
from claude_throttle.testing.plans import CLOSE, RESET, ResponsePart, ResponsePlan
from claude_throttle.testing.service import Service

#: Bytes a client may send ahead while it is being answered. Beyond that the socket is not read, and
#: TCP makes the client wait; without a bound a client that never stops would fill the memory.
READ_AHEAD = 1024 * 1024

logger = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """Answers requests one after the other; calls *response_ended* after each.

    Not thread-safe: asyncio calls it in the server's thread, and other threads must go through
    ``call_soon_threadsafe``. Pipelined requests wait in the reader until the response before them
    has ended, as HTTP/1.1 demands. Each plan that was begun is ended exactly once, also if the
    client disappears: otherwise its request would count as in flight until the server stops.
    """

    def __init__(
        self,
        service: Service,
        connections: set[Connection],
        response_ended: Callable[[], None],
    ) -> None:
        self._service = service
        self._connections = connections
        self._response_ended = response_ended
        self._reader = RequestReader()
        self._plan: Optional[ResponsePlan] = None
        self._parts: deque[ResponsePart] = deque()
        self._timer: Optional[asyncio.TimerHandle] = None
        self._without_body = False
        self._closing = False

    @property
    def is_answering(self) -> bool:
        """Whether a response has begun and not ended; it may be stalled."""
        return self._plan is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """The connection was closed, by either side: drop the rest of the response.

        A client that gives up after a read timeout comes here, too, and its request stops being in
        flight.
        """
        self._connections.discard(self)
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._parts.clear()
        self._end_plan()

    def data_received(self, data: bytes) -> None:
        """Bytes arrived: serve the next request, or keep them until the response has ended."""
        self._reader.feed(data)
        if self._plan is None:
            self._serve()
        elif self._reader.buffered > READ_AHEAD:
            self._transport.pause_reading()

    def abort(self) -> None:
        """Close at once, without finishing the response."""
        self._transport.abort()

    def release(self) -> None:
        """Continue a stalled response. Does nothing if this connection is not stalled."""
        if self._parts and self._parts[0].delay_seconds is None:
            self._parts.popleft()
            self._play()
            self._serve()

    def _serve(self) -> None:
        while self._plan is None and not self._closing:
            try:
                request = self._reader.next_request()
            except BadRequest as problem:
                return self._refuse(problem)
            if request is None:
                return self._wait_for_more()
            self._begin(request)
        return None

    def _wait_for_more(self) -> None:
        """Read on: no request is complete yet.

        Sends ``100 Continue`` if the client waits for it before it sends the body.
        """
        self._transport.resume_reading()
        if self._reader.take_continue_wanted():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, problem: BadRequest) -> None:
        """Answer bytes that are not HTTP, then close: where the next request begins is unknown."""
        body = f"{problem.reason}\n".encode()
        headers = {"content-type": "text/plain", "content-length": str(len(body))}
        headers["connection"] = "close"
        self._transport.write(replies.encode_head(problem.status, headers) + body)
        self._close()

    def _begin(self, request: HttpRequest) -> None:
        """Get the plan for *request* and start to play it.

        A function given by the user (latency, output tokens) may raise. The client then gets a 500
        and the log the traceback; without an answer the test would hang until its timeout.
        """
        try:
            plan = self._service.answer(request)
        except Exception:
            logger.exception("the answer could not be decided")
            plan = self._service.broken()
        if not request.keep_alive and plan.ending != RESET:
            plan = plan._replace(ending=CLOSE)
        self._without_body = request.method == "HEAD"
        self._plan = plan
        self._parts.extend(plan.parts)
        self._play()

    def _play(self) -> None:
        """Send the parts that are due.

        Stop at one that has to wait, for a timer or for release().
        """
        while self._parts:
            delay = self._parts[0].delay_seconds
            if delay is None:
                return
            if delay > 0:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(delay, self._after_delay)
                return
            self._send(self._parts.popleft())
        self._finish()

    def _after_delay(self) -> None:
        self._timer = None
        self._send(self._parts.popleft())
        self._play()
        self._serve()

    def _send(self, part: ResponsePart) -> None:
        """Send one part, and charge the output tokens that were produced while it was being made.

        Rate-limit headers that belong to the moment of the answer are encoded here and not earlier.
        A response to HEAD ends after its headers.
        """
        if part.output_tokens and self._plan is not None:
            self._service.produced(self._plan.model, part.output_tokens)
        data = part.data
        if part.head is not None and self._plan is not None:
            data = self._service.late_head(self._plan.model, part.head) + data
        if self._without_body:
            data = data[: data.index(b"\r\n\r\n") + 4]
        if data:
            self._transport.write(data)

    def _finish(self) -> None:
        ending = self._plan.ending if self._plan is not None else CLOSE
        self._end_plan()
        if ending == RESET:
            self._reset()
        elif ending == CLOSE:
            self._close()

    def _end_plan(self) -> None:
        if self._plan is not None:
            self._service.ended(self._plan)
            self._plan = None
            self._response_ended()

    def _close(self) -> None:
        self._closing = True
        self._transport.close()

    def _reset(self) -> None:
        self._closing = True
        # Lingering for zero seconds makes the kernel send RST in place of FIN.
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self._transport.abort()
