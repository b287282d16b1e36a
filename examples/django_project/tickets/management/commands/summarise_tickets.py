"""``manage.py summarise_tickets``: tickets without summary, as fast as the quota allows."""

from django.core.management.base import BaseCommand

from claude_throttle import Priority
from claude_throttle.contrib.django import throttlers
from tickets.models import Ticket
from tickets.summaries import question, text_of


class Command(BaseCommand):
    """Visitors come first: these calls are sent when no other call is waiting."""

    help = __doc__

    def handle(self, **_options):
        """Save each summary as it comes; continue after a failure."""
        tickets = list(Ticket.objects.filter(summary="").order_by("pk"))
        answers = throttlers["batch"].map(
            map(question, tickets), priority=Priority.BATCH, return_exceptions=True
        )
        failed = 0
        for ticket, answer in zip(tickets, answers):
            if isinstance(answer, Exception):
                failed += 1
                self.stderr.write(f"{ticket}: {answer}")
            else:
                ticket.summary = text_of(answer)
                ticket.save(update_fields=["summary"])
        self.stdout.write(f"{len(tickets) - failed} summarised, {failed} failed")
