"""Message Batches: half the price, up to a day of patience, and limits of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Callable, NamedTuple, Optional

from claude_throttle.config.validation import require_timeout
from claude_throttle.errors import BatchIncomplete, DeadlineExceeded, InvalidCall
from claude_throttle.features.batches.client import BatchClient, CreationUncertain
from claude_throttle.features.batches.handle import BatchHandle, CreatedBatch
from claude_throttle.features.batches.result import BatchProgress, BatchResult
from claude_throttle.features.batches.upload import (
    BatchBounds,
    BatchUpload,
    close_all,
    read_request,
    split,
)
from claude_throttle.features.batches.wire_format import State, require_batch_id, require_custom_id

__all__ = ["BatchHandle", "BatchProgress", "BatchResult", "BatchState", "Batches"]

logger = logging.getLogger("claude_throttle")

#: Told of each batch before it is created, with None, and after that, with its id.
OnCreate = Callable[[Optional[str], Sequence[str]], object]


class BatchState(NamedTuple):
    """A batch of the workspace, whoever made it."""

    id: str
    ended: bool
    #: RFC 3339, the API's own clock.
    created_at: str
    progress: BatchProgress


class Batches:
    """``throttler.batches``. Thread-safe; good in forked children.

    Its requests go through the throttler's wire, at a pace of their own: batches have a quota of
    requests apart from messages, and take nothing from it.
    """

    def __init__(
        self,
        client: Callable[[], BatchClient],
        bounds: BatchBounds = BatchBounds(),  # noqa: B008 - frozen
    ) -> None:
        # Asked each time: a forked child has another one.
        self._client = client
        self._bounds = bounds

    def submit(
        self,
        requests: Iterable[Any],
        *,
        raw: bool = False,
        poll_seconds: Optional[float] = None,
        timeout: Optional[float] = None,
        on_create: Optional[OnCreate] = None,
    ) -> BatchHandle:
        """Send *requests* as batches, and return when the API has them all.

        A request is a dict of the Messages API's parameters, ``{"custom_id": …, "params": …}``, or
        a pair ``(custom_id, params)``; without a ``custom_id`` it gets one of its place and
        content. All are checked as those of submit() before the first is sent
        (:class:`InvalidCall`), and cut into batches of 100,000 requests or 256 MB; only one piece
        of them is in memory at a time, the rest in a temporary file.

        *poll_seconds*: between looks, instead of our own. *timeout*: seconds for sending. *raw*:
        messages as dicts. *on_create* is called as ``on_create(None, custom_ids)`` before each
        batch is created and as ``on_create(id, custom_ids)`` right after: store the id there, and
        a killed process loses nothing.

        A creation is sent again only if the API surely did nothing (429, 529, no connection). If
        it may have been created unheard (a lost answer, a 500), and if an earlier batch was,
        :class:`BatchIncomplete` is raised with the ids there are; else what the API says, as the
        SDK's exceptions, :class:`DeadlineExceeded`, :class:`AccountSuspended`, :class:`Closed`.
        """
        client = self._client()
        deadline = client.deadline(timeout)
        if poll_seconds is not None:
            require_timeout(poll_seconds)  # now: afterwards there would be ids to lose
        parts = split(requests, self._bounds)
        sent: list[CreatedBatch] = []
        try:
            states = [_create(client, part, deadline, sent, on_create) for part in parts]
        except Exception as error:
            if not sent and not isinstance(error, CreationUncertain):
                raise
            raise _incomplete(sent, len(parts), error) from (error.__cause__ or error)
        except BaseException:  # Ctrl-C, say: nobody gets a handle
            _tell_of_orphans(sent)
            raise
        finally:
            close_all(parts)
        return BatchHandle(client, sent, states, None, raw, poll_seconds)

    def resume(
        self,
        ids: Iterable[str],
        *,
        custom_ids: Optional[Iterable[str]] = None,
        raw: bool = False,
        poll_seconds: Optional[float] = None,
    ) -> BatchHandle:
        """A handle for batches that were sent before, in this process or another.

        With *custom_ids* results come in that order, those of no batch as "missing"; without,
        batch after batch, as the API tells them. Asks nothing yet.
        """
        if isinstance(ids, str):
            raise InvalidCall("ids must be a list of ids of batches, not one string")
        names = list(dict.fromkeys(require_batch_id(batch_id) for batch_id in ids))
        order = None if custom_ids is None else [require_custom_id(name) for name in custom_ids]
        if not names:
            raise InvalidCall("resume() needs at least one id of a batch")
        sent = [CreatedBatch(name, None) for name in names]
        return BatchHandle(self._client(), sent, [], order, raw, poll_seconds)

    def check(self, request: Any) -> str:
        """Its ``custom_id``, were it the first of submit(); raises :class:`InvalidCall` as that."""
        return read_request(request, 0)[0]

    def recent(self, count: int = 100, timeout: Optional[float] = None) -> list[BatchState]:
        """The newest batches of the key's workspace, newest first; a request for each hundred."""
        client = self._client()
        return [_shown(state) for state in client.recent(client.deadline(timeout), count)]


def _create(
    client: BatchClient,
    part: BatchUpload,
    deadline: Optional[float],
    sent: list[CreatedBatch],
    on_create: Optional[OnCreate],
) -> State:
    if on_create is not None:
        on_create(None, part.custom_ids)
    state = client.create(part.body, deadline)
    sent.append(CreatedBatch(state.id, part.custom_ids))
    part.close()
    logger.info("batch %s was created: %d requests", state.id, len(part.custom_ids))
    if on_create is not None:
        on_create(state.id, part.custom_ids)
    return state


def _tell_of_orphans(sent: list[CreatedBatch]) -> None:
    if sent:
        ids = ", ".join(one.id for one in sent)
        logger.warning("interrupted; these batches were created and go on: %s", ids)


def _incomplete(sent: list[CreatedBatch], wanted: int, error: Exception) -> BatchIncomplete:
    ids, unsure = tuple(one.id for one in sent), isinstance(error, CreationUncertain)
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
