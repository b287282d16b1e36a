"""Pages of tickets. The middleware turns refusals of the throttler into 503 responses."""

from functools import partial

from django.db import transaction
from django.http import StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from claude_throttle import Priority
from claude_throttle.contrib.django import throttler
from tickets.models import Ticket
from tickets.summaries import question, summarise_later, summarise_now


def add(request):
    """Create a ticket, which is summarised in the background."""
    if request.method != "POST":
        return render(request, "tickets/new.html")
    with transaction.atomic():
        ticket = Ticket.objects.create(title=request.POST["title"], text=request.POST["text"])
        # After the commit: an earlier answer would find no row to be saved to.
        transaction.on_commit(partial(summarise_later, ticket))
    return redirect(ticket)


def show(request, pk):
    """Show a ticket; with POST summarise it first."""
    ticket = get_object_or_404(Ticket, pk=pk)
    if request.method == "POST":
        summarise_now(ticket)
        return redirect(ticket)
    return render(request, "tickets/ticket.html", {"ticket": ticket})


def draft(request, pk):
    """Stream an answer to the customer."""
    ticket = get_object_or_404(Ticket, pk=pk)
    # Opened here, where a refusal can still become a 503; read while the response is sent.
    stream = throttler.stream(
        **question(ticket, "Draft a friendly reply to"), priority=Priority.INTERACTIVE, timeout=20
    )
    return StreamingHttpResponse(_words(stream), content_type="text/plain; charset=utf-8")


def _words(stream):
    # If the client leaves, the generator is closed, and with it the connection to the API.
    with stream:
        yield from stream.text_stream
