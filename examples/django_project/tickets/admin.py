"""Tickets in the admin; templates/admin/base_site.html adds a link to the status page."""

from django.contrib import admin

from tickets.models import Ticket


@admin.register(Ticket)
class TicketAdmin(admin.ModelAdmin):
    """The list shows the summaries."""

    list_display = ("title", "summary")
