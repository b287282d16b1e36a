"""Summaries of tickets: while a visitor waits, and in the background."""

import logging
from functools import partial

from django.db import close_old_connections

from claude_throttle import ThrottleError
from claude_throttle.contrib.django import throttler
from tickets.models import Ticket

logger = logging.getLogger(__name__)


def question(ticket, task="Summarise in one sentence"):
    """The keyword arguments of one call."""
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 300,
        "messages": [{"role": "user", "content": f"{task}: {ticket.text}"}],
    }


def text_of(message):
    """The text of a response."""
    return message.content[0].text


def summarise_now(ticket):
    """Wait for the summary, for ``timeout`` of the settings. The middleware handles its errors."""
    ticket.summary = text_of(throttler.call(**question(ticket)))
    ticket.save(update_fields=["summary"])


def summarise_later(ticket):
    """Return at once. Failed ones are left to ``manage.py summarise_tickets``."""
    try:
        future = throttler.submit(**question(ticket), timeout=None)
    except ThrottleError as error:
        logger.warning("ticket %d is not summarised yet: %s", ticket.pk, error)
    else:
        future.add_done_callback(partial(_save, ticket.pk))


def _save(pk, future):
    # Runs in a thread of the throttler, whose database connection Django does not close.
    close_old_connections()
    try:
        Ticket.objects.filter(pk=pk).update(summary=text_of(future.result()))
    except Exception:
        logger.exception("ticket %d is not summarised yet", pk)
    finally:
        close_old_connections()
