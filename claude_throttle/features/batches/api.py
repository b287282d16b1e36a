"""``throttler.batches``: Message Batches cost half, take up to a day, and have their own limits.

The trap: a batch is billed twice if it is created twice, and the API has no idempotency key. So a
creation whose outcome is not known is never repeated; the caller gets BatchIncomplete with all ids
that are known, and ``on_create`` lets it store each id before anything else can go wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from claude_throttle.config.validation import require_timeout
from claude_throttle.errors import BatchIncomplete, DeadlineExceeded, InvalidCall
from claude_throttle.features.batches.client import BatchClient, CreationUncertain
from claude_throttle.features.batches.handle import BatchHandle, CreatedBatch
from claude_throttle.features.batches.result import BatchProgress, BatchResult
from claude_throttle.features.batches.upload import (
    BatchBounds,
    BatchUpload,
    CreationExtras,
    close_all,
    creation_extras,
    read_request,
    split,
)
from claude_throttle.features.batches.wire_format import State, require_batch_id, require_custom_id

if TYPE_CHECKING:
    from claude_throttle.config.call_options import AnyBatchRequest, Betas, ExtraFields

__all__ = ["BatchHandle", "BatchProgress", "BatchResult", "BatchState", "Batches"]

logger = logging.getLogger("claude_throttle")

#: The type of ``on_create``: called with None before each batch is created, with its id after that,
#: and with the custom_ids of its requests both times.
OnCreate = Callable[[Optional[str], Sequence[str]], object]


class BatchState(NamedTuple):
    """The state of one batch of the workspace, which any program with its key may have created."""

    id: str
    #: Whether all its requests have ended, so that there are results.
    ended: bool
    #: RFC 3339, by the API's own clock.
    created_at: str
    progress: BatchProgress


#: The SDK's methods of batches, and what does here what they do.
OF_THE_SDK = {
    "create": "submit(requests)",
    "retrieve": "resume(ids).progress",
    "results": "resume(ids).result()",
    "list": "recent()",
    "cancel": "resume(ids).cancel()",
}


class Batches:
    """Message Batches of one throttler. Thread-safe, and works in forked children.

        >>> handle = throttler.batches.submit(requests)
        >>> results = handle.result()

    Requests about batches have a quota of their own, and take nothing from that of messages.
    """

    def __init__(
        self,
        client: Callable[[], BatchClient],
        bounds: BatchBounds = BatchBounds(),  # noqa: B008 - frozen
    ) -> None:
        # A function, called each time: a forked child has another client.
        self._client = client
        self._bounds = bounds

    if not TYPE_CHECKING:  # a type checker finds a wrong name by itself

        def __getattr__(self, name: str) -> Any:
            line = OF_THE_SDK.get(name)
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(f"{text}: write throttler.batches.{line}" if line else text)

    def submit(
        self,
        requests: Iterable[AnyBatchRequest],
        *,
        raw: bool = False,
        poll_seconds: Optional[float] = None,
        timeout: Optional[float] = None,
        on_create: Optional[OnCreate] = None,
        betas: Betas = None,
        extra_headers: ExtraFields = None,
        extra_body: ExtraFields = None,
        extra_query: ExtraFields = None,
    ) -> BatchHandle:
        """Send *requests* as batches, and return when the API has them all.

            >>> handle = throttler.batches.submit([("name", {"model": model, ...}), ...])

        A request is a dict of the Messages API's parameters, ``{"custom_id": …, "params": …}``, or
        a pair ``(custom_id, params)``; without a ``custom_id`` it gets one made of its position and
        content. All are checked as those of submit() before the first is sent
        (:class:`InvalidCall`), and split into batches of 100,000 requests or 256 MB; they wait in a
        temporary file, not in memory.

        *poll_seconds*: between polls, instead of our own. *timeout*: seconds for sending. *raw*:
        messages as dicts. *on_create* is called as ``on_create(None, custom_ids)`` before each
        batch is created and as ``on_create(id, custom_ids)`` right after: store the id there, and a
        killed process loses nothing. *betas*, *extra_headers*, *extra_body* and *extra_query* are
        those of submit(), for the creation of each batch; they hold for all its requests.

        A creation is sent again only if the API surely did nothing (429, 529, no connection). If it
        may have been created without our knowing (a lost answer, a 500), or if an earlier batch was
        created, :class:`BatchIncomplete` is raised with the ids that are known; otherwise the SDK's
        exceptions for what the API refuses, :class:`DeadlineExceeded`, :class:`AccountSuspended`,
        :class:`Closed`.
        """
        client = self._client()
        deadline = client.deadline(timeout)
        if poll_seconds is not None:
            require_timeout(poll_seconds)  # now: afterwards there would be ids to lose
        extras = creation_extras(
            betas, extra_headers, extra_body, extra_query, client.default_headers
        )
        parts = split(requests, self._bounds, extras.closing)
        created: list[CreatedBatch] = []
        try:
            states = [_create(client, part, deadline, created, on_create, extras) for part in parts]
        except Exception as error:
            if not created and not isinstance(error, CreationUncertain):
                raise
            raise _incomplete(created, len(parts), error) from (error.__cause__ or error)
        except BaseException:  # Ctrl-C, for example: the caller gets no handle
            _log_created(created)
            raise
        finally:
            close_all(parts)
        return BatchHandle(client, created, states, None, raw, poll_seconds)

    def resume(
        self,
        ids: Iterable[str],
        *,
        custom_ids: Optional[Iterable[str]] = None,
        raw: bool = False,
        poll_seconds: Optional[float] = None,
    ) -> BatchHandle:
        """A handle for batches that were created before, in this process or another.

            >>> handle = throttler.batches.resume(ids)

        With *custom_ids* the results come in that order, and those without one are "missing";
        otherwise batch after batch, in the API's order. Sends nothing yet. Raises
        :class:`InvalidCall`, :class:`Closed`.
        """
        if isinstance(ids, str):
            raise InvalidCall("ids must be a list of ids of batches, not one string")
        names = list(dict.fromkeys(require_batch_id(batch_id) for batch_id in ids))
        order = None if custom_ids is None else [require_custom_id(name) for name in custom_ids]
        if not names:
            raise InvalidCall("resume() needs at least one id of a batch")
        created = [CreatedBatch(name, None) for name in names]
        return BatchHandle(self._client(), created, [], order, raw, poll_seconds)

    def check(self, request: AnyBatchRequest) -> str:
        """The ``custom_id`` that submit() would give it as its first request.

            >>> throttler.batches.check(request)
            'request-0-1a2b3c4d'

        Sends nothing. Raises :class:`InvalidCall` as submit() does.
        """
        return read_request(request, 0)[0]

    def recent(self, count: int = 100, timeout: Optional[float] = None) -> list[BatchState]:
        """The newest batches of the key's workspace, newest first; one request for each hundred.

            >>> [batch.id for batch in throttler.batches.recent(10)]

        *timeout*: seconds. Raises what submit() raises, except BatchIncomplete.
        """
        client = self._client()
        return [_shown(state) for state in client.recent(client.deadline(timeout), count)]


def _create(
    client: BatchClient,
    part: BatchUpload,
    deadline: Optional[float],
    created: list[CreatedBatch],
    on_create: Optional[OnCreate],
    extras: CreationExtras,
) -> State:
    if on_create is not None:
        on_create(None, part.custom_ids)
    state = client.create(part.body, deadline, extras)
    created.append(CreatedBatch(state.id, part.custom_ids))
    part.close()
    client.recorder.count_batches(batches_created=1, batch_requests=len(part.custom_ids))
    logger.info("batch %s was created: %d requests", state.id, len(part.custom_ids))
    if on_create is not None:
        on_create(state.id, part.custom_ids)
    return state


def _log_created(created: list[CreatedBatch]) -> None:
    if created:
        ids = ", ".join(one.id for one in created)
        logger.warning("interrupted; these batches were created and go on: %s", ids)


def _incomplete(created: list[CreatedBatch], wanted: int, error: Exception) -> BatchIncomplete:
    ids, unsure = tuple(one.id for one in created), isinstance(error, CreationUncertain)
    cause = error.__cause__ if unsure else error
    names = f" ({', '.join(ids)})" if ids else ""
    also = (
        "; one more may have been, and is not sent again, as it would be billed twice: look for it "
        "in batches.recent()"
        if unsure
        else ""
    )
    late = " in time" if isinstance(cause, DeadlineExceeded) else ""
    return BatchIncomplete(
        f"{len(ids)} of {wanted} batches were created{late}{names}{also}; batches.resume(ids) gets "
        f"the results of those that were ({type(cause).__name__})",
        ids=ids,
        unsure=unsure,
    )


def _shown(state: State) -> BatchState:
    counts = (state.counts[name] for name in BatchProgress._fields)
    return BatchState(state.id, state.ended, state.created_at, BatchProgress(*counts))
