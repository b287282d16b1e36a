"""Summaries of tickets: while somebody waits, and in the background."""

import logging
from functools import partial

from django.db import close_old_connections

from claude_throttle import ThrottleError
from claude_throttle.contrib.django import throttler
from tickets.models import Ticket

logger = logging.getLogger(__name__)


def question(ticket, task="Summarise in one sentence"):
    """Keywords of one call."""
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 300,
        "messages": [{"role": "user", "content": f"{task}: {ticket.text}"}],
    }


def text_of(message):
    """The answer's."""
    return message.content[0].text


def summarise_now(ticket):
    """Wait for it; ``timeout`` of the settings says how long. Raises what the middleware knows."""
    ticket.summary = text_of(throttler.call(**question(ticket)))
    ticket.save(update_fields=["summary"])


def summarise_later(ticket):
    """Return at once. What fails is left to ``manage.py summarise_tickets``."""
    try:
        future = throttler.submit(**question(ticket), timeout=None)
    except ThrottleError as error:
        logger.warning("ticket %d is not summarised yet: %s", ticket.pk, error)
    else:
        future.add_done_callback(partial(_save, ticket.pk))


def _save(pk, future):
    # In a thread of the throttler's, whose database connection no request opens or closes.
    close_old_connections()
    try:
        Ticket.objects.filter(pk=pk).update(summary=text_of(future.result()))
    except Exception:
        logger.exception("ticket %d is not summarised yet", pk)
    finally:
        close_old_connections()
