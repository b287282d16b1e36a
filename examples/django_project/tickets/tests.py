"""Without a key and without a network: canned answers, or a fake API that refuses."""

import io

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import TransactionTestCase

from claude_throttle.contrib.django import throttler, throttlers
from claude_throttle.testing import CREDIT_TOO_LOW, ClaudeApi
from tickets.models import Ticket


class TicketTests(TransactionTestCase):
    """Not TestCase: summaries are saved over another database connection."""

    def setUp(self):
        self.addCleanup(throttlers.reset)
        for name in throttlers:
            throttlers[name].testing_mode("It is about tea.")
        self.ticket = Ticket.objects.create(title="Tea", text="No tea again.")
        self.page = self.ticket.get_absolute_url()

    def summaries(self):
        return list(Ticket.objects.order_by("pk").values_list("summary", flat=True))

    def test_a_new_ticket_is_summarised_after_the_commit(self):
        self.assertContains(self.client.get("/tickets/"), 'name="title"')
        response = self.client.post("/tickets/", {"title": "Milk", "text": "Nor milk."})
        self.assertRedirects(response, f"/tickets/{self.ticket.pk + 1}/")
        throttler.drain()  # answered, and saved
        self.assertEqual(self.summaries(), ["", "It is about tea."])

    def test_people_may_wait_for_it(self):
        self.assertContains(self.client.post(self.page, follow=True), "It is about tea.")

    def test_a_draft_comes_word_by_word(self):
        first, second, *others = self.client.get(f"{self.page}draft/").streaming_content
        self.assertEqual(first + second + b"".join(others), b"It is about tea.")

    def test_the_command_does_what_is_left(self):
        call_command("summarise_tickets", stdout=(out := io.StringIO()))
        self.assertEqual(out.getvalue(), "1 summarised, 0 failed\n")
        self.assertEqual(self.summaries(), ["It is about tea."])

    def test_a_refusal_is_no_error_page(self):
        with ClaudeApi() as api:
            named = {"default": {"api_key": "any", "base_url": api.url}}
            with self.settings(CLAUDE_THROTTLE=named):
                api.script(CREDIT_TOO_LOW)
                for _ in range(2):  # refused by the API, then by the throttler
                    self.assertEqual(self.client.post(self.page).status_code, 503)
        self.assertEqual(len(api.arrivals), 1)

    def test_the_admin_links_to_the_status_page(self):
        self.client.force_login(User.objects.create_superuser("boss"))
        self.assertContains(self.client.get("/admin/"), 'href="/claude/"')
        self.assertEqual(self.client.get("/claude/").status_code, 200)
