"""Pages of tickets. What the throttler refuses is answered with 503 by the middleware."""

from functools import partial

from django.db import transaction
from django.http import StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from claude_throttle import Priority
from claude_throttle.contrib.django import throttler
from tickets.models import Ticket
from tickets.summaries import question, summarise_later, summarise_now


def add(request):
    """A new ticket, which is summarised while its author goes on."""
    if request.method != "POST":
        return render(request, "tickets/new.html")
    with transaction.atomic():
        ticket = Ticket.objects.create(title=request.POST["title"], text=request.POST["text"])
        # Not before others can see it: the answer may come sooner, and be saved to nothing.
        transaction.on_commit(partial(summarise_later, ticket))
    return redirect(ticket)


def show(request, pk):
    """A ticket; with POST it is summarised first."""
    ticket = get_object_or_404(Ticket, pk=pk)
    if request.method == "POST":
        summarise_now(ticket)
        return redirect(ticket)
    return render(request, "tickets/ticket.html", {"ticket": ticket})


def draft(request, pk):
    """An answer to the customer, word by word."""
    ticket = get_object_or_404(Ticket, pk=pk)
    # Opened here, where a refusal still becomes a 503; read when the response is sent.
    stream = throttler.stream(
        **question(ticket, "Draft a friendly reply to"), priority=Priority.INTERACTIVE, timeout=20
    )
    return StreamingHttpResponse(_words(stream), content_type="text/plain; charset=utf-8")


def _words(stream):
    # If the reader leaves, the generator is closed, and with it the connection to the API.
    with stream:
        yield from stream.text_stream
